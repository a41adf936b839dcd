// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// The bytes below are the protocol: an old agent must understand a new host.
func TestGoldenBytes(t *testing.T) {
	nonce := [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	m, err := Encode(Start, 7, Base{ContainerId: VM})
	if err != nil {
		t.Fatal(err)
	}
	start, err := m.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	if err := WriteHead(&head, StreamHead{Stream: StreamStdin, ContainerId: "a", Key: 3}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		got        []byte
	}{
		{"hello", "474154454856 4d31 01000000 02000000 000102030405060708090a0b0c0d0e0f", Hello{Min: 1, Max: 2, Nonce: nonce}.Bytes()},
		{"welcome", "4741544556 4d4831 01000000 00000000 000102030405060708090a0b0c0d0e0f", Welcome{Version: 1, Nonce: nonce}.Bytes()},
		{"start", "01021010 46000000 0700000000000000" + hex.EncodeToString([]byte(`{"ContainerId":"`+VM+`"}`)), start},
		{"head", hex.EncodeToString([]byte(`{"Stream":"stdin","ContainerId":"a","Key":3}` + "\n")), head.Bytes()},
	} {
		if want := strings.ReplaceAll(c.want, " ", ""); hex.EncodeToString(c.got) != want {
			t.Errorf("%s:\n got %x\nwant %s", c.name, c.got, want)
		}
	}
	if Create.Response() != 0x20100101 || SetTime.Response() != 0x20200101 || !NotifyGoodbye.IsNotification() {
		t.Error("categories of types are mixed up")
	}
}

func TestPreambleFindsTheMagic(t *testing.T) {
	h := NewHello()
	for _, junk := range []string{"", "x", "GATE", "GATEHVM", "GGATEHVM0", strings.Repeat("GATEVMH1", 5), strings.Repeat("\x00", 5000)} {
		r := bytes.NewReader(append(append([]byte(junk), h.Bytes()...), "rest"...))
		got, err := ReadHello(r)
		if err != nil || got != h {
			t.Errorf("after %.20q: %v, %v", junk, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Errorf("after %.20q: %q is left, want the rest", junk, rest)
		}
	}
	if _, err := ReadHello(strings.NewReader("GATEHVM1short")); err == nil {
		t.Error("a Hello cut short is accepted")
	}
}

// What an older session left in the pipe is no answer to this Hello.
func TestWelcomeOfAnotherNonceIsSkipped(t *testing.T) {
	old, h := NewHello(), NewHello()
	r := bytes.NewReader(append(old.Answer().Bytes(), h.Answer().Bytes()...))
	if w, err := ReadWelcome(r, h); err != nil || w.Nonce != h.Nonce {
		t.Errorf("got %v, %v", w, err)
	}
	none := Hello{Min: 9, Max: 9, Nonce: h.Nonce}
	if _, err := ReadWelcome(bytes.NewReader(none.Answer().Bytes()), none); !errors.Is(err, ErrVersion) {
		t.Errorf("no common version: %v", err)
	}
}

func TestMessageSizesAreBounded(t *testing.T) {
	for name, b := range map[string]string{
		"too long":  "01021010" + "01004000" + "0000000000000000",
		"too short": "01021010" + "0f000000" + "0000000000000000",
		"cut":       "01021010" + "20000000" + "0000000000000000" + "7b",
		"header":    "010210",
	} {
		raw, err := hex.DecodeString(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadMessage(bytes.NewReader(raw)); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadMessage(bytes.NewReader(nil)); err != io.EOF {
		t.Errorf("nothing: %v, want EOF", err)
	}
	if _, err := (Message{Type: Start, Body: make([]byte, MaxMessage)}).Bytes(); !errors.Is(err, ErrMessage) {
		t.Errorf("a message too long to send: %v", err)
	}
	deep := strings.Repeat(`{"a":`, MaxDepth+1) + "1" + strings.Repeat("}", MaxDepth+1)
	var v any
	if err := Decode([]byte(deep), &v); !errors.Is(err, ErrMessage) {
		t.Errorf("deep JSON: %v", err)
	}
	if err := Decode([]byte(`{"a":"`+strings.Repeat("[", 1000)+`\"["}`), &v); err != nil {
		t.Errorf("brackets in a string: %v", err)
	}
	if _, err := ReadHead(strings.NewReader(strings.Repeat("x", MaxHead+1))); err == nil {
		t.Error("a head without end is accepted")
	}
}

func FuzzPreamble(f *testing.F) {
	f.Add([]byte("GATEHVM1"), true)
	f.Add(NewHello().Bytes(), false)
	f.Fuzz(func(t *testing.T, junk []byte, cut bool) {
		h := NewHello()
		in := append(bytes.Clone(junk), h.Bytes()...)
		if cut {
			in = junk
		}
		got, err := ReadHello(bytes.NewReader(in))
		if !cut && err != nil {
			t.Fatalf("a Hello after %q is not found: %v", junk, err)
		}
		if !cut && !bytes.Contains(junk, []byte(hostMagic[:1])) && got != h {
			t.Fatalf("after %q: %v", junk, got)
		}
		_, _ = ReadWelcome(bytes.NewReader(in), h)
	})
}

func FuzzMessage(f *testing.F) {
	m, _ := Encode(Create, 1, CreateRequest{Base: Base{ContainerId: "a"}})
	b, _ := m.Bytes()
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			m, err := ReadMessage(r)
			if err != nil {
				break
			}
			again, err := m.Bytes()
			if err != nil || !bytes.Contains(in, again) {
				t.Fatalf("%x is read as %x (%v)", in, again, err)
			}
			var res NegotiateResponse
			if Decode(m.Body, &res) == nil {
				_ = res.Err()
			}
		}
		_, _ = ReadHead(bytes.NewReader(in))
	})
}
