// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

const (
	// A message is sent again after firstWait, then each time after twice as long.
	// RFC 2131 section 4.1 begins at 4 s, for networks of its time.
	firstWait, longestWait = time.Second, 64 * time.Second
	// requestLimit is how long a server may take that has made an offer.
	requestLimit = 6 * time.Second
	// rivalGrace is how long the server of a lease has to contradict another's NAK.
	rivalGrace = time.Second
)

// errNAK: a server says that the address is not the client's.
var errNAK = errors.New("refused by the server (NAK)")

// wire is where a client's messages go, and those to it come from.
type wire interface {
	// send a message from an address (unspecified: none yet) to one server, or to all.
	send(m *dhcpv4.DHCPv4, from netip.Addr, to server) error
	// heard are the messages to the client; closed when the wire breaks.
	heard() <-chan message
	close()
}

// server of a lease; the zero value: all there are.
type server struct {
	addr netip.Addr
	mac  vswitch.MAC
}

// message as it came.
type message struct {
	*dhcpv4.DHCPv4
	from vswitch.MAC
}

// wanted are the options that a client asks for.
var wanted = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
	dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
}

// compose begins a message. The client's identifier is the endpoint's (type 0 of
// RFC 2132 section 9.14), so that MACs may be used again.
func (r *client) compose(kind dhcpv4.MessageType, more ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(net.HardwareAddr(r.MAC[:])),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{0}, r.Endpoint...))),
	}, more...)...)
	if err == nil && (kind == dhcpv4.MessageTypeDiscover || kind == dhcpv4.MessageTypeRequest) {
		m.UpdateOption(dhcpv4.OptParameterRequestList(wanted...))
		if r.Name != "" {
			m.UpdateOption(dhcpv4.OptHostName(r.Name))
		}
	}
	return m, err
}

// ask sends m, again while nothing comes that judge takes, until ctx ends.
func ask(ctx context.Context, w wire, m *dhcpv4.DHCPv4, from netip.Addr, to server, judge func(message) bool) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		if err := w.send(m, from, to); err != nil {
			return err
		}
		again := time.After(wait - wait/8 + rand.N(wait/4))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-again:
				waiting = false
			case h, ok := <-w.heard():
				if !ok {
					return errors.New("the uplink went away")
				}
				if h.TransactionID == m.TransactionID && judge(h) {
					return nil
				}
			}
		}
	}
}

// discover asks all servers for a lease and takes the first offer, until it has one or
// ctx ends.
func (r *client) discover(ctx context.Context) (model.DHCPLease, error) {
	w, err := r.all.open(r.DHCPClient)
	if err != nil {
		return model.DHCPLease{}, err
	}
	defer w.close()
	for {
		m, err := r.compose(dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true))
		if err != nil {
			return model.DHCPLease{}, err
		}
		var offer message
		err = ask(ctx, w, m, netip.IPv4Unspecified(), server{}, func(h message) bool {
			offer = h
			_, lends := addrOf(h.YourIPAddr)
			_, known := addrOf(h.ServerIdentifier())
			return h.MessageType() == dhcpv4.MessageTypeOffer && lends && known
		})
		if err != nil {
			return model.DHCPLease{}, err
		}
		l, err := r.choose(ctx, w, offer)
		if err == nil {
			return l, nil
		}
		sleep(ctx, firstWait) // it thought better of it; RFC 2131 section 3.1 has the client begin anew
		if ctx.Err() != nil {
			return model.DHCPLease{}, context.Cause(ctx)
		}
	}
}

// choose asks for what a server has offered.
func (r *client) choose(ctx context.Context, w wire, offer message) (model.DHCPLease, error) {
	m, err := r.compose(dhcpv4.MessageTypeRequest, dhcpv4.WithBroadcast(true), dhcpv4.WithTransactionID(offer.TransactionID),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)), dhcpv4.WithOptionCopied(offer.DHCPv4, dhcpv4.OptionServerIdentifier))
	if err != nil {
		return model.DHCPLease{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	by, _ := addrOf(offer.ServerIdentifier())
	return settle(ctx, w, m, netip.IPv4Unspecified(), server{}, by, false)
}

// extend asks for more time: the lease's server, from Rebind on anybody; with confirm,
// whether the lease is still good. Where nobody would answer the server's ARP it asks
// as after a reboot, which is answered to everybody.
func (r *client) extend(ctx context.Context, l model.DHCPLease, confirm bool, until time.Time) (model.DHCPLease, error) {
	w, err := r.all.open(r.DHCPClient)
	if err != nil {
		return l, err
	}
	defer w.close()
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	late := !time.Now().Before(l.Rebind)
	from, to := l.Addr.Addr(), server{}
	how := []dhcpv4.Modifier{dhcpv4.WithClientIP(from.AsSlice())}
	switch {
	case confirm || !r.attached.Load():
		how = []dhcpv4.Modifier{dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(from.AsSlice()))}
		from = netip.IPv4Unspecified()
	case !late:
		to = server{l.Server, l.ServerMAC}
	}
	m, err := r.compose(dhcpv4.MessageTypeRequest, how...)
	if err != nil {
		return l, err
	}
	return settle(ctx, w, m, from, to, l.Server, late)
}

// settle sends a request and waits for what its server says. Another's NAK counts only
// where any may speak, and if that server is silent: a second one on the segment that
// knows nothing of the lease says NAK to everything.
func settle(ctx context.Context, w wire, m *dhcpv4.DHCPv4, from netip.Addr, to server, by netip.Addr, anybody bool) (l model.DHCPLease, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sent, nak, rival := time.Now(), false, false
	err = ask(ctx, w, m, from, to, func(h message) bool {
		who, _ := addrOf(h.ServerIdentifier())
		switch h.MessageType() {
		case dhcpv4.MessageTypeAck:
			if m.ServerIdentifier() != nil && who != by {
				return false // one was chosen
			}
			var bad error
			l, bad = leaseOf(h, sent)
			return bad == nil
		case dhcpv4.MessageTypeNak:
			nak = who == by
			if !nak && anybody && !rival {
				rival = true
				time.AfterFunc(rivalGrace, func() { cancel(errNAK) })
			}
			return nak
		}
		return false
	})
	if err == nil && nak {
		err = errNAK
	}
	return l, err
}

// leaseOf reads what a server lends. Its time runs from when it was asked for.
func leaseOf(h message, asked time.Time) (model.DHCPLease, error) {
	a, ok := addrOf(h.YourIPAddr)
	by, known := addrOf(h.ServerIdentifier())
	bits, _ := h.SubnetMask().Size()
	lasts := h.IPAddressLeaseTime(0)
	if !ok || !known || bits == 0 || lasts <= 0 {
		return model.DHCPLease{}, fmt.Errorf("lends %s with mask %s for %s", h.YourIPAddr, h.SubnetMask(), lasts)
	}
	renew, rebind := h.IPAddressRenewalTime(0), h.IPAddressRebindingTime(0)
	if renew <= 0 || renew >= lasts {
		renew = lasts / 2
	}
	if rebind <= renew || rebind >= lasts {
		rebind = max(renew, lasts/8*7)
	}
	asked = asked.Round(0) // by the wall, which goes on while the host is suspended
	l := model.DHCPLease{
		Addr: netip.PrefixFrom(a, bits), Server: by, ServerMAC: h.from, Routes: routesOf(h.DHCPv4),
		Renew: asked.Add(renew), Rebind: asked.Add(rebind), Expires: asked.Add(lasts),
	}
	l.DNS.Domain = trimmed(h.DomainName())
	for _, ip := range h.DNS() {
		l.DNS.ServerList = append(l.DNS.ServerList, ip.String())
	}
	if s := h.DomainSearch(); s != nil {
		l.DNS.Search = s.Labels
	}
	if raw := h.GetOneOption(dhcpv4.OptionInterfaceMTU); len(raw) == 2 {
		l.MTU = uint16(raw[0])<<8 | uint16(raw[1])
	}
	return l, nil
}

// routesOf are the classless ones, which stand for the router, too (RFC 3442), else
// the router.
func routesOf(m *dhcpv4.DHCPv4) (out []hcn.Route) {
	for _, r := range m.ClasslessStaticRoute() {
		out = append(out, hcn.Route{NextHop: r.Router.String(), DestinationPrefix: r.Dest.String()})
	}
	if routers := m.Router(); len(out) == 0 && len(routers) > 0 {
		out = append(out, hcn.Route{NextHop: routers[0].String(), DestinationPrefix: "0.0.0.0/0"})
	}
	return out
}

// trimmed is a text without the zeros that some servers end it with.
func trimmed(s string) string {
	for len(s) > 0 && s[len(s)-1] == 0 {
		s = s[:len(s)-1]
	}
	return s
}

// release gives a lease back. Nobody answers that.
func (r *client) release(l model.DHCPLease) { r.part(l, dhcpv4.MessageTypeRelease) }

// decline says that somebody else has the address.
func (r *client) decline(l model.DHCPLease) { r.part(l, dhcpv4.MessageTypeDecline) }

func (r *client) part(l model.DHCPLease, kind dhcpv4.MessageType) {
	how := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))}
	from, to := l.Addr.Addr(), server{l.Server, l.ServerMAC}
	if kind == dhcpv4.MessageTypeDecline { // RFC 2131, table 5
		how = append(how, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(from.AsSlice())))
		from, to = netip.IPv4Unspecified(), server{}
	} else {
		how = append(how, dhcpv4.WithClientIP(from.AsSlice()))
	}
	w, err := r.all.open(r.DHCPClient)
	if err == nil {
		defer w.close()
		var m *dhcpv4.DHCPv4
		if m, err = r.compose(kind, how...); err == nil {
			err = w.send(m, from, to)
		}
	}
	if err != nil {
		r.all.log.Debug("a lease is not given back; it ends by itself", "endpoint", r.Endpoint, "address", l.Addr, "error", err)
	}
}
