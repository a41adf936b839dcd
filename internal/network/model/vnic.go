// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"strings"
	"unicode"

	"gatehouse.dev/gatehouse/hcn"
)

const (
	// interfaceParameters has no Go name in the original.
	interfaceParameters hcn.EndpointPolicyType = "InterfaceParameters"

	// leastMTU4 is what RFC 791 section 3.2 demands, leastMTU6 RFC 8200 section 5:
	// below it Linux takes a device's addresses away.
	leastMTU4, leastMTU6 = 68, 1280
	// maxAlias is IFALIASZ less its end (linux/if.h).
	maxAlias = 255
)

// vnicSettings is what the policies EncapOverhead, InterfaceParameters and PortName
// say of an endpoint's device.
type vnicSettings struct {
	mtu, overhead uint16 // 0 = not said
	alias         string
}

// add reads one policy; others say nothing.
func (v *vnicSettings) add(p hcn.EndpointPolicy) error {
	switch p.Type {
	case hcn.EncapOverhead:
		var s hcn.EncapOverheadEndpointPolicySetting
		if err := decodeSettings(p.Settings, &s); err != nil {
			return err
		}
		v.overhead = s.Overhead
	case interfaceParameters:
		var s struct{ Mtu uint16 }
		if err := decodeSettings(p.Settings, &s); err != nil {
			return err
		}
		if s.Mtu != 0 && s.Mtu < leastMTU4 {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.Mtu", "%d: IPv4 needs %d", s.Mtu, leastMTU4)
		}
		v.mtu = s.Mtu
	case hcn.PortName:
		var s hcn.PortnameEndpointPolicySetting
		if err := decodeSettings(p.Settings, &s); err != nil {
			return err
		}
		if len(s.Name) > maxAlias || strings.ContainsFunc(s.Name, unicode.IsControl) {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.Name", "%.40q: an interface's alias is at most %d bytes, none of them a control character", s.Name, maxAlias)
		}
		v.alias = s.Name
	}
	return nil
}

// vnicSettingsOf are an endpoint's; its policies were checked when they came.
func vnicSettingsOf(policies []hcn.EndpointPolicy) (v vnicSettings) {
	for _, p := range policies {
		_ = v.add(p)
	}
	if v.mtu != 0 {
		v.overhead = 0
	}
	return v
}

// checkMTU holds a new list of policies against the endpoint's addresses.
func checkMTU(e *Endpoint, policies []hcn.EndpointPolicy) error {
	for i, p := range policies {
		var v vnicSettings
		if p.Type != interfaceParameters || v.add(p) != nil || v.mtu == 0 || v.mtu >= leastMTU6 {
			continue
		}
		for _, c := range e.Doc.IpConfigurations {
			if strings.Contains(c.IpAddress, ":") {
				return refuseAt(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Policies[%d].Settings.Mtu", i), "%d: the address %s needs %d", v.mtu, c.IpAddress, leastMTU6)
			}
		}
	}
	return nil
}
