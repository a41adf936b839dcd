// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// TestWire: messages leave with the tag of the client's VLAN and its MAC, or the
// uplink's; each client hears its own, of its VLAN, and all of a segment by one socket,
// which is there as long as one of them listens.
func TestWire(t *testing.T) {
	nettest.RequireRoot(t)
	host, far := nettest.NewNS(t), nettest.NewNS(t)
	nettest.Veth(t, host, "up", far, "lan")
	var own, lan *net.Interface
	device := func(ns *nettest.NS, name string, into **net.Interface) {
		if err := ns.Do(func() (err error) { *into, err = net.InterfaceByName(name); return err }); err != nil {
			t.Fatal(err)
		}
	}
	device(host, "up", &own)
	device(far, "lan", &lan)
	servers := map[uint16]*os.File{}
	for _, vlan := range []uint16{0, 7} {
		if err := far.Do(func() (err error) { servers[vlan], err = listen(lan, serverPort, vlan); return err }); err != nil {
			t.Fatal(err)
		}
		defer servers[vlan].Close()
	}
	all := &ears{on: map[segment]*ear{}}
	sockets := func() int {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.on)
	}
	k := NewClients(nil)
	type end struct {
		*client
		wire
	}
	open := func(last byte, vlan uint16, asUplink bool) end {
		t.Helper()
		c := &client{DHCPClient: model.DHCPClient{Endpoint: "e", MAC: vswitch.MAC{2, 0, 0, 0, 0, last}, Uplink: "up", VLAN: vlan, AsUplink: asUplink}, all: k}
		var w wire
		if err := host.Do(func() (err error) { w, err = all.open(c.DHCPClient); return err }); err != nil {
			t.Fatal(err)
		}
		return end{c, w}
	}
	a, b, tagged7 := open(1, 0, false), open(2, 0, true), open(1, 7, false)
	if sockets() != 2 {
		t.Errorf("%d sockets for two segments", sockets())
	}
	for what, x := range map[string]struct {
		end
		vlan  uint16
		frame vswitch.MAC // that it comes from
	}{"a": {a, 0, a.MAC}, "b": {b, 0, vswitch.MAC(own.HardwareAddr)}, "tagged": {tagged7, 7, tagged7.MAC}} {
		m, err := x.compose(dhcpv4.MessageTypeDiscover)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.send(m, netip.IPv4Unspecified(), server{}); err != nil {
			t.Fatal(err)
		}
		for vlan, s := range servers {
			buf := make([]byte, 2048)
			_ = s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			n, err := s.Read(buf)
			if (err == nil) != (vlan == x.vlan) {
				t.Fatalf("%s in VLAN %d: %v", what, vlan, err)
			}
			if err != nil {
				continue
			}
			got := messageIn(buf[:n], serverPort, dhcpv4.OpcodeBootRequest)
			if got == nil || got.TransactionID != m.TransactionID || vswitch.MAC(got.ClientHWAddr) != x.MAC || vswitch.MAC(buf[6:12]) != x.frame {
				t.Fatalf("%s says %v from %x", what, got, buf[6:12])
			}
			r, _ := dhcpv4.NewReplyFromRequest(got, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer))
			f := datagram(everybody, vswitch.MAC(lan.HardwareAddr), netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("255.255.255.255:68"), r.ToBytes())
			if _, err := s.Write(tagged(f, vlan)); err != nil {
				t.Fatal(err)
			}
		}
		for other, y := range map[string]end{"a": a, "b": b, "tagged": tagged7} {
			select {
			case h := <-y.heard():
				if other != what || h.TransactionID != m.TransactionID || h.from != vswitch.MAC(lan.HardwareAddr) {
					t.Errorf("%s hears what is for %s: %v", other, what, h)
				}
			case <-time.After(100 * time.Millisecond):
				if other == what {
					t.Errorf("%s hears nothing", what)
				}
			}
		}
	}
	a.close()
	if sockets() != 2 {
		t.Error("b's socket went with a")
	}
	b.close()
	if sockets() != 1 {
		t.Error("a socket for nobody")
	}
	// An uplink that goes takes it along.
	host.Exec("ip", "link", "del", "dev", "up")
	select {
	case _, ok := <-tagged7.heard():
		if ok {
			t.Error("a message of nobody")
		}
	case <-time.After(2 * time.Second):
		t.Error("it waits at an uplink that is gone")
	}
	tagged7.close()
	if sockets() != 0 {
		t.Error("a socket of an uplink that is gone")
	}
}
