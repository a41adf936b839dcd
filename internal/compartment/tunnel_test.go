// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/network/model"
)

func TestTunnel(t *testing.T) {
	h := openHost(t, newInstance(t))
	want := model.Desired{Tunnels: []model.Tunnel{{Name: h.inst.TunnelDevice(4789), UDPPort: 4789}}}
	f := ensure(t, h, want)
	check(t, h, want)
	name := want.Tunnels[0].Name
	l, err := h.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := l.(*netlink.Vxlan); !ok || !v.FlowBased || v.Port != 4789 || v.MTU != tunnelMTU || f.Ifindex[name] != v.Index {
		t.Errorf("made %+v", l)
	}
	// Another life adopts it.
	h.forget()
	if again := ensure(t, h, want); again.Ifindex[name] != f.Ifindex[name] {
		t.Errorf("made anew: %d, was %d", again.Ifindex[name], f.Ifindex[name])
	}
	// Somebody else has the port of a second one.
	both := model.Desired{Tunnels: append(want.Tunnels, model.Tunnel{Name: h.inst.TunnelDevice(4790), UDPPort: 4790})}
	for _, same := range []bool{true, false} { // refused when it is made, or when it comes up
		theirs := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, FlowBased: true, Port: 4790, UDP6ZeroCSumRx: same}
		if err := errors.Join(h.nl.LinkAdd(theirs), h.nl.LinkSetUp(theirs)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Ensure(context.Background(), both); err == nil || !strings.Contains(err.Error(), "UDP port 4790") {
			t.Errorf("port taken: %v", err)
		}
		if err := h.nl.LinkDel(theirs); err != nil {
			t.Fatal(err)
		}
	}
	ensure(t, h, both)
	check(t, h, both)
	// What is not as wanted is replaced, what is not wanted goes.
	both.Tunnels[1].UDPPort = 4791
	ensure(t, h, both)
	prune(t, h, want)
	check(t, h, want)
	prune(t, h, model.Desired{})
	check(t, h, model.Desired{})
}
