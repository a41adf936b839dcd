// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// redirectPolicy is an L4WFPPROXY policy, checked.
type redirectPolicy struct {
	Redirect        // without the endpoint's addresses: Local is what LocalAddresses says
	priority uint32 // lower is asked first
}

// parseRedirect reads the settings.
func parseRedirect(raw json.RawMessage) (r redirectPolicy, err error) {
	bad := func(field, format string, args ...any) error {
		return refuseAt(hcn.HCN_E_INVALID_POLICY, field, format, args...)
	}
	var s hcn.L4WfpProxyPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return r, err
	}
	if r.In, err = parseProxySide("Inbound", s.InboundProxyPort, s.InboundExceptions); err != nil {
		return r, err
	}
	if r.Out, err = parseProxySide("Outbound", s.OutboundProxyPort, s.OutboundExceptions); err != nil {
		return r, err
	}
	if r.In.Port == 0 && r.Out.Port == 0 {
		return r, bad("OutboundProxyPort", "neither it nor InboundProxyPort is given: there is nothing to redirect")
	}
	t := s.FilterTuple
	protocols, others, err := parseProtocols(t.Protocols)
	switch {
	case err != nil:
		return r, bad("FilterTuple.Protocols", "%v", err)
	case (others || len(protocols) > 0) && !slices.Contains(protocols, 6):
		return r, bad("FilterTuple.Protocols", "%q: only 6 (TCP) can be redirected", t.Protocols)
	}
	if r.Local, _, err = parseSide(t.LocalAddresses, nil); err != nil {
		return r, bad("FilterTuple.LocalAddresses", "%v", err)
	}
	if r.Remote, _, err = parseSide(t.RemoteAddresses, nil); err != nil {
		return r, bad("FilterTuple.RemoteAddresses", "%v", err)
	}
	if r.LocalPorts, err = parsePorts(t.LocalPorts); err != nil {
		return r, bad("FilterTuple.LocalPorts", "%v", err)
	}
	if r.RemotePorts, err = parsePorts(t.RemotePorts); err != nil {
		return r, bad("FilterTuple.RemotePorts", "%v", err)
	}
	r.priority = cmp.Or(uint32(t.Priority), defaultPriority)
	if r.User, err = parseUser(s.UserSID); err != nil {
		return r, bad("UserSID", "%v", err)
	}
	return r, nil
}

func parseProxySide(name, port string, except hcn.ProxyExceptions) (p ProxySide, err error) {
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return p, refuseAt(hcn.HCN_E_INVALID_POLICY, name+"ProxyPort", "%q is not a port from 1 to 65535", port)
		}
		p.Port = uint16(n)
	}
	if p.Except, _, err = parseSide(strings.Join(except.IpAddressExceptions, ","), nil); err != nil {
		return p, refuseAt(hcn.HCN_E_INVALID_POLICY, name+"Exceptions.IpAddressExceptions", "%v", err)
	}
	if p.ExceptPorts, err = parsePorts(strings.Join(except.PortExceptions, ",")); err != nil {
		return p, refuseAt(hcn.HCN_E_INVALID_POLICY, name+"Exceptions.PortExceptions", "%v", err)
	}
	return p, nil
}

// parseUser: "1337" and "uid:1337" are a user of this host, a SID is one by the
// configuration.
func parseUser(s string) (string, error) {
	number := strings.TrimPrefix(s, "uid:")
	if n, err := strconv.ParseUint(number, 10, 32); err == nil && n != 1<<32-1 {
		return strconv.FormatUint(n, 10), nil
	}
	if s == "" || number == s && strings.HasPrefix(s, "S-1-") {
		return s, nil
	}
	return "", fmt.Errorf("%q is neither a user's number, as 1337 or uid:1337, nor a SID", s)
}

// checkRedirects refuses what no rule could be made of: a user that is nobody here, an
// endpoint in no namespace of its own.
func (w *World) checkRedirects(e *Endpoint, policies []hcn.EndpointPolicy, in Input) error {
	for i, p := range policies {
		if p.Type != hcn.L4WFPPROXY {
			continue
		}
		field := fmt.Sprintf("Policies[%d]", i)
		r, err := parseRedirect(p.Settings)
		if err != nil {
			return at(field+".Settings", err)
		}
		if ns, ok := w.namespaces.get(e.Doc.HostComputeNamespace); ok && ns.isHostOwn() {
			return at(field, w.noRedirect(e, "in the host's"))
		}
		if ns, ok := w.namespaces.get(e.Doc.HostComputeNamespace); ok && ns.Taken {
			return at(field, w.noRedirect(e, "a library OS's, whose connections the namespace does not see"))
		}
		if e.VM != nil {
			return at(field, w.noRedirect(e, "a port of a virtual machine"))
		}
		if _, known := in.Users[r.User]; strings.HasPrefix(r.User, "S-") && !known {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, field+".Settings.UserSID",
				"%q is nobody's here; name a user by number, as uid:1337, or map it in the configuration: network.users", r.User)
		}
	}
	return nil
}

func (w *World) noRedirect(e *Endpoint, is string) *Error {
	return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "L4WFPPROXY needs a namespace of its own; %s is %s", w.endpointLabel(e.Doc.Id), is)
}

func (e *Endpoint) redirects() (out []redirectPolicy) {
	for _, p := range e.Doc.Policies {
		if p.Type == hcn.L4WFPPROXY {
			if r, err := parseRedirect(p.Settings); err == nil {
				out = append(out, r)
			}
		}
	}
	return out
}

// compileRedirects are those of endpoints that share a namespace, in the order they
// are asked. Each is about addresses of its endpoint.
func compileRedirects(endpoints []*Endpoint) []Redirect {
	var all []redirectPolicy
	for _, e := range endpoints {
		for _, r := range e.redirects() {
			limit := r.Local
			r.Local = nil
			for _, a := range e.addrs {
				within := func(p netip.Prefix) bool { return p.Contains(a.Addr()) }
				if len(limit) == 0 || slices.ContainsFunc(limit, within) {
					r.Local = append(r.Local, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
				}
			}
			if len(r.Local) > 0 {
				all = append(all, r)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b redirectPolicy) int { return cmp.Compare(a.priority, b.priority) })
	var out []Redirect
	for _, r := range all {
		out = append(out, r.Redirect)
	}
	return out
}

// ProxySide is what a Redirect does with one direction.
type ProxySide struct {
	Port        uint16              // of the proxy; 0 = the direction is left alone
	Except      []netip.Prefix      // addresses of the other end that are left alone
	ExceptPorts []vswitch.PortRange // likewise, ports that are asked for
}

// Redirect gives TCP connections of a compartment to a proxy in it: what is begun there
// to Out.Port on loopback, what comes in to In.Port at the address it was for. A
// connection has one end in Local, with a port in LocalPorts, and the other one in Remote
// and RemotePorts; an empty list but Local is everything.
type Redirect struct {
	Local, Remote           []netip.Prefix
	LocalPorts, RemotePorts []vswitch.PortRange
	In, Out                 ProxySide
	// User of the proxy, whose own connections are left alone: a number of the host, or
	// a SID. "" = nobody's are.
	User string
}
