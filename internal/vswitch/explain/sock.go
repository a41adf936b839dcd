// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Socket tells what the socket hooks make of a destination that a process of the
// host asks for. ok is false where it stays what it is.
func Socket(s Switch, proto uint8, dst netip.AddrPort) (to netip.AddrPort, step Step, ok bool) {
	if dst.Port() == 0 {
		return dst, step, false
	}
	a := addr(dst.Addr().As16())
	switch {
	case a == addr4(0):
		a = addr(netip.AddrFrom4([4]byte{127, 0, 0, 1}).As16())
	case a == addr{}:
		a[15] = 1
	}
	loop := ip(a).IsLoopback()
	w := walk{s: &s}
	if !loop && !w.isHost(a) {
		return dst, step, false
	}
	sv := s.svc(a, dst.Port(), 0, proto, uint8(bpf.SwitchGhSvcScopeGH_SCOPE_ANY))
	if sv == nil && loop {
		sv = s.svc(a, dst.Port(), 0, proto, uint8(bpf.SwitchGhSvcScopeGH_SCOPE_HOST))
	}
	if sv == nil {
		sv = s.svcAny(a, dst.Port(), proto)
	}
	if sv == nil {
		return dst, step, false
	}
	b, active := w.backendRow(s.pick(sv, 0))
	if !active || ip(b.Addr.B).Is4() != ip(a).Is4() {
		return dst, step, false
	}
	to = netip.AddrPortFrom(ip(b.Addr.B), be(b.PortBe))
	return to, Step{
		Layer: "socket", Object: w.portName(b.Port), Rule: sv.String(), Verdict: "rewrite",
		Reason: fmt.Sprintf("a published port of %s; the process's socket connects to %s instead of %s", w.portName(b.Port), to, dst),
	}, true
}
