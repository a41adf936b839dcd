// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// The schema spells flags as integers, as names and as "A, B" lists of names; all
// decode. Names are those of the schema, which has more than the Go constants.

type flagName struct {
	name string
	bit  uint32
}

func networkFlagNames() []flagName {
	return []flagName{
		{"EnableDnsProxy", 1}, {"EnableDhcpServer", 2}, {"EnableMirroring", 4}, {"EnableNonPersistent", 8},
		{"EnablePersistent", 16}, {"IsolateVSwitch", 32}, {"EnableFlowSteering", 64}, {"DisableSharing", 128},
		{"EnableFirewall", 256}, {"SuppressMediaDisconnect", 512}, {"DisableHostPort", 1024},
		{"WeakHostReceiveAdapter", 2048}, {"WeakHostSendAdapter", 4096}, {"EnableIov", 8192},
	}
}

func endpointFlagNames() []flagName {
	return []flagName{
		{"RemoteEndpoint", 1}, {"DisableInterComputeCommunication", 2}, {"EnableMirroring", 4},
		{"EnableLowInterfaceMetric", 8}, {"OverrideDNSServerOrder", 16}, {"EnableDhcp", 32},
	}
}

func subnetFlagNames() []flagName { return []flagName{{"DoNotReserveGatewayAddress", 1}} }

func natFlagNames() []flagName {
	return []flagName{{"LocalRoutedVip", 1}, {"IPv6", 2}, {"ExternalPortReserved", 4}}
}

func loadBalancerFlagNames() []flagName { return []flagName{{"DSR", 1}, {"IPv6", 2}} }

func loadBalancerPortMappingFlagNames() []flagName {
	return []flagName{{"ILB", 1}, {"LocalRoutedVIP", 2}, {"UseMux", 4}, {"PreserveDIP", 8}, {"VipExternalIP", 16}}
}

func decodeFlags(what string, data []byte, names []flagName) (uint32, error) {
	s := strings.TrimSpace(string(data))
	if s == "null" {
		return 0, nil
	}
	if !strings.HasPrefix(s, "\"") {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s %s: want an integer of 32 bits, a name or a list of names", what, s)
		}
		return uint32(n), nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	var flags uint32
next:
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '|' }) {
		if strings.EqualFold(word, "None") {
			continue
		}
		for _, n := range names {
			if strings.EqualFold(word, n.name) {
				flags |= n.bit
				continue next
			}
		}
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s %q: unknown name %q", what, text, word)
		}
		flags |= uint32(n)
	}
	return flags, nil
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *NetworkFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("network flags", b, networkFlagNames())
	*f = NetworkFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *EndpointFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("endpoint flags", b, endpointFlagNames())
	*f = EndpointFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *SubnetFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("subnet flags", b, subnetFlagNames())
	*f = SubnetFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *NatFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("NAT flags", b, natFlagNames())
	*f = NatFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *LoadBalancerFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("load balancer flags", b, loadBalancerFlagNames())
	*f = LoadBalancerFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *LoadBalancerPortMappingFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("port mapping flags", b, loadBalancerPortMappingFlagNames())
	*f = LoadBalancerPortMappingFlags(v)
	return err
}

// UnmarshalJSON accepts an integer, a name or a list of names.
func (f *HostComputeQueryFlags) UnmarshalJSON(b []byte) error {
	v, err := decodeFlags("query flags", b, []flagName{{"Detailed", 1}})
	*f = HostComputeQueryFlags(v)
	return err
}
