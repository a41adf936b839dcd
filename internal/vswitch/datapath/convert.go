// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// conversion makes a value of one layout of one of another, field by field and
// by name. What only the new layout has is zero, what only the old one has is
// left out. A field that changed its kind, or the size of one in wire order, has
// no conversion; numbers may grow, and shrink where they fit.
type conversion struct {
	size  int // of the new layout
	moves []move
	nums  []resize
}

// move is bytes that are the same in both.
type move struct{ from, to, n int }

// resize is a number of another size.
type resize struct {
	from, to         int
	fromSize, toSize int
	signed           bool
}

// padding are the names by which maps.h and state.h keep room; its content means nothing.
var padding = regexp.MustCompile(`^(pad|zero)\d*$`)

// newConversion compares two types. A type that is nil is bytes without a layout,
// as of a map that the kernel has no BTF of.
func newConversion(from, to btf.Type) (conversion, error) {
	if from == nil || to == nil {
		return conversion{}, fmt.Errorf("the kernel has no BTF of it")
	}
	size, err := btf.Sizeof(to)
	if err != nil {
		return conversion{}, err
	}
	c := conversion{size: size}
	if err := c.add("", from, to, 0, 0); err != nil {
		return conversion{}, err
	}
	c.join()
	return c, nil
}

func (c *conversion) add(name string, from, to btf.Type, at, put int) error {
	from, to = btf.UnderlyingType(from), btf.UnderlyingType(to)
	switch t := to.(type) {
	case *btf.Struct:
		f, ok := from.(*btf.Struct)
		if !ok {
			return kindChanged(name, from, to)
		}
		return c.addStruct(name, f, t, at, put)
	case *btf.Array:
		f, ok := from.(*btf.Array)
		if !ok {
			return kindChanged(name, from, to)
		}
		if f.Nelems != t.Nelems {
			return fmt.Errorf("field %s: %d elements became %d", name, f.Nelems, t.Nelems)
		}
		fs, err := btf.Sizeof(f.Type)
		if err != nil {
			return err
		}
		ts, err := btf.Sizeof(t.Type)
		if err != nil {
			return err
		}
		for i := range int(t.Nelems) {
			if err := c.add(name, f.Type, t.Type, at+i*fs, put+i*ts); err != nil {
				return err
			}
		}
		return nil
	case *btf.Int, *btf.Enum:
		fs, signed, ok := number(from)
		if !ok {
			return kindChanged(name, from, to)
		}
		ts, _, _ := number(to)
		switch {
		case fs == ts:
			c.moves = append(c.moves, move{at, put, ts})
		case strings.HasSuffix(name, "_be"):
			return fmt.Errorf("field %s: %d bytes in wire order became %d", name, fs, ts)
		default:
			c.nums = append(c.nums, resize{at, put, fs, ts, signed})
		}
		return nil
	}
	return fmt.Errorf("field %s: cannot convert to %s", name, to)
}

func (c *conversion) addStruct(name string, from, to *btf.Struct, at, put int) error {
	old := map[string]btf.Member{}
	for _, m := range from.Members {
		old[m.Name] = m
	}
	for _, m := range to.Members {
		o, ok := old[m.Name]
		if !ok || padding.MatchString(m.Name) {
			continue
		}
		path := strings.TrimPrefix(name+"."+m.Name, ".")
		if m.Name == "" || o.BitfieldSize > 0 || m.BitfieldSize > 0 {
			return fmt.Errorf("field %q: bit fields and nameless members are not converted", path)
		}
		if err := c.add(path, o.Type, m.Type, at+int(o.Offset.Bytes()), put+int(m.Offset.Bytes())); err != nil {
			return err
		}
	}
	return nil
}

func kindChanged(name string, from, to btf.Type) error {
	if name == "" {
		return fmt.Errorf("%s became %s", from, to)
	}
	return fmt.Errorf("field %s: %s became %s", name, from, to)
}

func number(t btf.Type) (size int, signed, ok bool) {
	switch t := t.(type) {
	case *btf.Int:
		return int(t.Size), t.Encoding == btf.Signed, true
	case *btf.Enum:
		return int(t.Size), t.Signed, true
	}
	return 0, false, false
}

// join makes one move of neighbours.
func (c *conversion) join() {
	var out []move
	for _, m := range c.moves {
		if n := len(out) - 1; n >= 0 && out[n].from+out[n].n == m.from && out[n].to+out[n].n == m.to {
			out[n].n += m.n
			continue
		}
		out = append(out, m)
	}
	c.moves = out
}

// convert fills to, which has the new layout's size. It reports whether all
// numbers fit.
func (c *conversion) convert(to, from []byte) bool {
	clear(to)
	for _, m := range c.moves {
		copy(to[m.to:m.to+m.n], from[m.from:])
	}
	for _, r := range c.nums {
		var b [8]byte
		n := copy(b[:], from[r.from:r.from+r.fromSize])
		fill := byte(0)
		if r.signed && b[n-1]&0x80 != 0 {
			fill = 0xff
		}
		for ; n < len(b); n++ { // little endian, as the object is
			b[n] = fill
		}
		for _, x := range b[r.toSize:] {
			if x != fill {
				return false
			}
		}
		copy(to[r.to:r.to+r.toSize], b[:])
	}
	return true
}

// fieldAt is where a field of a struct is: its bytes' offset and size.
func fieldAt(t btf.Type, name string) (at, size int, ok bool) {
	s, isStruct := btf.UnderlyingType(t).(*btf.Struct)
	if !isStruct {
		return 0, 0, false
	}
	for _, m := range s.Members {
		if m.Name == name {
			n, err := btf.Sizeof(m.Type)
			return int(m.Offset.Bytes()), n, err == nil
		}
	}
	return 0, 0, false
}

// sameLayout reports whether values of both types are the same bytes, padding
// included.
func sameLayout(a, b btf.Type) bool {
	a, b = btf.UnderlyingType(a), btf.UnderlyingType(b)
	switch x := a.(type) {
	case *btf.Struct:
		y, ok := b.(*btf.Struct)
		if !ok || x.Size != y.Size || len(x.Members) != len(y.Members) {
			return false
		}
		for i, m := range x.Members {
			n := y.Members[i]
			if m.Name != n.Name || m.Offset != n.Offset || !sameLayout(m.Type, n.Type) {
				return false
			}
		}
		return true
	case *btf.Array:
		y, ok := b.(*btf.Array)
		return ok && x.Nelems == y.Nelems && sameLayout(x.Type, y.Type)
	}
	as, asigned, ok := number(a)
	bs, bsigned, ok2 := number(b)
	return ok && ok2 && as == bs && asigned == bsigned
}

// fold is gh_fold() of flow.h: the half of a flow entry's tag that says whose it
// is. It depends on the key's layout.
func fold(key []byte) uint32 {
	x := binary.NativeEndian.Uint32(key)
	for at := 4; at+4 <= len(key); at += 4 {
		x = (x<<5 | x>>27) ^ binary.NativeEndian.Uint32(key[at:])
	}
	return x * 0x9e3779b1 & 0xffff0000
}
