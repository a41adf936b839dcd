// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pcap

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Filter chooses packets. The zero value takes all. Its words are those of
// tcpdump, as far as they go:
//
//	host ADDRESS   net PREFIX   port N      also after src or dst: src port 53
//	tcp udp icmp icmp6 sctp     proto N     ip ip6 arp
//	dir in   dir out                        which way, seen from the interface
//	dropped                                 what came no further
//	not X   X and Y   X or Y   ( X )        and binds closer than or
type Filter struct{ e node }

// Subject is what a Filter looks at.
type Subject struct {
	Head
	Direction Direction
	Dropped   bool
}

// FilterError says where an expression is wrong.
type FilterError struct {
	Text string // the whole expression
	At   int    // byte offset
	Why  string
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("filter %q: at character %d: %s", e.Text, e.At+1, e.Why)
}

// ParseFilter reads an expression; "" takes all. Errors are a *FilterError.
func ParseFilter(s string) (Filter, error) {
	p := parser{text: s}
	p.scan()
	if len(p.tokens) == 0 {
		return Filter{}, nil
	}
	e, err := p.or()
	if err != nil {
		return Filter{}, err
	}
	if p.i < len(p.tokens) {
		return Filter{}, p.fail("%q does not follow from what is before; join with and, or", p.tokens[p.i].word)
	}
	return Filter{e}, nil
}

// Match reports whether the filter takes s.
func (f Filter) Match(s *Subject) bool { return f.e == nil || f.e.match(s) }

// String is an expression that means the same.
func (f Filter) String() string {
	if f.e == nil {
		return ""
	}
	return f.e.String()
}

// InvalidParameter marks the error as the caller's (errdefs).
func (e *FilterError) InvalidParameter() {}

// node is a part of an expression.
type node interface {
	match(*Subject) bool
	String() string
}

type (
	notNode struct{ x node }
	andNode struct{ x, y node }
	orNode  struct{ x, y node }
)

func (n notNode) match(s *Subject) bool { return !n.x.match(s) }
func (n notNode) String() string        { return "not " + n.x.String() }
func (n andNode) match(s *Subject) bool { return n.x.match(s) && n.y.match(s) }
func (n andNode) String() string        { return "(" + n.x.String() + " and " + n.y.String() + ")" }
func (n orNode) match(s *Subject) bool  { return n.x.match(s) || n.y.match(s) }
func (n orNode) String() string         { return "(" + n.x.String() + " or " + n.y.String() + ")" }

// side is which end of a packet a term is about.
type side uint8

const (
	either side = iota
	source
	destination
)

func (d side) String() string { return [...]string{"", "src ", "dst "}[d] }

func (d side) any(src, dst bool) bool {
	switch d {
	case source:
		return src
	case destination:
		return dst
	}
	return src || dst
}

type netTerm struct {
	side side
	p    netip.Prefix
}

func (n netTerm) match(s *Subject) bool {
	return n.side.any(n.p.Contains(s.Src), n.p.Contains(s.Dst))
}

func (n netTerm) String() string {
	if n.p.IsSingleIP() {
		return n.side.String() + "host " + n.p.Addr().String()
	}
	return n.side.String() + "net " + n.p.String()
}

type portTerm struct {
	side side
	n    uint16
}

func (n portTerm) match(s *Subject) bool {
	return s.HasPorts && n.side.any(s.SrcPort == n.n, s.DstPort == n.n)
}
func (n portTerm) String() string { return fmt.Sprintf("%sport %d", n.side, n.n) }

type protoTerm uint8

func (n protoTerm) match(s *Subject) bool {
	return s.Proto == uint8(n) && (s.Ether == etherIP || s.Ether == etherIP6)
}
func (n protoTerm) String() string { return fmt.Sprintf("proto %d", uint8(n)) }

type etherTerm uint16

func (n etherTerm) match(s *Subject) bool { return s.Ether == uint16(n) }
func (n etherTerm) String() string {
	for name, t := range etherNames() {
		if t == uint16(n) {
			return name
		}
	}
	return ""
}

func etherNames() map[string]uint16 {
	return map[string]uint16{"ip": etherIP, "ip6": etherIP6, "arp": etherARP}
}

type dirTerm Direction

func (n dirTerm) match(s *Subject) bool { return s.Direction == Direction(n) }
func (n dirTerm) String() string        { return "dir " + Direction(n).String() }

type droppedTerm struct{}

func (droppedTerm) match(s *Subject) bool { return s.Dropped }
func (droppedTerm) String() string        { return "dropped" }

// ---- parsing ---------------------------------------------------------------

// maxDepth bounds how deep parentheses and nots go: our choice, so that an
// expression cannot use up the stack.
const maxDepth = 100

type token struct {
	word string
	at   int
}

type parser struct {
	text   string
	tokens []token
	i      int
	depth  int
}

func (p *parser) scan() {
	for i := 0; i < len(p.text); {
		switch c := p.text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '(' || c == ')':
			p.tokens = append(p.tokens, token{string(c), i})
			i++
		default:
			j := i
			for j < len(p.text) && !strings.ContainsRune(" \t\r\n()", rune(p.text[j])) {
				j++
			}
			p.tokens = append(p.tokens, token{strings.ToLower(p.text[i:j]), i})
			i = j
		}
	}
}

func (p *parser) peek() string {
	if p.i < len(p.tokens) {
		return p.tokens[p.i].word
	}
	return ""
}

func (p *parser) fail(format string, args ...any) error {
	at := len(p.text)
	if p.i < len(p.tokens) {
		at = p.tokens[p.i].at
	}
	return &FilterError{p.text, at, fmt.Sprintf(format, args...)}
}

func (p *parser) or() (node, error) {
	x, err := p.and()
	for err == nil && (p.peek() == "or" || p.peek() == "||") {
		p.i++
		var y node
		if y, err = p.and(); err == nil {
			x = orNode{x, y}
		}
	}
	return x, err
}

func (p *parser) and() (node, error) {
	x, err := p.not()
	for err == nil && (p.peek() == "and" || p.peek() == "&&") {
		p.i++
		var y node
		if y, err = p.not(); err == nil {
			x = andNode{x, y}
		}
	}
	return x, err
}

func (p *parser) not() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("nested deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	switch p.peek() {
	case "not", "!":
		p.i++
		x, err := p.not()
		if err != nil {
			return nil, err
		}
		return notNode{x}, nil
	case "(":
		p.i++
		x, err := p.or()
		if err != nil {
			return nil, err
		}
		if p.peek() != ")" {
			return nil, p.fail("a closing parenthesis is missing")
		}
		p.i++
		return x, nil
	}
	return p.term()
}

func (p *parser) term() (node, error) {
	d := either
	switch p.peek() {
	case "src":
		d = source
		p.i++
	case "dst":
		d = destination
		p.i++
	}
	word := p.peek()
	switch word {
	case "":
		return nil, p.fail("the expression ends where a word is missing: host, net, port, proto, tcp, udp, icmp, icmp6, sctp, ip, ip6, arp, dir or dropped")
	case "host", "net", "port":
		p.i++
		return p.value(d, word)
	}
	if d != either {
		return nil, p.fail("%q: after src and dst comes host, net or port", word)
	}
	if n, ok := protocols()[word]; ok {
		p.i++
		return protoTerm(n), nil
	}
	if n, ok := etherNames()[word]; ok {
		p.i++
		return etherTerm(n), nil
	}
	switch word {
	case "proto", "dir":
		p.i++
		return p.value(d, word)
	case "dropped":
		p.i++
		return droppedTerm{}, nil
	}
	return nil, p.fail("%q is none of host, net, port, src, dst, proto, tcp, udp, icmp, icmp6, sctp, ip, ip6, arp, dir, dropped, not", word)
}

// value is what follows a word that needs one.
func (p *parser) value(d side, word string) (node, error) {
	v := p.peek()
	if v == "" {
		return nil, p.fail("%s needs a value", word)
	}
	var n node
	switch word {
	case "host":
		a, err := netip.ParseAddr(strings.Trim(v, "[]"))
		if err != nil || a.Zone() != "" {
			return nil, p.fail("%q is not an address", v)
		}
		a = a.Unmap()
		n = netTerm{d, netip.PrefixFrom(a, a.BitLen())}
	case "net":
		x, err := netip.ParsePrefix(v)
		if err != nil {
			return nil, p.fail("%q is not a prefix, as 10.0.0.0/8", v)
		}
		if x != x.Masked() {
			return nil, p.fail("%q has bits behind its length; %s is meant?", v, x.Masked())
		}
		n = netTerm{d, x}
	case "port":
		x, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return nil, p.fail("%q is not a port", v)
		}
		n = portTerm{d, uint16(x)}
	case "proto":
		x, ok := Protocol(v)
		if !ok {
			return nil, p.fail("%q is not a protocol: tcp, udp, icmp, icmp6, sctp or a number up to 255", v)
		}
		n = protoTerm(x)
	case "dir":
		switch v {
		case "in":
			n = dirTerm(In)
		case "out":
			n = dirTerm(Out)
		default:
			return nil, p.fail("%q: dir is in or out", v)
		}
	}
	p.i++
	return n, nil
}
