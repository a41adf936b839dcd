// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	hostMagic  = "GATEHVM1"
	guestMagic = "GATEVMH1"
	preamble   = 32 // bytes, either way
)

// ErrVersion: the two sides share no version of the protocol.
var ErrVersion = errors.New("no common version of the guest protocol")

// Hello is how a host begins a session.
type Hello struct {
	Min, Max uint32 // versions of the protocol
	Nonce    [16]byte
}

// NewHello offers what this package speaks, with a nonce of its own.
func NewHello() Hello {
	h := Hello{Min: Version, Max: Version}
	_, _ = rand.Read(h.Nonce[:]) // never fails: crypto/rand ends the process instead
	return h
}

// Bytes of a Hello as they go over the wire.
func (h Hello) Bytes() []byte {
	b := append(make([]byte, 0, preamble), hostMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.Min)
	b = binary.LittleEndian.AppendUint32(b, h.Max)
	return append(b, h.Nonce[:]...)
}

// ReadHello throws away bytes until it finds a Hello. It reads nothing beyond it.
func ReadHello(r io.Reader) (Hello, error) {
	b, err := resync(r, hostMagic)
	if err != nil {
		return Hello{}, err
	}
	return Hello{Min: binary.LittleEndian.Uint32(b), Max: binary.LittleEndian.Uint32(b[4:]), Nonce: [16]byte(b[8:])}, nil
}

// Welcome is the guest's answer to a Hello: the version both speak, 0 if there is
// none, and the nonce of the Hello it answers.
type Welcome struct {
	Version uint32
	Nonce   [16]byte
}

// Answer chooses the version.
func (h Hello) Answer() Welcome {
	w := Welcome{Nonce: h.Nonce}
	if h.Min <= Version && Version <= h.Max {
		w.Version = Version
	}
	return w
}

// Bytes of a Welcome as they go over the wire.
func (w Welcome) Bytes() []byte {
	b := append(make([]byte, 0, preamble), guestMagic...)
	b = binary.LittleEndian.AppendUint32(b, w.Version)
	b = append(b, 0, 0, 0, 0)
	return append(b, w.Nonce[:]...)
}

// ReadWelcome throws away bytes, answers to older Hellos among them, until it
// finds the answer to h. It reads nothing beyond it.
func ReadWelcome(r io.Reader, h Hello) (Welcome, error) {
	for {
		b, err := resync(r, guestMagic)
		if err != nil {
			return Welcome{}, err
		}
		w := Welcome{Version: binary.LittleEndian.Uint32(b), Nonce: [16]byte(b[8:])}
		if w.Nonce != h.Nonce {
			continue
		}
		if w.Version < h.Min || w.Version > h.Max {
			return w, fmt.Errorf("%w: the guest says %d, wanted %d to %d", ErrVersion, w.Version, h.Min, h.Max)
		}
		return w, nil
	}
}

// resync reads up to and with the magic, and returns the 24 bytes after it. The
// magic starts with a letter that does not come again in it, so a mismatch starts
// over at the byte that did not match.
func resync(r io.Reader, magic string) ([]byte, error) {
	var buf [preamble]byte
	for matched := 0; matched < len(magic); {
		n, err := r.Read(buf[:len(magic)-matched])
		for _, c := range buf[:n] {
			switch {
			case c == magic[matched]:
				matched++
			case c == magic[0]:
				matched = 1
			default:
				matched = 0
			}
		}
		if err != nil && matched < len(magic) {
			return nil, err
		}
	}
	rest := buf[:preamble-len(magic)]
	_, err := io.ReadFull(r, rest)
	return rest, err
}
