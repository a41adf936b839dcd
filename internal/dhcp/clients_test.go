// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// lan is a wire with servers on it that answer at once. It writes down what clients
// say.
type lan struct {
	mu      sync.Mutex
	servers []*fakeServer
	said    []string
	in      chan message
}

// fakeServer lends one address to whoever asks.
type fakeServer struct {
	addr, lends string
	lasts       time.Duration
	mute        bool // hears nothing
	strict      bool // says NAK to a request of any other address, as one that knows of no lease
}

func (s *lan) send(m *dhcpv4.DHCPv4, from netip.Addr, to server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	how := "to all"
	if to != (server{}) {
		how = "to " + to.addr.String()
	}
	if wanted, ok := addrOf(m.RequestedIPAddress()); ok {
		how += " wants " + wanted.String()
	}
	if from.IsValid() && !from.IsUnspecified() {
		how += " has " + from.String()
	}
	s.said = append(s.said, m.MessageType().String()+" "+how)
	for _, v := range s.servers {
		if to != (server{}) && to.addr.String() != v.addr {
			continue
		}
		if r := v.answer(m); r != nil {
			s.in <- message{r, vswitch.MAC{2, 0, 0, 0, 0, 1}}
		}
	}
	return nil
}

func (s *lan) heard() <-chan message { return s.in }
func (s *lan) close()                {}

// take returns what was said since the last time.
func (s *lan) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.said
	s.said = nil
	return said
}

func (v *fakeServer) answer(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	id, chosen := addrOf(m.ServerIdentifier())
	if v.mute || chosen && id.String() != v.addr {
		return nil
	}
	wanted, ok := addrOf(m.RequestedIPAddress())
	if !ok {
		wanted, _ = addrOf(m.ClientIPAddr)
	}
	kind := dhcpv4.MessageTypeOffer
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
		if wanted.String() != v.lends {
			if !v.strict {
				return nil
			}
			kind = dhcpv4.MessageTypeNak
		}
	default:
		return nil
	}
	r, _ := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(v.addr))))
	if kind != dhcpv4.MessageTypeNak {
		r.YourIPAddr = net.ParseIP(v.lends)
		for _, o := range []dhcpv4.Option{dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)), dhcpv4.OptIPAddressLeaseTime(v.lasts), dhcpv4.OptRouter(net.ParseIP("10.1.0.254")),
			dhcpv4.OptDNS(net.ParseIP("9.9.9.9")), dhcpv4.OptDomainName("lan\x00"), dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 0x78})} {
			r.UpdateOption(o)
		}
	}
	return r
}

// fabric is a segment and the clients on it; took are the leases that were told.
type fabric struct {
	*lan
	k       *Clients
	mu      sync.Mutex
	took    []model.DHCPLease
	refuses string // an address that endpoints cannot have
}

func newFabric(servers ...*fakeServer) *fabric {
	f := &fabric{lan: &lan{servers: servers, in: make(chan message, 99)}, k: NewClients(slog.New(slog.DiscardHandler))}
	f.k.open = func(model.DHCPClient) (wire, error) { return f.lan, nil }
	go func() {
		for n := range f.k.News() {
			f.mu.Lock()
			if a := n.Lease.Addr; a.IsValid() && a.Addr().String() == f.refuses {
				n.Took(&model.Error{Code: hcn.HCN_E_ADDR_INVALID_OR_RESERVED})
			} else {
				f.took = append(f.took, n.Lease)
				n.Took(nil)
			}
			f.mu.Unlock()
		}
	}()
	return f
}

// change what the servers do, or what endpoints cannot have.
func (f *fabric) change(how func()) {
	f.lan.mu.Lock()
	defer f.lan.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
}

// addrs are those that were told, in order.
func (f *fabric) addrs() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.took {
		out = append(out, strings.TrimSuffix(l.Addr.String(), "invalid Prefix"))
	}
	return out
}

var testClient = model.DHCPClient{Endpoint: "e", Name: "web", MAC: vswitch.MAC{2, 0, 0, 0, 0, 9}, Uplink: "up", Attached: true}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// A lease is got, extended at half its time by its server alone, and given back.
func TestLeaseLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(&fakeServer{addr: "10.1.0.1", lends: "10.1.0.9", lasts: time.Hour})
		c := testClient
		var err error
		if c.Lease, err = f.k.Acquire(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint(netip.MustParsePrefix("10.1.0.9/24"), []hcn.Route{{NextHop: "10.1.0.254", DestinationPrefix: "0.0.0.0/0"}}, hcn.Dns{Domain: "lan", ServerList: []string{"9.9.9.9"}}, 1400)
		if l := c.Lease; fmt.Sprint(l.Addr, l.Routes, l.DNS, l.MTU) != want || time.Until(l.Expires) != time.Hour || time.Until(l.Renew) != 30*time.Minute {
			t.Errorf("lease %+v", l)
		}
		f.k.Set([]model.DHCPClient{c})
		expect(t, "at first", f.take(), "DISCOVER to all", "REQUEST to all wants 10.1.0.9")
		time.Sleep(29 * time.Minute)
		expect(t, "before half its time", f.take())
		time.Sleep(2 * time.Minute)
		expect(t, "at half its time", f.take(), "REQUEST to 10.1.0.1 has 10.1.0.9")
		expect(t, "told", f.addrs(), "10.1.0.9/24")
		// Nobody answers the server's ARP for a vNIC that is not there.
		c.Attached = false
		f.k.Set([]model.DHCPClient{c})
		time.Sleep(30 * time.Minute)
		expect(t, "detached", f.take(), "REQUEST to all wants 10.1.0.9")
		f.k.Set(nil)
		synctest.Wait()
		expect(t, "at the end", f.take(), "RELEASE to 10.1.0.1 has 10.1.0.9")
		f.k.Close()
	})
}

// Another daemon confirms what it finds and goes on; when no server answers, it keeps
// the address until the lease ends, and then asks for another.
func TestLeaseIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &fakeServer{addr: "10.1.0.1", lends: "10.1.0.9", lasts: time.Hour}
		rival := &fakeServer{addr: "10.1.0.2", lends: "10.1.0.99", lasts: time.Hour, strict: true}
		f := newFabric(rival, v)
		c := testClient
		now := time.Now()
		c.Lease = model.DHCPLease{Addr: netip.MustParsePrefix("10.1.0.9/24"), Server: netip.MustParseAddr("10.1.0.1"), ServerMAC: vswitch.MAC{2, 0, 0, 0, 0, 1},
			Renew: now.Add(20 * time.Minute), Rebind: now.Add(40 * time.Minute), Expires: now.Add(50 * time.Minute)}
		f.k.Set([]model.DHCPClient{c})
		time.Sleep(time.Second)
		expect(t, "at the start", f.take(), "REQUEST to all wants 10.1.0.9")
		expect(t, "told", f.addrs(), "10.1.0.9/24")
		f.k.Close()
		expect(t, "a daemon that ends", f.take())

		// The server is silent, and another says no: that is not its to say.
		f.change(func() { v.mute = true })
		f = newFabric(rival, v)
		f.k.Set([]model.DHCPClient{c})
		time.Sleep(39 * time.Minute)
		expect(t, "while it lasts", f.addrs())
		said := f.take()
		if said[0] != "REQUEST to all wants 10.1.0.9" || said[len(said)-1] != "REQUEST to 10.1.0.1 has 10.1.0.9" {
			t.Errorf("%q", said)
		}
		// Near its end any may say it; and then another lends.
		time.Sleep(2 * time.Minute)
		expect(t, "after its end", f.addrs(), "", "10.1.0.99/24")
		f.k.Close()

		// With nobody at all it ends in time.
		f.change(func() { rival.mute = true })
		f = newFabric(rival, v)
		f.k.Set([]model.DHCPClient{{Endpoint: c.Endpoint, MAC: c.MAC, Attached: true, Lease: model.DHCPLease{Addr: c.Lease.Addr, Server: c.Lease.Server,
			Renew: time.Now().Add(time.Minute), Rebind: time.Now().Add(2 * time.Minute), Expires: time.Now().Add(3 * time.Minute)}}})
		time.Sleep(3*time.Minute - time.Second)
		expect(t, "before its end", f.addrs())
		time.Sleep(5 * time.Second)
		expect(t, "after its end", f.addrs(), "")
		f.change(func() { v.mute = false })
		time.Sleep(2 * longestWait)
		expect(t, "when it is back", f.addrs(), "", "10.1.0.9/24")
		f.k.Close()
	})
}

// The server's own NAK ends a lease at once.
func TestLeaseIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &fakeServer{addr: "10.1.0.1", lends: "10.1.0.9", lasts: time.Hour, strict: true}
		f := newFabric(v)
		c := testClient
		c.Lease, _ = f.k.Acquire(t.Context(), c)
		f.k.Set([]model.DHCPClient{c})
		f.change(func() { v.lends = "10.1.0.10" })
		time.Sleep(31 * time.Minute)
		expect(t, "told", f.addrs(), "", "10.1.0.10/24")
		f.take()
		// What cannot be the endpoint's is declined, not used.
		f.change(func() { f.refuses, v.lends = "10.1.0.11", "10.1.0.11" })
		time.Sleep(30*time.Minute + time.Second)
		said := f.take()
		if !slices.Contains(said, "DECLINE to all wants 10.1.0.11") {
			t.Errorf("%q", said)
		}
		expect(t, "told then", f.addrs(), "", "10.1.0.10/24", "")
		f.change(func() { v.lends = "10.1.0.12" })
		time.Sleep(declinePause)
		expect(t, "at last", f.addrs(), "", "10.1.0.10/24", "", "10.1.0.12/24")
		f.k.Close()
	})
}

// An endpoint that is not made has no lease; where nobody answers there is an end.
func TestAcquireInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &fakeServer{addr: "10.1.0.1", lends: "10.1.0.9", lasts: time.Hour}
		f := newFabric(v)
		c := testClient
		c.Lease, _ = f.k.Acquire(t.Context(), c)
		f.take()
		f.k.Release(c)
		f.k.Release(c)
		synctest.Wait()
		expect(t, "given back", f.take(), "RELEASE to 10.1.0.1 has 10.1.0.9")
		f.change(func() { v.mute = true })
		begin := time.Now()
		_, err := f.k.Acquire(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "within 10s") || time.Since(begin) != acquireLimit {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.k.Acquire(ctx, c); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		f.k.Close()
	})
}
