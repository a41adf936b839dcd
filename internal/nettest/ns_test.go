// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestMainRunsInFreshNamespace(t *testing.T) {
	RequireRoot(t)
	if got := Host(t).Links(); !slices.Equal(got, []string{"lo"}) {
		// Drivers such as ifb put devices into every new namespace.
		for _, l := range got {
			if l == "eth0" {
				t.Errorf("devices %v, want a namespace of our own", got)
			}
		}
	}
}

func TestNamespacesTalk(t *testing.T) {
	RequireRoot(t)
	if err := sharedDir(); err != nil { // stays, like ip(8)'s
		t.Fatal(err)
	}
	CheckLeaks(t, LeakOptions{Dirs: []string{dir}, Fds: true})
	a, b := NewNS(t), NewNS(t)
	Veth(t, a, "eth0", b, "eth0", "10.1.0.1/24", "10.1.0.2/24", "fd01::1/64", "fd01::2/64")
	b.DefaultRoute("10.1.0.1")
	for _, addr := range []string{"10.1.0.2:0", "[fd01::2]:0"} {
		if err := a.Ask("tcp", b.EchoTCP(addr).String(), "hello", 2*time.Second); err != nil {
			t.Errorf("tcp %s: %v", addr, err)
		}
		if err := a.Ask("udp", b.EchoUDP(addr).String(), "hello", 2*time.Second); err != nil {
			t.Errorf("udp %s: %v", addr, err)
		}
	}
	if out := b.Exec("ip", "-4", "route", "show", "default"); !strings.Contains(out, "via 10.1.0.1") {
		t.Errorf("default route: %q", out)
	}
	if out := b.Exec("cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad"); out != "0" {
		t.Errorf("accept_dad %q, want 0", out)
	}
}

func TestDoComesBack(t *testing.T) {
	RequireRoot(t)
	n := NewNS(t)
	before := Host(t).Links()
	wrong := errors.New("wrong")
	for range 50 {
		if err := n.Do(func() error { return wrong }); !errors.Is(err, wrong) {
			t.Fatalf("Do: %v, want %v", err, wrong)
		}
	}
	if after := Host(t).Links(); !slices.Equal(before, after) {
		t.Errorf("devices seen after Do %v, want %v", after, before)
	}
}

func TestMore(t *testing.T) {
	got := more([]string{"a", "a", "b"}, []string{"a", "a", "a", "c"})
	if want := []string{"a", "c"}; !slices.Equal(got, want) {
		t.Errorf("more: %v, want %v", got, want)
	}
}
