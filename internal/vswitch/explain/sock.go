// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Socket tells what the socket hooks make of a destination that a process of the
// host asks for. ok is false where it stays what it is. The step's verdict is
// "rewrite", or "drop" where the call fails. Of several backends, which the hooks
// choose at random, to is one.
func Socket(s Switch, proto uint8, dst netip.AddrPort) (to netip.AddrPort, step Step, ok bool) {
	a := addr(dst.Addr().As16())
	switch {
	case a == addr4(0):
		a = addr(netip.AddrFrom4([4]byte{127, 0, 0, 1}).As16())
	case a == addr{}:
		a[15] = 1
	}
	w := walk{s: &s}
	sv := s.find(a, dst.Port(), 0, proto, ip(a).IsLoopback() || w.isHost(a), svcHost)
	if sv == nil {
		return dst, step, false
	}
	step = Step{Layer: "socket", Rule: sv.String(), Verdict: "rewrite"}
	var all []string
	for i := range sv.Count {
		id := s.Rows.Slot[vswitch.SlotKey{Svc: sv.Id, Bank: sv.Bank, I: i}]
		m, known := s.member(sv.Id, id)
		if !known {
			continue
		}
		at := netip.AddrPortFrom(ip(m.Addr.B), be(m.PortBe))
		if !to.IsValid() {
			to, step.Object = at, "another host"
			if m.Port != 0 {
				step.Object = w.portName(m.Port)
			}
		}
		if !slices.Contains(all, at.String()) {
			all = append(all, at.String())
		}
	}
	switch {
	case len(all) == 0:
		step.Verdict, step.Reason = "drop", sv.name+" has no backend: the call fails with ECONNREFUSED"
		if sv.Flags&svcDrop != 0 {
			step.Reason = sv.name + " has no backend and keeps silent then: the call fails with EPERM"
		}
		return dst, step, true
	case len(all) == 1:
		step.Reason = fmt.Sprintf("%s of %s; the process's socket connects to %s instead of %s", sv.name, step.Object, to, dst)
	default:
		step.Reason = fmt.Sprintf("%s; the process's socket connects to one of %s instead of %s", sv.name, strings.Join(all, ", "), dst)
	}
	return to, step, true
}
