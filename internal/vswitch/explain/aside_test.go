// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"errors"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestAside: where frames go by MAC, a conversation that somebody began in the
// name of c lets b's "answer" back to him, but does not open c's own port for it.
func TestAside(t *testing.T) {
	l := newLab(t)
	var steps []Trace
	var err error
	l.in(func() {
		b := newSickbed(l)
		b.drop(bedHost1)
		n := b.net(1)
		n.Flags, n.HostPort = vswitch.NetL2, 0
		for i := range n.Subnets {
			n.Subnets[i].Gateway = netip.Addr{}
		}
		b.state.Mappings = nil
		c := b.port(bedC)
		c.Network, c.Addrs = 1, []netip.Addr{netip.MustParseAddr("192.168.100.12")}
		b.port(bedA).AnyIP = true
		b.state.ACLs = []vswitch.ACLSet{{ID: 1, Name: "closed", DefaultIn: vswitch.ACLBlock}}
		c.ACLs = []vswitch.ACLID{1}
		if err = errors.Join(l.apply(vswitch.Tables{}), l.clear(), b.compile()); err != nil {
			return
		}
		for _, s := range []struct {
			at, to vswitch.PortID
			line   string
		}{
			{bedA, bedB, "192.168.100.12.80 > 192.168.100.11.5000: tcp S"},
			{bedB, bedA, "192.168.100.11.5000 > 192.168.100.12.80: tcp SA"},
			{bedB, bedC, "192.168.100.11.5000 > 192.168.100.12.80: tcp S"},
		} {
			k := pkt.MustParse(s.line)
			k.From, k.To = pkt.MAC(b.port(s.at).MAC), pkt.MAC(b.port(s.to).MAC)
			b.frame, b.at = k.Bytes(), b.index[b.port(s.at).Interface]
			var tr Trace
			if tr, err = b.look(); err != nil {
				return
			}
			steps = append(steps, tr)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if steps[0].Verdict != Forward || steps[1].Verdict != Forward || steps[1].Out != bedA {
		t.Errorf("the conversation itself: %v\n%v", steps[0], steps[1])
	}
	if steps[2].Verdict != Drop || steps[2].Reason != "ACL_IN" {
		t.Errorf("to c: %v", steps[2])
	}
}
