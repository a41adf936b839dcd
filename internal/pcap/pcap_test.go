// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// frame is an Ethernet frame from hex.
func frame(t testing.TB, ether uint16, rest ...byte) []byte {
	t.Helper()
	b := append(bytes.Repeat([]byte{2}, 12), byte(ether>>8), byte(ether))
	return append(b, rest...)
}

func tcp4(t testing.TB) []byte {
	return frame(t, etherIP, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3,
		0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0)
}

func udp6(t testing.TB) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 16, 0, 64}
	b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	b = append(b, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
	b = append(b, 17, 0, 1, 4, 0, 0, 0, 0) // hop-by-hop, then UDP
	return frame(t, etherIP6, append(b, 0, 53, 0x9c, 0x40, 0, 8, 0, 0)...)
}

func arp(t testing.TB) []byte {
	return frame(t, etherARP, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 3)
}

func TestDecode(t *testing.T) {
	tagged := append(bytes.Repeat([]byte{2}, 12), 0x81, 0, 0, 7)
	tagged = append(tagged, tcp4(t)[12:]...)
	late := tcp4(t)
	late[14+7] = 9
	for want, b := range map[string][]byte{
		"tcp 10.0.0.2:40000 > 10.0.0.3:80 [S]":        tcp4(t),
		"udp [fd00::1]:53 > [fd00::2]:40000":          udp6(t),
		"arp who-has 10.0.0.3 tell 10.0.0.2":          arp(t),
		"vlan 7 tcp 10.0.0.2:40000 > 10.0.0.3:80 [S]": tagged,
		"tcp 10.0.0.2 > 10.0.0.3 fragment":            late,
		"frame of type 0x88cc":                        frame(t, 0x88cc, 1, 2),
		"frame of type 0x0000":                        {1, 2},
	} {
		if got := Decode(b).String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	subjects := map[string]*Subject{
		"tcp": {Head: Decode(tcp4(t)), Direction: Out},
		"udp": {Head: Decode(udp6(t)), Direction: In, Dropped: true},
		"arp": {Head: Decode(arp(t)), Direction: Out},
	}
	for expr, want := range map[string]string{
		"":                                    "arp tcp udp",
		"tcp":                                 "tcp",
		"not tcp":                             "arp udp",
		"TCP or arp":                          "arp tcp",
		"host 10.0.0.3":                       "arp tcp",
		"host fd00::1":                        "udp",
		"src host 10.0.0.3":                   "",
		"dst host 10.0.0.3 and not arp":       "tcp",
		"net 10.0.0.0/8":                      "arp tcp",
		"src net fd00::/16":                   "udp",
		"port 80":                             "tcp",
		"src port 80":                         "",
		"dst port 80 or src port 53":          "tcp udp",
		"proto 17":                            "udp",
		"proto tcp and dir out":               "tcp",
		"dir in":                              "udp",
		"dropped":                             "udp",
		"ip6":                                 "udp",
		"not (tcp or udp) or port 80":         "arp tcp",
		"tcp or udp and dropped":              "tcp udp",
		"(tcp or udp) and dropped":            "udp",
		"! tcp && ! udp || port 53":           "arp udp",
		"not not arp":                         "arp",
		"host ::ffff:10.0.0.2 and ip":         "tcp",
		"port 80 and (host 10.0.0.2 and tcp)": "tcp",
	} {
		f, err := ParseFilter(expr)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		var got []string
		for _, name := range []string{"arp", "tcp", "udp"} {
			if f.Match(subjects[name]) {
				got = append(got, name)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q takes %q, want %q", expr, s, want)
		}
	}
	for expr, want := range map[string]struct {
		at  int
		why string
	}{
		"hots 10.0.0.1":                  {0, "none of host"},
		"tcp and":                        {7, "ends where"},
		"tcp port 80":                    {4, "join with and"},
		"host 10.0.0":                    {5, "not an address"},
		"net 10.0.0.1/8":                 {4, "10.0.0.0/8 is meant"},
		"port 70000":                     {5, "not a port"},
		"tcp and (udp or":                {15, "ends where"},
		"(tcp":                           {4, "parenthesis"},
		"dir up":                         {4, "in or out"},
		"src tcp":                        {4, "after src and dst"},
		"proto xtp":                      {6, "not a protocol"},
		"tcp )":                          {4, "join with"},
		"host":                           {4, "needs a value"},
		"host fe80::1%eth0":              {5, "not an address"},
		strings.Repeat("(", 200) + "tcp": {100, "nested deeper"},
	} {
		_, err := ParseFilter(expr)
		var fe *FilterError
		if !errors.As(err, &fe) || fe.At != want.at || !strings.Contains(fe.Why, want.why) {
			t.Errorf("%q: %v; want at %d %q", expr, err, want.at, want.why)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"tcp and (host 10.0.0.1 or not dst port 53)", "net fd00::/8 || ! dir in", "proto 47", "dropped"} {
		f.Add(s)
	}
	subjects := []*Subject{{Head: Decode(tcp4(f)), Direction: Out}, {Head: Decode(udp6(f)), Direction: In, Dropped: true}, {Head: Decode(arp(f))}}
	f.Fuzz(func(t *testing.T, s string) {
		x, err := ParseFilter(s)
		if err != nil {
			var fe *FilterError
			if !errors.As(err, &fe) || fe.At < 0 || fe.At > len(s) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		y, err := ParseFilter(x.String())
		if err != nil {
			if strings.Contains(err.Error(), "nested deeper") {
				return // and and or are written with parentheses
			}
			t.Fatalf("%q as %q: %v", s, x, err)
		}
		for _, p := range subjects {
			if x.Match(p) != y.Match(p) {
				t.Fatalf("%q and %q differ about %v", s, x, p.Head)
			}
		}
	})
}

func sample(t testing.TB) []Packet {
	at := time.Unix(1_700_000_000, 123_456_789)
	return []Packet{
		{Time: at, Direction: Out, Length: len(tcp4(t)), Data: tcp4(t)},
		{Time: at.Add(time.Microsecond), Interface: 1, Direction: In, Length: 5000, Data: udp6(t)[:61], Comment: "dropped: spoof_ip at spoof"},
		{Time: at.Add(time.Second), Length: len(arp(t)), Data: arp(t)},
	}
}

func written(t testing.TB) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces() {
		if _, err := w.Interface(i); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range sample(t) {
		if err := w.Packet(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Stats(0, time.Unix(1_700_000_002, 0), 3, 42); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func interfaces() []Interface {
	return []Interface{{Name: "web", Description: "endpoint web", Link: LinkEthernet, Snaplen: 65000}, {Name: "db", Link: LinkEthernet, Snaplen: 65000}}
}

func readAll(r *Reader) (all []Packet, err error) {
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		p.Data = bytes.Clone(p.Data)
		all = append(all, p)
	}
}

func TestPcapng(t *testing.T) {
	b := written(t)
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(t), got); diff != "" {
		t.Errorf("packets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(interfaces(), r.Interfaces); diff != "" || r.Lost() != 42 {
		t.Errorf("interfaces (-want +got), %d lost:\n%s", r.Lost(), diff)
	}
	// Cut anywhere, what is copied are whole blocks.
	for n := range b {
		r, err := NewReader(bytes.NewReader(b[:n]))
		if err != nil {
			continue
		}
		var out bytes.Buffer
		_, err = r.Copy(&out)
		if !bytes.HasPrefix(b, out.Bytes()) || (err == nil) != (out.Len() == n) {
			t.Fatalf("cut at %d: %d copied, %v", n, out.Len(), err)
		}
		if again, err := NewReader(bytes.NewReader(out.Bytes())); err == nil {
			if _, err := readAll(again); err != nil {
				t.Fatalf("cut at %d: the copy: %v", n, err)
			}
		}
	}
}

func TestPcap(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for magic, fraction := range map[uint32]uint32{0xa1b2c3d4: 123456, 0xa1b23c4d: 123456789} {
			b := order.AppendUint32(nil, magic)
			b = append(b, make([]byte, 12)...)
			b = order.AppendUint32(b, 65535)
			b = order.AppendUint32(b, LinkEthernet)
			for range 2 {
				b = order.AppendUint32(b, 1_700_000_000)
				b = order.AppendUint32(b, fraction)
				b = order.AppendUint32(b, uint32(len(tcp4(t))))
				b = order.AppendUint32(b, 1500)
				b = append(b, tcp4(t)...)
			}
			r, err := NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			got, err := readAll(r)
			if err != nil || len(got) != 2 || r.Interfaces[0].Link != LinkEthernet || got[1].Length != 1500 || !bytes.Equal(got[1].Data, tcp4(t)) ||
				got[0].Time.Unix() != 1_700_000_000 || got[0].Time.Nanosecond()/1000 != 123456 {
				t.Errorf("%v %#x: %+v, %v", order, magic, got, err)
			}
			r, _ = NewReader(bytes.NewReader(b[:len(b)-1]))
			if _, err := readAll(r); !errors.Is(err, ErrFormat) {
				t.Errorf("cut short: %v", err)
			}
		}
	}
	for _, s := range []string{"", "abc", "GET / HTTP/1.1\r\n"} {
		if _, err := NewReader(strings.NewReader(s)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Others read what we write.
func TestOthersRead(t *testing.T) {
	tool, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("no tcpdump")
	}
	cmd := exec.Command(tool, "-nr", "-")
	cmd.Stdin = bytes.NewReader(written(t))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.0.0.2.40000 > 10.0.0.3.80: Flags [S]") {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(written(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		for {
			p, err := r.Next()
			if err != nil {
				return
			}
			_ = Decode(p.Data).String()
			_ = p.Time.String()
		}
	})
}
