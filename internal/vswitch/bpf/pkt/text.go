// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pkt

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

var flagNames = []struct {
	c byte
	f uint8
}{{'S', SYN}, {'F', FIN}, {'R', RST}, {'P', PSH}, {'.', ACK}}

// String prints the line that Parse reads. MACs are left out.
func (p *Packet) String() string {
	switch p.Ether {
	case EtherARP:
		if p.Op == 1 {
			return fmt.Sprintf("arp who-has %v tell %v", p.Dst, p.Src)
		}
		return fmt.Sprintf("arp reply %v is-at %v", p.Src, p.ArpSrc)
	case EtherIP, EtherIP6:
		return p.ipString()
	}
	return fmt.Sprintf("ether %#04x", p.Ether)
}

func (p *Packet) ipString() string {
	var b strings.Builder
	src, dst := p.Src.String(), p.Dst.String()
	if p.Frag == nil && (p.Proto == TCP || p.Proto == UDP || p.Proto == SCTP) {
		src += "." + strconv.Itoa(int(p.SrcPort))
		dst += "." + strconv.Itoa(int(p.DstPort))
	}
	fmt.Fprintf(&b, "%s > %s: ", src, dst)
	switch {
	case p.Frag != nil:
		more := ""
		if p.Frag.More {
			more = "+"
		}
		fmt.Fprintf(&b, "proto %d frag %d:%d%s", p.Proto, p.Frag.ID, p.Frag.Off, more)
	case p.Proto == TCP:
		b.WriteString("tcp ")
		n := b.Len()
		for _, f := range flagNames {
			if p.Flags&f.f != 0 {
				b.WriteByte(f.c)
			}
		}
		if b.Len() == n {
			b.WriteByte('-')
		}
		if p.Flags&RST != 0 {
			fmt.Fprintf(&b, " seq %d ack %d", p.Seq, p.Ack)
		}
	case p.Proto == UDP:
		b.WriteString("udp")
		if p.NoSum {
			b.WriteString(" nosum")
		}
	case p.Proto == SCTP:
		b.WriteString("sctp")
	case p.Proto == ICMP || p.Proto == ICMP6:
		b.WriteString(p.icmpString())
	default:
		fmt.Fprintf(&b, "proto %d", p.Proto)
	}
	if p.TTL != DefaultTTL {
		fmt.Fprintf(&b, " ttl %d", p.TTL)
	}
	if n := len(bytes.Trim(p.Data, "\x00")); n > 0 && p.Frag == nil {
		fmt.Fprintf(&b, " %q", p.Data)
	}
	return b.String()
}

func (p *Packet) icmpString() string {
	name, echo, reply := "icmp", uint8(8), uint8(0)
	if p.Proto == ICMP6 {
		name, echo, reply = "icmp6", 128, 129
	}
	switch {
	case p.Inner != nil:
		in := *p.Inner
		in.TTL, in.Data, in.NoSum = DefaultTTL, nil, false
		return fmt.Sprintf("%s error %d.%d %d [%s]", name, p.Type, p.Code, p.MTU, in.ipString())
	case p.isND():
		s := fmt.Sprintf("%s nd %d", name, p.Type)
		if p.Target.IsValid() {
			s += " " + p.Target.String()
		}
		if p.NAFlag != 0 {
			s += fmt.Sprintf(" flags %#x", p.NAFlag>>28)
		}
		if p.Link != nil {
			s += " mac " + p.Link.String()
		}
		return s
	case p.Type == echo:
		return fmt.Sprintf("%s echo %d", name, p.ID)
	case p.Type == reply:
		return fmt.Sprintf("%s reply %d", name, p.ID)
	}
	return fmt.Sprintf("%s type %d %d", name, p.Type, p.ID)
}

// Parse reads a line. MACs stay zero unless "from MAC" or "to MAC" gives them.
func Parse(line string) (*Packet, error) {
	p := &Packet{TTL: DefaultTTL}
	if rest, ok := strings.CutPrefix(line, "arp "); ok {
		return p, p.parseARP(rest)
	}
	if rest, ok := strings.CutPrefix(line, "ether "); ok {
		n, err := strconv.ParseUint(rest, 0, 16)
		p.Ether, p.Data = uint16(n), make([]byte, 46)
		return p, err
	}
	src, rest, ok := strings.Cut(line, " > ")
	dst, rest, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 {
		return nil, fmt.Errorf("packet %q: want SRC > DST: PROTO", line)
	}
	words := strings.Fields(rest)
	ports := len(words) > 0 && (words[0] == "tcp" || words[0] == "udp" || words[0] == "sctp")
	var err error
	if p.Src, p.SrcPort, err = endpoint(src, ports); err != nil {
		return nil, err
	}
	if p.Dst, p.DstPort, err = endpoint(dst, ports); err != nil {
		return nil, err
	}
	p.Ether = EtherIP
	if p.Src.Is6() {
		p.Ether = EtherIP6
	}
	if err := p.parseL4(rest); err != nil {
		return nil, fmt.Errorf("packet %q: %w", line, err)
	}
	return p, nil
}

// MustParse is Parse for lines in test sources.
func MustParse(line string) *Packet {
	p, err := Parse(line)
	if err != nil {
		panic(err)
	}
	return p
}

func endpoint(s string, port bool) (netip.Addr, uint16, error) {
	var n uint64
	var err error
	if port {
		i := strings.LastIndexByte(s, '.')
		if i < 0 {
			return netip.Addr{}, 0, fmt.Errorf("%q: want ADDRESS.PORT", s)
		}
		if n, err = strconv.ParseUint(s[i+1:], 10, 16); err != nil {
			return netip.Addr{}, 0, err
		}
		s = s[:i]
	}
	a, err := netip.ParseAddr(s)
	return a, uint16(n), err
}

func parseMAC(s string) (m MAC, err error) {
	_, err = fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5])
	return m, err
}

func (p *Packet) parseARP(s string) error {
	p.Ether = EtherARP
	w := strings.Fields(s)
	var err error
	switch {
	case len(w) == 4 && w[0] == "who-has":
		p.Op = 1
		if p.Dst, err = netip.ParseAddr(w[1]); err == nil {
			p.Src, err = netip.ParseAddr(w[3])
		}
	case len(w) == 4 && w[0] == "reply":
		p.Op = 2
		p.Dst = netip.IPv4Unspecified()
		if p.Src, err = netip.ParseAddr(w[1]); err == nil {
			p.ArpSrc, err = parseMAC(w[3])
		}
	default:
		err = fmt.Errorf("arp %q", s)
	}
	return err
}

func (p *Packet) parseL4(s string) error {
	if i, j := strings.IndexByte(s, '['), strings.LastIndexByte(s, ']'); i >= 0 && j > i {
		in, err := Parse(s[i+1 : j])
		if err != nil {
			return err
		}
		p.Inner, s = in, s[:i]+s[j+1:]
	}
	if i := strings.IndexByte(s, '"'); i >= 0 {
		d, err := strconv.Unquote(strings.TrimSpace(s[i:]))
		if err != nil {
			return err
		}
		p.Data, s = []byte(d), s[:i]
	}
	w := strings.Fields(s)
	num := func(i, bits int) uint64 {
		if i >= len(w) {
			return 0
		}
		n, _ := strconv.ParseUint(w[i], 0, bits)
		return n
	}
	i := 1
	switch w[0] {
	case "tcp":
		p.Proto = TCP
		p.Seq = 1000
		if len(w) < 2 {
			return fmt.Errorf("tcp without flags")
		}
		for _, c := range []byte(w[1]) {
			for _, f := range flagNames {
				if f.c == c {
					p.Flags |= f.f
				}
			}
		}
		i = 2
	case "udp":
		p.Proto = UDP
	case "sctp":
		p.Proto = SCTP
	case "proto":
		p.Proto, i = uint8(num(1, 8)), 2
	case "icmp", "icmp6":
		p.Proto = ICMP
		if w[0] == "icmp6" {
			p.Proto = ICMP6
		}
		if len(w) < 3 {
			return fmt.Errorf("%s: want a kind and a number", w[0])
		}
		i = 3
		switch w[1] {
		case "echo":
			p.Type, p.ID = map[uint8]uint8{ICMP: 8, ICMP6: 128}[p.Proto], uint16(num(2, 16))
		case "reply":
			p.Type, p.ID = map[uint8]uint8{ICMP: 0, ICMP6: 129}[p.Proto], uint16(num(2, 16))
		case "error":
			if _, err := fmt.Sscanf(w[2], "%d.%d", &p.Type, &p.Code); err != nil {
				return err
			}
			p.MTU, i = uint32(num(3, 32)), 4
		case "nd":
			p.Type, p.TTL = uint8(num(2, 8)), 255
			if len(w) > 3 {
				if a, err := netip.ParseAddr(w[3]); err == nil {
					p.Target, i = a, 4
				}
			}
		case "type":
			p.Type, p.ID, i = uint8(num(2, 8)), uint16(num(3, 16)), 4
		default:
			return fmt.Errorf("%s %s", w[0], w[1])
		}
	default:
		return fmt.Errorf("protocol %q", w[0])
	}
	return p.parseRest(w, i, num)
}

func (p *Packet) parseRest(w []string, i int, num func(int, int) uint64) error {
	var err error
	for i < len(w) && err == nil {
		switch w[i] {
		case "nosum":
			p.NoSum = true
			i++
			continue
		case "df":
			p.DF = true
			i++
			continue
		case "ttl":
			p.TTL = uint8(num(i+1, 8))
		case "seq":
			p.Seq = uint32(num(i+1, 32))
		case "ack":
			p.Ack = uint32(num(i+1, 32))
		case "flags":
			p.NAFlag = uint32(num(i+1, 32)) << 28
		case "len": // pads the payload so that the IP packet has that many bytes
			p.Data = make([]byte, int(num(i+1, 16))-len(p.Bytes())+14)
		case "mac", "from", "to":
			if i+1 == len(w) {
				return fmt.Errorf("%s: no address", w[i])
			}
			var m MAC
			m, err = parseMAC(w[i+1])
			switch w[i] {
			case "mac":
				p.Link = &m
			case "from":
				p.From = m
			default:
				p.To = m
			}
		default:
			return fmt.Errorf("word %q", w[i])
		}
		i += 2
	}
	return err
}

// Reverse is the answer the far end would send: addresses and ports turned
// round, an echo request answered, TCP acknowledged.
func (p *Packet) Reverse() *Packet {
	q := *p
	q.Src, q.Dst = p.Dst, p.Src
	q.SrcPort, q.DstPort = p.DstPort, p.SrcPort
	q.From, q.To = p.To, p.From
	q.TTL = DefaultTTL
	switch p.Proto {
	case TCP:
		q.Flags = ACK
	case ICMP:
		q.Type = map[uint8]uint8{8: 0, 0: 8}[p.Type]
	case ICMP6:
		q.Type = map[uint8]uint8{128: 129, 129: 128}[p.Type]
	}
	return &q
}
