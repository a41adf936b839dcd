// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Blocks and options of pcapng, draft-ietf-opsawg-pcapng section 4.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockStats     = 5
	blockEnhanced  = 6
	byteOrderMagic = 0x1a2b3c4d

	optEnd         = 0
	optComment     = 1
	optIfName      = 2
	optIfDescr     = 3
	optIfTsresol   = 9
	optIfTsoffset  = 14
	optEpbFlags    = 2
	optIsbReceived = 4
	optIsbDropped  = 5
	optShbUser     = 4

	nanoseconds = 9 // if_tsresol: 10^-9
)

// Writer writes a pcapng section. Each call writes whole blocks at once, so that
// what is written is always a readable file.
type Writer struct {
	w    io.Writer
	buf  []byte
	next int
}

// NewWriter writes the head of a section. app is who captures.
func NewWriter(w io.Writer, app string) (*Writer, error) {
	x := &Writer{w: w}
	b := x.begin(blockSection)
	b = binary.LittleEndian.AppendUint32(b, byteOrderMagic)
	b = binary.LittleEndian.AppendUint16(b, 1) // version 1.0
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0)) // the section's length is not known
	b = option(b, optShbUser, []byte(app))
	return x, x.end(option(b, optEnd, nil))
}

func (w *Writer) begin(kind uint32) []byte {
	b := binary.LittleEndian.AppendUint32(w.buf[:0], kind)
	return append(b, 0, 0, 0, 0) // length, filled by end
}

func (w *Writer) end(b []byte) error {
	n := uint32(len(b) + 4)
	binary.LittleEndian.PutUint32(b[4:], n)
	w.buf = binary.LittleEndian.AppendUint32(b, n)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("write pcapng: %w", err)
	}
	return nil
}

func option(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...), len(value))
}

func pad(b []byte, n int) []byte {
	for ; n%4 != 0; n++ {
		b = append(b, 0)
	}
	return b
}

// Interface adds an interface and returns its index. Times of its packets have
// nanoseconds.
func (w *Writer) Interface(i Interface) (int, error) {
	b := w.begin(blockInterface)
	b = binary.LittleEndian.AppendUint16(b, i.Link)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint32(b, i.Snaplen)
	if i.Name != "" {
		b = option(b, optIfName, []byte(i.Name))
	}
	if i.Description != "" {
		b = option(b, optIfDescr, []byte(i.Description))
	}
	b = option(b, optIfTsresol, []byte{nanoseconds})
	w.next++
	return w.next - 1, w.end(option(b, optEnd, nil))
}

// Packet adds a packet.
func (w *Writer) Packet(p Packet) error {
	b := w.begin(blockEnhanced)
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Interface))
	b = stamp(b, p.Time)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.Data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Length))
	b = pad(append(b, p.Data...), len(p.Data))
	if p.Comment != "" {
		b = option(b, optComment, []byte(p.Comment[:min(len(p.Comment), 1<<15)]))
	}
	if p.Direction != Unknown {
		b = option(b, optEpbFlags, binary.LittleEndian.AppendUint32(nil, uint32(p.Direction)))
	}
	return w.end(option(b, optEnd, nil))
}

// Stats tells what an interface saw until now: packets, and those that were lost.
func (w *Writer) Stats(interfaceIndex int, at time.Time, received, lost uint64) error {
	b := w.begin(blockStats)
	b = binary.LittleEndian.AppendUint32(b, uint32(interfaceIndex))
	b = stamp(b, at)
	b = option(b, optIsbReceived, binary.LittleEndian.AppendUint64(nil, received))
	b = option(b, optIsbDropped, binary.LittleEndian.AppendUint64(nil, lost))
	return w.end(option(b, optEnd, nil))
}

func stamp(b []byte, t time.Time) []byte {
	ns := uint64(t.UnixNano())
	b = binary.LittleEndian.AppendUint32(b, uint32(ns>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(ns))
}
