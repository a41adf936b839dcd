// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/binary"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const (
	ethLen = 14
	ethIP  = 0x0800
	ethARP = 0x0806
	ethIP6 = 0x86dd
	extMax = 4 // GH_EXT_MAX

	protoICMP, protoTCP, protoUDP, protoICMP6, protoSCTP = 1, 6, 17, 58, 132

	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10

	ndRS, ndRA, ndNS, ndNA, ndRedirect = 133, 134, 135, 136, 137
)

// next is what the parser says comes next; a refusal is negative.
type next int

const (
	nextFlow next = iota
	nextFrag
	nextError
	nextND
)

func bad(r bpf.DropReason) next { return -next(r) }

type l4kind uint8

const (
	l4None l4kind = iota
	l4TCP
	l4UDP
	l4ICMP
	l4ICMP6
	l4SCTP
)

type fragKind uint8

const (
	fragNone fragKind = iota
	fragFirst
	fragLater
)

// header is what the parser finds besides the key (struct gh_hdr).
type header struct {
	fragID   uint32 // in wire order
	l4Off    int
	ipLen    int
	l4       l4kind
	frag     fragKind
	tcpFlags uint8
	ttl, tos uint8
	icmpType uint8
	group    bool
	opts     bool
}

// at returns n bytes at off, or nil.
func at(b []byte, off, n int) []byte {
	if off < 0 || off+n > len(b) {
		return nil
	}
	return b[off : off+n]
}

func u16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// parseL4 fills ports, id and flags.
func parseL4(b []byte, off int, k *key, h *header) next {
	switch k.proto {
	case protoTCP:
		l := at(b, off, 20)
		if l == nil {
			return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
		}
		k.sport, k.dport, h.l4, h.tcpFlags = u16(l), u16(l[2:]), l4TCP, l[13]
		return nextFlow
	case protoUDP, protoSCTP:
		l := at(b, off, 8)
		if l == nil {
			return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
		}
		k.sport, k.dport, h.l4 = u16(l), u16(l[2:]), l4UDP
		if k.proto == protoSCTP {
			h.l4 = l4SCTP
		}
		return nextFlow
	case protoICMP, protoICMP6:
		l := at(b, off, 8)
		if l == nil {
			return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
		}
		t := l[0]
		h.icmpType = t
		if k.proto == protoICMP {
			switch t {
			case 3, 4, 11, 12:
				return nextError
			case 0, 8, 13, 14:
				k.sport, h.l4 = u16(l[4:]), l4ICMP
				return nextFlow
			}
			break
		}
		if t >= 1 && t <= 4 {
			return nextError
		}
		if t >= ndRS && t <= ndRedirect {
			return nextND
		}
		h.l4 = l4ICMP6
		if t == 128 || t == 129 {
			k.sport = u16(l[4:])
			return nextFlow
		}
	}
	k.flags |= uint8(bpf.SwitchGhFkeyFlagsGH_FKEY_L3)
	return nextFlow
}

// overlaps: a later fragment, its offset in units of 8 bytes, that would rewrite
// a TCP header.
func overlaps(offset uint16, proto uint8) bool { return proto == protoTCP && offset < 3 }

func parse4(b []byte, k *key, h *header) next {
	k.fam = 4
	p := at(b, ethLen, 20)
	if p == nil || p[0]>>4 != 4 {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	ihl := int(p[0]&15) * 4
	if ihl < 20 {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	h.ipLen = int(u16(p[2:]))
	if h.ipLen == 0 {
		h.ipLen = len(b) - ethLen
	}
	if h.ipLen < ihl || h.ipLen > len(b)-ethLen {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	h.l4Off, h.opts, h.ttl, h.tos = ethLen+ihl, ihl != 20, p[8], p[1]
	copy(k.src[:], v4mapped(p[12:16]))
	copy(k.dst[:], v4mapped(p[16:20]))
	k.proto = p[9]
	if w := u16(p[6:]); w&0x3fff != 0 {
		h.fragID, h.frag = uint32(u16(p[4:])), fragFirst
		if w&0x1fff != 0 {
			h.frag = fragLater
			if overlaps(w&0x1fff, k.proto) {
				return bad(bpf.SwitchGhDropReasonGH_DROP_FRAG_TINY)
			}
			return nextFrag
		}
	}
	if k.proto == protoICMP6 {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	return ofFragment(parseL4(b, h.l4Off, k, h), h, false)
}

// ofFragment corrects what the parser says when the packet is a first fragment.
func ofFragment(n next, h *header, six bool) next {
	if h.frag == fragNone {
		return n
	}
	switch {
	case n == bad(bpf.SwitchGhDropReasonGH_DROP_PARSE):
		return bad(bpf.SwitchGhDropReasonGH_DROP_FRAG_TINY)
	case n == nextFlow:
		return nextFrag
	case n == nextND && six:
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	return n
}

func v4mapped(b []byte) []byte {
	return append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, b...)
}

func isExt(proto uint8) bool { return proto == 0 || proto == 43 || proto == 44 || proto == 60 }

// ext walks IPv6 extension headers.
func ext(b []byte, off int, proto uint8, h *header) (int, uint8, next) {
	for range extMax {
		if !isExt(proto) {
			return off, proto, nextFlow
		}
		e := at(b, off, 8)
		if e == nil {
			return off, 0, bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
		}
		h.opts = true
		if proto == 44 {
			w := u16(e[2:])
			off += 8
			if w&0xfff9 != 0 {
				h.fragID, h.frag = binary.BigEndian.Uint32(e[4:]), fragFirst
				if w&0xfff8 != 0 {
					h.frag = fragLater
					if overlaps(w>>3, e[0]) {
						return off, 0, bad(bpf.SwitchGhDropReasonGH_DROP_FRAG_TINY)
					}
					return off, e[0], nextFlow
				}
			}
		} else {
			off += (int(e[1]) + 1) * 8
		}
		proto = e[0]
	}
	if isExt(proto) {
		return off, 0, bad(bpf.SwitchGhDropReasonGH_DROP_EXT_HDR)
	}
	return off, proto, nextFlow
}

func parse6(b []byte, k *key, h *header) next {
	k.fam = 6
	p := at(b, ethLen, 40)
	if p == nil || p[0]>>4 != 6 {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	h.ipLen = int(u16(p[4:])) + 40
	if h.ipLen == 40 && p[6] != 59 {
		h.ipLen = len(b) - ethLen
	}
	if h.ipLen > len(b)-ethLen {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	h.ttl, h.tos = p[7], uint8(u16(p)>>4)
	copy(k.src[:], p[8:24])
	copy(k.dst[:], p[24:40])
	off, proto, n := ext(b, ethLen+40, p[6], h)
	if n < 0 {
		return n
	}
	if off > len(b) {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	k.proto = proto
	h.l4Off = off
	if h.frag == fragLater {
		return nextFrag
	}
	if proto == protoICMP {
		return bad(bpf.SwitchGhDropReasonGH_DROP_PARSE)
	}
	return ofFragment(parseL4(b, off, k, h), h, true)
}
