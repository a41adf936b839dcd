// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// leaseTime is what a client is told. The address is its own as long as the endpoint
// is there; a day lets changes of servers and routers arrive. Our choice.
const leaseTime = 24 * time.Hour

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// answer is the frame that a client's frame is answered with; nil = none.
func answer(l *model.Lease, frame []byte) []byte {
	m := messageIn(frame, serverPort, dhcpv4.OpcodeBootRequest)
	if m == nil || vswitch.MAC(m.ClientHWAddr) != l.MAC {
		return nil
	}
	if s, ok := addrOf(m.ServerIdentifier()); ok && s != l.Server {
		return nil // meant for another
	}
	held, _ := addrOf(m.ClientIPAddr)
	wanted := held
	if a, ok := addrOf(m.RequestedIPAddress()); ok {
		wanted = a
	}
	// Where a client wants to be answered that may have no address yet.
	there := l.Addr.Addr()
	if m.IsBroadcast() {
		there = broadcast
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return reply(l, m, dhcpv4.MessageTypeOffer, there)
	case dhcpv4.MessageTypeRequest:
		if wanted != l.Addr.Addr() {
			return reply(l, m, dhcpv4.MessageTypeNak, broadcast)
		}
		return reply(l, m, dhcpv4.MessageTypeAck, there)
	case dhcpv4.MessageTypeInform:
		return reply(l, m, dhcpv4.MessageTypeAck, held)
	}
	return nil
}

// messageIn is a message of or to a client with a MAC, in a frame to a port; nil = it is
// something else.
func messageIn(frame []byte, port uint16, op dhcpv4.OpcodeType) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.FromBytes(payload(frame, port))
	if err != nil || m.OpCode != op || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 {
		return nil
	}
	return m
}

// addrOf is an address of a message; false where there is none.
func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok && !a.IsUnspecified()
}

// ipsOf are the IPv4 ones of addresses.
func ipsOf(as ...netip.Addr) (out []net.IP) {
	for _, a := range as {
		if a.Is4() {
			out = append(out, a.AsSlice())
		}
	}
	return out
}

// reply to the message m of a client.
func reply(l *model.Lease, m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, to netip.Addr) []byte {
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice())))
	if err != nil {
		return nil // no random number, which a reply does not need either
	}
	if kind != dhcpv4.MessageTypeNak {
		r.ClientIPAddr = m.ClientIPAddr
		if m.MessageType() != dhcpv4.MessageTypeInform {
			r.YourIPAddr = l.Addr.Addr().AsSlice()
			r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(leaseTime))
		}
		r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(l.Addr.Bits(), 32)))
		if routers := ipsOf(l.Router); len(routers) > 0 {
			r.UpdateOption(dhcpv4.OptRouter(routers...))
		}
		if servers := ipsOf(l.DNS...); len(servers) > 0 {
			r.UpdateOption(dhcpv4.OptDNS(servers[:min(len(servers), 8)]...))
		}
		if l.Domain != "" {
			r.UpdateOption(dhcpv4.OptDomainName(l.Domain))
		}
	}
	dst := l.MAC
	if to == broadcast {
		dst = everybody
	}
	return datagram(dst, l.ServerMAC, netip.AddrPortFrom(l.Server, serverPort), netip.AddrPortFrom(to, clientPort), r.ToBytes())
}
