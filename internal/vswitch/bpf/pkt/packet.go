// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package pkt writes and reads packets as lines that look like tcpdump's, for
// tests of the data plane:
//
//	192.168.100.10.40000 > 10.0.0.9.80: tcp S
//	fd00:100::10 > fd00:a::9: icmp6 echo 7 ttl 63
//	10.0.0.254 > 10.0.0.4: icmp unreach 4 1300 [10.0.0.4.40000 > 10.0.0.9.80: tcp S]
//	arp who-has 192.168.100.11 tell 192.168.100.10
//
// Decode checks every checksum it can see. It is no protocol library: it knows
// what our tests need and refuses the rest.
package pkt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Protocol numbers and TCP flags, as in RFC 790 and RFC 9293.
const (
	ICMP  = 1
	TCP   = 6
	UDP   = 17
	ICMP6 = 58
	SCTP  = 132

	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	PSH = 0x08
	ACK = 0x10

	EtherIP  = 0x0800
	EtherARP = 0x0806
	EtherIP6 = 0x86dd
)

// DefaultTTL is what Parse fills in and String leaves out.
const DefaultTTL = 64

// Packet is one frame. The zero value of a field means that it is absent.
type Packet struct {
	From, To MAC // Ethernet source and destination
	Ether    uint16

	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
	TTL              uint8
	DF               bool

	Flags    uint8 // TCP
	Seq, Ack uint32
	NoSum    bool // UDP over IPv4 without checksum

	Type, Code uint8 // ICMP
	ID         uint16
	MTU        uint32
	Inner      *Packet // what an error is about; its L4 checksum is not checked

	Target netip.Addr // ND
	Link   *MAC       // ND: source or target link-layer address
	NAFlag uint32     // ND: router, solicited, override in the top bits

	Op     uint16 // ARP: 1 request, 2 reply; Src, Dst are the protocol addresses
	ArpSrc MAC
	ArpDst MAC

	Frag *Frag
	Data []byte // L4 payload; of a fragment everything behind the IP headers
}

// Frag says which part of a datagram a packet is. Off is in bytes.
type Frag struct {
	ID   uint32
	Off  int
	More bool
}

func sum(b []byte, s uint32) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return s
}

func pseudo(src, dst netip.Addr, proto uint8, n int) uint32 {
	s := sum(src.AsSlice(), 0)
	s = sum(dst.AsSlice(), s)
	return sum([]byte{0, proto, byte(n >> 8), byte(n)}, s)
}

// l4 is everything behind the IP headers, checksum included.
func (p *Packet) l4() []byte {
	var b []byte
	at := -1
	switch p.Proto {
	case TCP:
		b = make([]byte, 20, 20+len(p.Data))
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		binary.BigEndian.PutUint32(b[4:], p.Seq)
		binary.BigEndian.PutUint32(b[8:], p.Ack)
		b[12], b[13] = 5<<4, p.Flags
		if p.Flags&RST == 0 {
			binary.BigEndian.PutUint16(b[14:], 0xffff)
		}
		b, at = append(b, p.Data...), 16
	case UDP:
		b = make([]byte, 8, 8+len(p.Data))
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(p.Data)))
		b, at = append(b, p.Data...), 6
		if p.NoSum {
			at = -1
		}
	case SCTP:
		b = make([]byte, 12, 12+len(p.Data))
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		b = append(b, p.Data...)
	case ICMP, ICMP6:
		b, at = p.icmp(), 2
	default:
		return p.Data
	}
	if at >= 0 {
		var s uint32
		if p.Proto != ICMP {
			s = pseudo(p.Src, p.Dst, p.Proto, len(b))
		}
		c := ^uint16(sum(b, s))
		if c == 0 && p.Proto == UDP {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(b[at:], c)
	}
	return b
}

func (p *Packet) icmp() []byte {
	b := make([]byte, 8)
	b[0], b[1] = p.Type, p.Code
	switch {
	case p.Inner != nil:
		if p.Proto == ICMP6 {
			binary.BigEndian.PutUint32(b[4:], p.MTU)
		} else {
			binary.BigEndian.PutUint16(b[6:], uint16(p.MTU))
		}
		q := p.Inner.Bytes()[14:]
		// What routers quote: header and 8 bytes, more of TCP does no harm.
		n := p.Inner.ipHeader() + 8
		if p.Inner.Proto == TCP {
			n += 12
		}
		return append(b, q[:min(n, len(q))]...)
	case p.isND():
		binary.BigEndian.PutUint32(b[4:], p.NAFlag)
		if p.Target.IsValid() {
			b = append(b, p.Target.AsSlice()...)
		}
		if p.Link != nil {
			t := byte(1)
			if p.Type == 136 {
				t = 2
			}
			b = append(append(b, t, 1), p.Link[:]...)
		}
		return append(b, p.Data...)
	}
	binary.BigEndian.PutUint16(b[4:], p.ID)
	return append(b, p.Data...)
}

func (p *Packet) isND() bool { return p.Proto == ICMP6 && p.Type >= 133 && p.Type <= 137 }

func (p *Packet) ipHeader() int {
	if p.Src.Is4() {
		return 20
	}
	if p.Frag != nil {
		return 48
	}
	return 40
}

// Bytes is the frame on the wire.
func (p *Packet) Bytes() []byte {
	eth := append(append(append([]byte{}, p.To[:]...), p.From[:]...), byte(p.Ether>>8), byte(p.Ether))
	switch p.Ether {
	case EtherARP:
		b := append(eth, 0, 1, 8, 0, 6, 4, byte(p.Op>>8), byte(p.Op))
		b = append(append(b, p.ArpSrc[:]...), p.Src.AsSlice()...)
		return append(append(b, p.ArpDst[:]...), p.Dst.AsSlice()...)
	case EtherIP, EtherIP6:
		body := p.Data
		if p.Frag == nil {
			body = p.l4()
		}
		return append(append(eth, p.ip(len(body))...), body...)
	}
	return append(eth, p.Data...)
}

func (p *Packet) ip(n int) []byte {
	if p.Ether == EtherIP {
		b := make([]byte, 20)
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(20+n))
		if p.DF {
			b[6] = 0x40
		}
		if f := p.Frag; f != nil {
			binary.BigEndian.PutUint16(b[4:], uint16(f.ID))
			w := uint16(f.Off / 8)
			if f.More {
				w |= 0x2000
			}
			binary.BigEndian.PutUint16(b[6:], w)
		}
		b[8], b[9] = p.TTL, p.Proto
		copy(b[12:], p.Src.AsSlice())
		copy(b[16:], p.Dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum(b, 0)))
		return b
	}
	b := make([]byte, 40)
	b[0] = 0x60
	b[6], b[7] = p.Proto, p.TTL
	copy(b[8:], p.Src.AsSlice())
	copy(b[24:], p.Dst.AsSlice())
	if f := p.Frag; f != nil {
		b[6] = 44
		x := make([]byte, 8)
		x[0] = p.Proto
		w := uint16(f.Off)
		if f.More {
			w |= 1
		}
		binary.BigEndian.PutUint16(x[2:], w)
		binary.BigEndian.PutUint32(x[4:], f.ID)
		b, n = append(b, x...), n+8
	}
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	return b
}

// Fragments cuts an IP packet into parts whose IP payload is at most size bytes,
// a multiple of eight.
func (p *Packet) Fragments(id uint32, size int) []*Packet {
	body := p.l4()
	var out []*Packet
	for off := 0; off < len(body); off += size {
		q := *p
		end := min(off+size, len(body))
		q.Data = body[off:end]
		q.Frag = &Frag{ID: id, Off: off, More: end < len(body)}
		out = append(out, &q)
	}
	return out
}

// Reassemble joins fragments given in any order and decodes the datagram.
func Reassemble(parts []*Packet) (*Packet, error) {
	size := 0
	for _, f := range parts {
		size = max(size, f.Frag.Off+len(f.Data))
	}
	body := make([]byte, size)
	for _, f := range parts {
		copy(body[f.Frag.Off:], f.Data)
	}
	q := *parts[0]
	q.Frag, q.Data = nil, nil
	if err := q.readL4(body, false); err != nil {
		return nil, err
	}
	return &q, nil
}

var errShort = errors.New("cut short")

// Decode reads a frame and checks its checksums and lengths.
func Decode(b []byte) (*Packet, error) {
	if len(b) < 14 {
		return nil, errShort
	}
	p := &Packet{Ether: binary.BigEndian.Uint16(b[12:])}
	copy(p.To[:], b)
	copy(p.From[:], b[6:])
	return p, p.readNet(b[14:], false)
}

func (p *Packet) readNet(b []byte, quoted bool) error {
	switch p.Ether {
	case EtherARP:
		if len(b) < 28 {
			return errShort
		}
		p.Op = binary.BigEndian.Uint16(b[6:])
		copy(p.ArpSrc[:], b[8:])
		copy(p.ArpDst[:], b[18:])
		p.Src, _ = netip.AddrFromSlice(b[14:18])
		p.Dst, _ = netip.AddrFromSlice(b[24:28])
		return nil
	case EtherIP:
		return p.read4(b, quoted)
	case EtherIP6:
		return p.read6(b, quoted)
	}
	p.Data = b
	return nil
}

func (p *Packet) read4(b []byte, quoted bool) error {
	if len(b) < 20 || b[0]>>4 != 4 {
		return errShort
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if ihl < 20 || ihl > len(b) {
		return errShort
	}
	if s := sum(b[:ihl], 0); s != 0xffff {
		return fmt.Errorf("IPv4 header checksum wrong by %#x", 0xffff-s)
	}
	p.Src, _ = netip.AddrFromSlice(b[12:16])
	p.Dst, _ = netip.AddrFromSlice(b[16:20])
	p.TTL, p.Proto = b[8], b[9]
	w := binary.BigEndian.Uint16(b[6:])
	p.DF = w&0x4000 != 0
	if !quoted {
		if total > len(b) || total < ihl {
			return fmt.Errorf("IPv4 total length %d of %d", total, len(b))
		}
		b = b[:total]
	}
	if w&0x3fff != 0 {
		p.Frag = &Frag{ID: uint32(binary.BigEndian.Uint16(b[4:])), Off: int(w&0x1fff) * 8, More: w&0x2000 != 0}
		p.Data = b[ihl:]
		return nil
	}
	return p.readL4(b[ihl:], quoted)
}

func (p *Packet) read6(b []byte, quoted bool) error {
	if len(b) < 40 || b[0]>>4 != 6 {
		return errShort
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	p.Src, _ = netip.AddrFromSlice(b[8:24])
	p.Dst, _ = netip.AddrFromSlice(b[24:40])
	p.Proto, p.TTL = b[6], b[7]
	body := b[40:]
	if !quoted {
		if n > len(body) {
			return fmt.Errorf("IPv6 payload length %d of %d", n, len(body))
		}
		body = body[:n]
	}
	for p.Proto == 0 || p.Proto == 43 || p.Proto == 60 {
		if len(body) < 8 {
			return errShort
		}
		n := (int(body[1]) + 1) * 8
		if len(body) < n {
			return errShort
		}
		p.Proto, body = body[0], body[n:]
	}
	if p.Proto == 44 {
		if len(body) < 8 {
			return errShort
		}
		w := binary.BigEndian.Uint16(body[2:])
		p.Frag = &Frag{ID: binary.BigEndian.Uint32(body[4:]), Off: int(w &^ 7), More: w&1 != 0}
		p.Proto, p.Data = body[0], body[8:]
		return nil
	}
	return p.readL4(body, quoted)
}

func (p *Packet) readL4(b []byte, quoted bool) error {
	need := map[uint8]int{TCP: 20, UDP: 8, ICMP: 8, ICMP6: 8, SCTP: 12}[p.Proto]
	if quoted {
		need = min(need, 8)
	}
	if len(b) < need {
		return errShort
	}
	switch p.Proto {
	case TCP, UDP, SCTP:
		p.SrcPort = binary.BigEndian.Uint16(b)
		p.DstPort = binary.BigEndian.Uint16(b[2:])
	}
	if p.Proto == TCP {
		p.Seq = binary.BigEndian.Uint32(b[4:])
	}
	if p.Proto == TCP && len(b) >= 20 {
		p.Ack = binary.BigEndian.Uint32(b[8:])
		p.Flags = b[13]
		off := int(b[12]>>4) * 4
		if off < 20 {
			return fmt.Errorf("TCP header of %d bytes", off)
		}
		if off <= len(b) {
			p.Data = b[off:]
		}
	}
	if p.Proto == UDP {
		p.Data = b[8:]
		p.NoSum = b[6] == 0 && b[7] == 0 && !quoted
		if !quoted && int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			return fmt.Errorf("UDP length %d of %d", binary.BigEndian.Uint16(b[4:]), len(b))
		}
	}
	if !quoted && p.Proto != SCTP && need > 0 && !p.NoSum {
		var s uint32
		if p.Proto != ICMP {
			s = pseudo(p.Src, p.Dst, p.Proto, len(b))
		}
		if got := sum(b, s); got != 0xffff {
			return fmt.Errorf("checksum of protocol %d wrong by %#x", p.Proto, 0xffff-got)
		}
	}
	if p.Proto == ICMP || p.Proto == ICMP6 {
		return p.readICMP(b, quoted)
	}
	return nil
}

func (p *Packet) readICMP(b []byte, quoted bool) error {
	p.Type, p.Code = b[0], b[1]
	isErr := p.Proto == ICMP6 && p.Type < 128 ||
		p.Proto == ICMP && (p.Type == 3 || p.Type == 4 || p.Type == 11 || p.Type == 12)
	switch {
	case isErr && !quoted:
		p.MTU = binary.BigEndian.Uint32(b[4:])
		if p.Proto == ICMP {
			p.MTU &= 0xffff
		}
		p.Inner = &Packet{Ether: p.Ether}
		// A quote may end anywhere behind its IP header.
		if err := p.Inner.readNet(b[8:], true); err != nil && !errors.Is(err, errShort) {
			return fmt.Errorf("quoted packet: %w", err)
		}
	case p.isND() && !quoted:
		p.NAFlag = binary.BigEndian.Uint32(b[4:])
		if p.Type >= 135 && len(b) >= 24 {
			p.Target, _ = netip.AddrFromSlice(b[8:24])
			if len(b) >= 32 {
				m := MAC(b[26:32])
				p.Link = &m
			}
		}
	default:
		p.ID = binary.BigEndian.Uint16(b[4:])
		p.Data = b[8:]
	}
	return nil
}
