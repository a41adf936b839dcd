// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// policy is a policy of any object in v2's form.
type policy struct {
	Type     string
	Settings json.RawMessage `json:",omitempty"`
}

// members of a flat policy or of settings.
type members map[string]json.RawMessage

// name finds the member as it is spelled.
func (m members) name(want string) (string, bool) {
	if _, ok := m[want]; ok {
		return want, true
	}
	for k := range m {
		if strings.EqualFold(k, want) {
			return k, true
		}
	}
	return "", false
}

// take removes a member and returns its value; nil where there is none.
func (m members) take(want string) json.RawMessage {
	k, ok := m.name(want)
	if !ok {
		return nil
	}
	v := m[k]
	delete(m, k)
	if string(bytes.TrimSpace(v)) == "null" {
		return nil
	}
	return v
}

// rename gives a member another name.
func (m members) rename(from, to string) {
	if v := m.take(from); v != nil {
		m[to] = v
	}
}

func (m members) number(name string) (uint32, error) {
	v := m.take(name)
	if v == nil {
		return 0, nil
	}
	var n uint32
	if json.Unmarshal(v, &n) != nil {
		return 0, refuse(hcn.HCN_E_INVALID_POLICY, name, "%s is not a number of its range", v)
	}
	return n, nil
}

func (m members) set(name string, v any) { m[name], _ = encode(v) }

// form is how one type of policy differs between the versions.
type form struct {
	v1, v2 string
	names  [][2]string // members, v1 and v2, that differ in name only
	up     func(members) error
	down   func(members)
}

// forms lists what v1 has a form of its own for.
func forms() []form {
	return []form{
		{v1: "NAT", v2: string(hcn.PortMapping), up: natUp, down: natDown},
		{v1: "ACL", v2: string(hcn.ACL), up: aclUp, down: aclDown},
		{v1: "PA", v2: string(hcn.NetworkProviderAddress), names: [][2]string{{"PA", "ProviderAddress"}}},
		{v1: "VLAN", v2: string(hcn.VLAN), names: [][2]string{{"VLAN", "IsolationId"}}},
		{v1: "VSID", v2: string(hcn.VSID), names: [][2]string{{"VSID", "IsolationId"}}},
		{v1: "QOS", v2: string(hcn.QOS)},
		{v1: "OutBoundNAT", v2: string(hcn.OutBoundNAT), names: [][2]string{{"VIP", "VirtualIP"}, {"ExceptionList", "Exceptions"}}},
		{v1: "ROUTE", v2: string(hcn.SDNRoute)},
		{v1: "PROXY", v2: string(hcn.L4Proxy), names: [][2]string{{"ExceptionList", "Exceptions"}, {"OutboundNat", "OutboundNAT"}}},
	}
}

// policyUp translates one v1 policy. Isolation may become two.
func policyUp(raw json.RawMessage) ([]policy, error) {
	m := members{}
	if json.Unmarshal(raw, &m) != nil {
		return nil, refuse(hcn.HCN_E_INVALID_POLICY, "", "a policy is a JSON object")
	}
	var typ string
	if json.Unmarshal(m.take("Type"), &typ) != nil || typ == "" {
		return nil, refuse(hcn.HCN_E_INVALID_POLICY_TYPE, "Type", "a policy needs a Type")
	}
	if _, ok := m.name("Settings"); ok {
		return []policy{{typ, m.take("Settings")}}, nil
	}
	if strings.EqualFold(typ, "Isolation") {
		return isolation(m)
	}
	for _, f := range forms() {
		if !strings.EqualFold(f.v1, typ) {
			continue
		}
		typ = f.v2
		for _, n := range f.names {
			m.rename(n[0], n[1])
		}
		if f.up != nil {
			if err := f.up(m); err != nil {
				return nil, err
			}
		}
	}
	settings, err := encode(m)
	return []policy{{typ, settings}}, err
}

// isolation has the members of VLAN and VSID; zero is none.
func isolation(m members) (out []policy, err error) {
	for _, t := range []hcn.SubnetPolicyType{hcn.VLAN, hcn.VSID} {
		n, err := m.number(string(t))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			continue
		}
		p := policy{Type: string(t)}
		if p.Settings, err = encode(hcn.VlanPolicySetting{IsolationId: n}); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func policiesUp(raw []json.RawMessage) (out []policy, err error) {
	for i, r := range raw {
		ps, err := policyUp(r)
		if err != nil {
			return nil, at(fmt.Sprintf("Policies[%d]", i), err)
		}
		out = append(out, ps...)
	}
	return out, nil
}

// policyDown is the v1 form of a stored policy.
func policyDown(typ string, settings json.RawMessage) json.RawMessage {
	m := members{}
	if len(settings) > 0 && json.Unmarshal(settings, &m) != nil || m == nil {
		m = members{}
	}
	for _, f := range forms() {
		if f.v2 != typ {
			continue
		}
		for _, n := range f.names {
			m.rename(n[1], n[0])
		}
		if f.down != nil {
			f.down(m)
		}
		return flatten(f.v1, m)
	}
	out, _ := encode(policy{typ, settings})
	return out
}

// flatten writes members after their Type.
func flatten(typ string, m members) json.RawMessage {
	head, _ := encode(struct{ Type string }{typ})
	rest, _ := encode(m)
	if len(m) == 0 {
		return head
	}
	return append(append(head[:len(head)-1:len(head)-1], ','), rest[1:]...)
}

// protocols that v1 spells as words.
func protocols() map[string]uint32 { return map[string]uint32{"TCP": 6, "UDP": 17, "SCTP": 132} }

func natUp(m members) error {
	if v := m.take("Protocol"); v != nil {
		n, err := protocolOf(v)
		if err != nil {
			return err
		}
		m.set("Protocol", n)
	}
	if string(m.take("ExternalPortReserved")) == "true" {
		flags, err := m.number("Flags")
		if err != nil {
			return err
		}
		m.set("Flags", flags|uint32(natPortReserved))
	}
	return nil
}

// natPortReserved of the schema has no Go name there.
const natPortReserved hcn.NatFlags = 4

// protocolOf reads a word, a number in a string, or a number.
func protocolOf(v json.RawMessage) (uint32, error) {
	var s string
	if json.Unmarshal(v, &s) != nil {
		s = string(v)
	}
	if s == "" {
		return 0, nil
	}
	if n, ok := protocols()[strings.ToUpper(s)]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, refuse(hcn.HCN_E_INVALID_POLICY, "Protocol", "%q is not TCP, UDP or a number", s)
	}
	return uint32(n), nil
}

func natDown(m members) {
	n, _ := m.number("Protocol")
	if n != 0 {
		word := strconv.Itoa(int(n))
		for w, p := range protocols() {
			if p == n {
				word = w
			}
		}
		m.set("Protocol", word)
	}
	flags, _ := m.number("Flags")
	if flags&uint32(natPortReserved) != 0 {
		m.set("ExternalPortReserved", true)
	}
	if flags &^= uint32(natPortReserved); flags != 0 {
		m.set("Flags", flags)
	}
}

// aclUp: v1 has single numbers beside the lists; a list that is there wins.
func aclUp(m members) error {
	for _, one := range [][2]string{{"Protocol", "Protocols"}, {"LocalPort", "LocalPorts"}, {"InternalPort", "LocalPorts"}, {"RemotePort", "RemotePorts"}} {
		n, err := m.number(one[0])
		if err != nil {
			return err
		}
		if k, ok := m.name(one[1]); n != 0 && (!ok || string(m[k]) == `""`) {
			m.take(one[1])
			m.set(one[1], strconv.Itoa(int(n)))
		}
	}
	return nil
}

// aclDown gives lists of one their number, too: older programs look at that.
func aclDown(m members) {
	for _, one := range [][2]string{{"Protocol", "Protocols"}, {"LocalPort", "LocalPorts"}, {"RemotePort", "RemotePorts"}} {
		var s string
		if k, ok := m.name(one[1]); ok && json.Unmarshal(m[k], &s) == nil {
			if n, err := strconv.ParseUint(s, 10, 16); err == nil && n != 0 {
				m.set(one[0], n)
			}
		}
	}
}
