// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"80", "6 invalid IP 0>80", ""},
		{"8080:80", "6 invalid IP 8080>80", ""},
		{"8080:80/udp", "17 invalid IP 8080>80", ""},
		{"8080:80/SCTP", "132 invalid IP 8080>80", ""},
		{"127.0.0.1:8080:80", "6 127.0.0.1 8080>80", ""},
		{"127.0.0.1::80", "6 127.0.0.1 0>80", ""},
		{"[::1]:80:80", "6 ::1 80>80", ""},
		{"[::1]::80/udp", "17 ::1 0>80", ""},
		{"8000-8002:80-82", "6 invalid IP 8000>80,6 invalid IP 8001>81,6 invalid IP 8002>82", ""},
		{"80-81", "6 invalid IP 0>80,6 invalid IP 0>81", ""},
		{"65535:65535", "6 invalid IP 65535>65535", ""},
		{"65534-65535:1-2", "6 invalid IP 65534>1,6 invalid IP 65535>2", ""},
		{":80", "6 invalid IP 0>80", ""},
		{"", "", `container port "" is not within`},
		{"0", "", `"0" is not within`},
		{"x:80", "", `host port "x"`},
		{"80:99999", "", `container port "99999"`},
		{"80:80/icmp", "", `unknown protocol "icmp"`},
		{"8000-8002:80", "", "3 host ports for 1 container ports"},
		{"82-80:82-80", "", "runs backwards"},
		{"::1:80:80", "", "in brackets"},
		{"[::1]80:80", "", "ends with ]:"},
		{"[1.2.3.4]:80:80", "", "is not an IPv6 address"},
		{"1.2.3:80:80", "", "is not an IP address"},
		{"[::1]:80", "", "after the address come"},
	} {
		got, err := parsePublish(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.in, err, tt.err)
			}
			continue
		}
		var s []string
		for _, p := range got {
			s = append(s, fmt.Sprintf("%d %v %d>%d", p.Proto, p.HostIP, p.HostPort, p.Port))
		}
		if g := strings.Join(s, ","); err != nil || g != tt.want {
			t.Errorf("%q: got %q, %v; want %q", tt.in, g, err, tt.want)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80", "[::1]:1-3:1-3/udp", "1.2.3.4::9", "-", "[", "]:", "1-:2-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parsePublish(s)
		if err == nil && len(got) == 0 {
			t.Fatalf("%q: neither ports nor an error", s)
		}
	})
}

func TestParseVolume(t *testing.T) {
	exists := func(p string) error {
		if p == "/src" {
			return nil
		}
		return fs.ErrNotExist
	}
	for _, tt := range []struct {
		in   string
		want volume
		err  string
	}{
		{"/src:/dst", volume{"/src", "/dst", false}, ""},
		{"/src/:/dst/:ro", volume{"/src", "/dst", true}, ""},
		{"/src:/dst:ro,z", volume{"/src", "/dst", true}, ""},
		{"/none:/dst", volume{}, "source /none does not exist; make it first"},
		{"name:/dst", volume{}, "not an absolute path"},
		{"/src", volume{}, "needs a source and a target"},
		{"/src:dst", volume{}, `target "dst" is not an absolute path`},
		{"/src:/", volume{}, "below /"},
		{"/src:/dst:rq", volume{}, `unknown option "rq"`},
		{"/a:/b:/c:/d", volume{}, "needs a source"},
	} {
		got, err := parseVolume(tt.in, exists)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.in, err, tt.err)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%q: got %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestReadEnvFile(t *testing.T) {
	lookup := func(k string) (string, bool) { return "own", k == "HOME" }
	got, err := readEnvFile("f", strings.NewReader("# c\n\nA=1\n B=x=y \nHOME\nNONE\nE=\n"), lookup)
	want := map[string]string{"A": "1", "B": "x=y ", "HOME": "own", "E": ""}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	if _, err := readEnvFile("f", strings.NewReader("A=1\n=x\n"), lookup); err == nil || !strings.Contains(err.Error(), "f: line 2") {
		t.Fatalf("got %v, want line 2 named", err)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]uint64{"256m": 256, "1g": 1024, "2GiB": 2048, "1.5g": 1536, "8388608": 8, "8388609": 9, "7000k": 7, "64MB": 64} {
		if got, err := parseMiB(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "-1m", "1m", "0", "1e30g", "m", "NaN"} {
		if got, err := parseMiB(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
	for in, want := range map[string]uint64{"1": 2500, "0.5": 1250, "4": 10000, "0.00001": 1} {
		if got, err := parseCPUs(in, 4); err != nil || got != want {
			t.Errorf("--cpus %q: got %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "5", "-1", "NaN", "Inf"} {
		if got, err := parseCPUs(in, 4); err == nil {
			t.Errorf("--cpus %q: got %d, want an error", in, got)
		}
	}
}

func TestNames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		if n := newName(r); checkName(n) != nil || strings.Count(n, "-") != 1 || strings.Contains(n, "_") {
			t.Fatalf("generated name %q", n)
		}
	}
	for _, n := range []string{"", "-a", "a b", "ä", "_x", "a/b", strings.Repeat("a", 129)} {
		if checkName(n) == nil {
			t.Errorf("name %q was accepted", n)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	for _, tt := range []struct {
		in     []string
		out    string
		detach bool
	}{
		{[]string{"ls\r"}, "ls\r", false},
		{[]string{"\x10\x11"}, "", true},
		{[]string{"a\x10", "\x11b"}, "a", true},
		{[]string{"\x10", "a"}, "\x10a", false},
		{[]string{"\x10\x10\x11"}, "\x10", true},
		{[]string{"\x11\x10"}, "\x11", false},
	} {
		var d detachKeys
		var out []byte
		var gone bool
		for _, s := range tt.in {
			if out, gone = d.filter(out, []byte(s)); gone {
				break
			}
		}
		if string(out) != tt.out || gone != tt.detach {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.in, out, gone, tt.out, tt.detach)
		}
	}
}
