// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pcap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// maxBlock bounds one block or packet of a file: our choice, far over what a
// packet can be.
const maxBlock = 16 << 20

// ErrFormat is in errors about files that are no captures or are damaged.
var ErrFormat = errors.New("not a capture in pcap or pcapng form")

// Reader reads a capture of either form.
type Reader struct {
	r     *bufio.Reader
	order binary.ByteOrder
	ng    bool
	nanos bool // of pcap: times have nanoseconds

	// Interfaces of what was read until now. A pcap file has one.
	Interfaces []Interface
	clocks     []clock
	lost       uint64
}

// clock is how an interface's times are counted.
type clock struct {
	ticks  uint64 // a second
	offset int64  // seconds
}

// NewReader looks at the beginning of r.
func NewReader(r io.Reader) (*Reader, error) {
	x := &Reader{r: bufio.NewReaderSize(r, 1<<16)}
	head, err := x.r.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(head))
	}
	switch magic := binary.LittleEndian.Uint32(head); magic {
	case blockSection:
		x.ng = true
		return x, nil
	case 0xa1b2c3d4, 0xa1b23c4d:
		x.order = binary.LittleEndian
		x.nanos = magic == 0xa1b23c4d
	case 0xd4c3b2a1, 0x4d3cb2a1:
		x.order = binary.BigEndian
		x.nanos = magic == 0x4d3cb2a1
	default:
		return nil, fmt.Errorf("%w: begins with %#x", ErrFormat, head)
	}
	b := make([]byte, 24)
	if _, err := io.ReadFull(x.r, b); err != nil {
		return nil, fmt.Errorf("%w: its head is cut short", ErrFormat)
	}
	x.Interfaces = []Interface{{Link: uint16(x.order.Uint32(b[20:])), Snaplen: x.order.Uint32(b[16:])}}
	return x, nil
}

// Lost is how many packets the capture says it lost, until now.
func (r *Reader) Lost() uint64 { return r.lost }

// Next is the next packet; io.EOF at the end. A file that ends within a packet is
// an error of class ErrFormat.
func (r *Reader) Next() (Packet, error) {
	if !r.ng {
		return r.nextPcap()
	}
	for {
		_, p, err := r.block()
		if err != nil {
			return Packet{}, err
		}
		if p != nil {
			return *p, nil
		}
	}
}

func (r *Reader) nextPcap() (Packet, error) {
	b := make([]byte, 16)
	switch _, err := io.ReadFull(r.r, b); {
	case errors.Is(err, io.EOF):
		return Packet{}, io.EOF
	case err != nil:
		return Packet{}, fmt.Errorf("%w: cut short", ErrFormat)
	}
	n := r.order.Uint32(b[8:])
	data, err := r.take(n)
	if err != nil {
		return Packet{}, err
	}
	fraction := int64(r.order.Uint32(b[4:]))
	if !r.nanos {
		fraction *= 1000
	}
	return Packet{Time: time.Unix(int64(r.order.Uint32(b)), fraction), Length: int(r.order.Uint32(b[12:])), Data: data}, nil
}

// take reads n bytes, not believing n before they are there.
func (r *Reader) take(n uint32) ([]byte, error) {
	if n > maxBlock {
		return nil, fmt.Errorf("%w: %d bytes in one piece", ErrFormat, n)
	}
	b, err := io.ReadAll(io.LimitReader(r.r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = fmt.Errorf("%w: cut short", ErrFormat)
	}
	return b, err
}

// Copy copies blocks of a pcapng to w, whole ones only, and counts packets. It
// ends at the end of r without an error.
func (r *Reader) Copy(w io.Writer) (packets int, err error) {
	if !r.ng {
		return 0, fmt.Errorf("%w: only pcapng is copied", ErrFormat)
	}
	for {
		raw, p, err := r.block()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return packets, err
		}
		if _, err := w.Write(raw); err != nil {
			return packets, err
		}
		if p != nil {
			packets++
		}
	}
}

// block reads one block; p is nil where it holds no packet.
func (r *Reader) block() (raw []byte, p *Packet, err error) {
	head, err := r.r.Peek(12)
	if len(head) == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, nil, io.EOF
		}
		return nil, nil, err
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: cut short", ErrFormat)
		}
		return nil, nil, err
	}
	if binary.LittleEndian.Uint32(head) == blockSection {
		switch {
		case binary.LittleEndian.Uint32(head[8:]) == byteOrderMagic:
			r.order = binary.LittleEndian
		case binary.BigEndian.Uint32(head[8:]) == byteOrderMagic:
			r.order = binary.BigEndian
		default:
			return nil, nil, fmt.Errorf("%w: a section of no byte order", ErrFormat)
		}
		r.Interfaces, r.clocks = nil, nil
	}
	kind, n := r.order.Uint32(head), r.order.Uint32(head[4:])
	if n < 12 || n%4 != 0 {
		return nil, nil, fmt.Errorf("%w: a block of %d bytes", ErrFormat, n)
	}
	if raw, err = r.take(n); err != nil {
		return nil, nil, err
	}
	if r.order.Uint32(raw[n-4:]) != n {
		return nil, nil, fmt.Errorf("%w: a block with two lengths", ErrFormat)
	}
	body := raw[8 : n-4]
	switch kind {
	case blockInterface:
		err = r.interfaceBlock(body)
	case blockEnhanced, blockPacket:
		p, err = r.packetBlock(body, kind)
	case blockSimple:
		p, err = r.simpleBlock(body)
	case blockStats:
		r.statsBlock(body)
	}
	return raw, p, err
}

// options calls f for each option of b; what is damaged ends it.
func (r *Reader) options(b []byte, f func(code uint16, v []byte)) {
	for len(b) >= 4 {
		code, n := r.order.Uint16(b), int(r.order.Uint16(b[2:]))
		padded := (n + 3) &^ 3
		if code == optEnd || len(b) < 4+padded {
			return
		}
		f(code, b[4:4+n])
		b = b[4+padded:]
	}
}

func (r *Reader) interfaceBlock(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("%w: an interface of %d bytes", ErrFormat, len(b))
	}
	i, c := Interface{Link: r.order.Uint16(b), Snaplen: r.order.Uint32(b[4:])}, clock{ticks: 1e6}
	r.options(b[8:], func(code uint16, v []byte) {
		switch {
		case code == optIfName:
			i.Name = string(v)
		case code == optIfDescr:
			i.Description = string(v)
		case code == optIfTsresol && len(v) == 1:
			c.ticks = resolution(v[0])
		case code == optIfTsoffset && len(v) == 8:
			c.offset = int64(r.order.Uint64(v))
		}
	})
	r.Interfaces, r.clocks = append(r.Interfaces, i), append(r.clocks, c)
	return nil
}

// resolution is ticks a second of if_tsresol: a power of ten, or of two.
func resolution(v byte) uint64 {
	if v&0x80 != 0 {
		return 1 << min(v&0x7f, 63)
	}
	n := uint64(1)
	for range min(v, 19) {
		n *= 10
	}
	return n
}

func (c clock) time(high, low uint32) time.Time {
	n := uint64(high)<<32 | uint64(low)
	whole, rest := n/c.ticks, n%c.ticks
	hi, lo := bits.Mul64(rest, uint64(time.Second))
	ns, _ := bits.Div64(hi, lo, c.ticks) // rest < ticks, so it fits
	return time.Unix(int64(whole)+c.offset, int64(ns))
}

func (r *Reader) packetBlock(b []byte, kind uint32) (*Packet, error) {
	if len(b) < 20 {
		return nil, fmt.Errorf("%w: a packet block of %d bytes", ErrFormat, len(b))
	}
	at := int(r.order.Uint32(b))
	if kind == blockPacket { // two bytes of drop count follow
		at = int(r.order.Uint16(b))
	}
	if at < 0 || at >= len(r.Interfaces) {
		return nil, fmt.Errorf("%w: a packet of interface %d of %d", ErrFormat, at, len(r.Interfaces))
	}
	n := int(r.order.Uint32(b[12:]))
	if n < 0 || n > len(b)-20 {
		return nil, fmt.Errorf("%w: a packet of %d bytes in a block of %d", ErrFormat, n, len(b))
	}
	p := &Packet{Time: r.clocks[at].time(r.order.Uint32(b[4:]), r.order.Uint32(b[8:])), Interface: at, Length: int(r.order.Uint32(b[16:])), Data: b[20 : 20+n]}
	r.options(b[min(len(b), 20+(n+3)&^3):], func(code uint16, v []byte) {
		switch {
		case code == optComment && p.Comment == "":
			p.Comment = string(v)
		case code == optEpbFlags && len(v) == 4:
			p.Direction = Direction(r.order.Uint32(v) & 3 % 3)
		}
	})
	return p, nil
}

func (r *Reader) simpleBlock(b []byte) (*Packet, error) {
	if len(b) < 4 || len(r.Interfaces) == 0 {
		return nil, fmt.Errorf("%w: a simple packet without interface or length", ErrFormat)
	}
	length := int(r.order.Uint32(b))
	n := min(length, len(b)-4)
	if s := int(r.Interfaces[0].Snaplen); s > 0 {
		n = min(n, s)
	}
	return &Packet{Length: length, Data: b[4 : 4+max(n, 0)]}, nil
}

func (r *Reader) statsBlock(b []byte) {
	if len(b) < 12 {
		return
	}
	r.options(b[12:], func(code uint16, v []byte) {
		if code == optIsbDropped && len(v) == 8 {
			r.lost = r.order.Uint64(v)
		}
	})
}
