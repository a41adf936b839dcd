// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pcap

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Head is what a filter and a line for people need of a frame.
type Head struct {
	Ether uint16 // EtherType, behind tags
	VLAN  int    // outer tag; -1 = none
	// Src and Dst are of IPv4, IPv6, or ARP's sender and target; invalid = none.
	Src, Dst netip.Addr
	Proto    uint8
	// Ports are there for TCP, UDP and SCTP, not in later fragments.
	HasPorts         bool
	SrcPort, DstPort uint16
	TCPFlags         uint8
	ICMPType, Code   uint8
	ARPOp            uint16
	Fragment         bool // a later one
}

// EtherTypes and protocols, IEEE 802 and IANA.
const (
	etherIP, etherARP, etherIP6    = 0x0800, 0x0806, 0x86dd
	etherVLAN, etherQinQ           = 0x8100, 0x88a8
	protoICMP, protoTCP, protoUDP  = 1, 6, 17
	protoICMP6, protoSCTP          = 58, 132
	hopByHop, routing, fragment    = 0, 43, 44
	authentication, destinationOpt = 51, 60
)

// Decode tells what is in the head of an Ethernet frame, as far as its bytes go.
func Decode(b []byte) Head {
	h := Head{VLAN: -1}
	if len(b) < 14 {
		return h
	}
	h.Ether = binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	for tags := 0; (h.Ether == etherVLAN || h.Ether == etherQinQ) && len(b) >= 4 && tags < 2; tags++ {
		if h.VLAN < 0 {
			h.VLAN = int(binary.BigEndian.Uint16(b) & 0xfff)
		}
		h.Ether = binary.BigEndian.Uint16(b[2:])
		b = b[4:]
	}
	switch h.Ether {
	case etherIP:
		h.decode4(b)
	case etherIP6:
		h.decode6(b)
	case etherARP:
		if len(b) >= 28 && binary.BigEndian.Uint16(b[2:]) == etherIP && b[4] == 6 && b[5] == 4 {
			h.ARPOp = binary.BigEndian.Uint16(b[6:])
			h.Src, h.Dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		}
	}
	return h
}

func (h *Head) decode4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	n := int(b[0]&15) * 4
	h.Src, h.Dst, h.Proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
	h.Fragment = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	if n >= 20 && len(b) >= n {
		h.decodeL4(b[n:])
	}
}

func (h *Head) decode6(b []byte) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return
	}
	h.Src, h.Dst, h.Proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
	b = b[40:]
	for range 8 { // extension headers
		if len(b) < 8 {
			break
		}
		n := (int(b[1]) + 1) * 8
		switch h.Proto {
		case hopByHop, routing, destinationOpt:
		case authentication:
			n = (int(b[1]) + 2) * 4
		case fragment:
			n = 8
			h.Fragment = h.Fragment || binary.BigEndian.Uint16(b[2:])&^7 != 0
		default:
			h.decodeL4(b)
			return
		}
		h.Proto = b[0]
		b = b[min(n, len(b)):]
	}
	h.decodeL4(b)
}

func (h *Head) decodeL4(b []byte) {
	if h.Fragment {
		return
	}
	switch h.Proto {
	case protoTCP, protoUDP, protoSCTP:
		if len(b) >= 4 {
			h.HasPorts, h.SrcPort, h.DstPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
		if h.Proto == protoTCP && len(b) >= 14 {
			h.TCPFlags = b[13]
		}
	case protoICMP, protoICMP6:
		if len(b) >= 2 {
			h.ICMPType, h.Code = b[0], b[1]
		}
	}
}

// ProtoName is a protocol as people write it.
func ProtoName(p uint8) string {
	for name, n := range protocols() {
		if n == p {
			return name
		}
	}
	return fmt.Sprintf("proto-%d", p)
}

// Protocol reads a protocol's name or number.
func Protocol(s string) (uint8, bool) {
	if n, ok := protocols()[strings.ToLower(s)]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err == nil
}

func protocols() map[string]uint8 {
	return map[string]uint8{"tcp": protoTCP, "udp": protoUDP, "icmp": protoICMP, "icmp6": protoICMP6, "sctp": protoSCTP}
}

// String is the head in one line: "tcp 10.0.0.2:40000 > 10.0.0.3:80 [S]".
func (h Head) String() string {
	tag := ""
	if h.VLAN >= 0 {
		tag = fmt.Sprintf("vlan %d ", h.VLAN)
	}
	switch {
	case h.Ether == etherARP && h.ARPOp == 1:
		return fmt.Sprintf("%sarp who-has %s tell %s", tag, h.Dst, h.Src)
	case h.Ether == etherARP && h.Src.IsValid():
		return fmt.Sprintf("%sarp %s tells %s", tag, h.Src, h.Dst)
	case !h.Src.IsValid():
		return fmt.Sprintf("%sframe of type %#04x", tag, h.Ether)
	}
	s := tag + ProtoName(h.Proto) + " "
	if h.HasPorts {
		s += netip.AddrPortFrom(h.Src, h.SrcPort).String() + " > " + netip.AddrPortFrom(h.Dst, h.DstPort).String()
	} else {
		s += h.Src.String() + " > " + h.Dst.String()
	}
	switch {
	case h.Fragment:
		s += " fragment"
	case h.Proto == protoTCP && h.HasPorts:
		s += " [" + tcpFlags(h.TCPFlags) + "]"
	case h.Proto == protoICMP || h.Proto == protoICMP6:
		s += fmt.Sprintf(" type %d code %d", h.ICMPType, h.Code)
	}
	return s
}

func tcpFlags(f uint8) string {
	s := ""
	for i, c := range "FSRP.U" {
		if f&(1<<i) != 0 {
			s += string(c)
		}
	}
	if s == "" {
		return "none"
	}
	return s
}
