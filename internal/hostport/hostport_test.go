// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hostport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

const tcp, udp, sctp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP

func newHolder(t *testing.T) *Holder {
	nettest.CheckLeaks(t, nettest.LeakOptions{Fds: true})
	h := &Holder{}
	t.Cleanup(func() { h.Close() })
	return h
}

func hold(t *testing.T, h *Holder, want ...model.HostPort) {
	t.Helper()
	if err := errors.Join(h.Set(context.Background(), want)...); err != nil {
		t.Fatalf("set %v: %v", want, err)
	}
}

func TestHeldPortIsTaken(t *testing.T) {
	h := newHolder(t)
	hold(t, h, model.HostPort{Proto: tcp, Port: 18080}, model.HostPort{Proto: udp, Port: 18080},
		model.HostPort{Proto: tcp, Port: 18081, Addr: netip.MustParseAddr("127.0.0.1")},
		model.HostPort{Proto: sctp, Port: 18080})
	for _, addr := range []string{":18080", "127.0.0.1:18080", "[::1]:18080", "127.0.0.1:18081"} {
		// Go's listeners set SO_REUSEADDR, as servers do.
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			t.Errorf("tcp %s could be listened on while held", addr)
		}
	}
	if c, err := net.ListenPacket("udp", ":18080"); err == nil {
		c.Close()
		t.Error("udp :18080 could be bound while held")
	}
	l, err := net.Listen("tcp", "[::1]:18081")
	if err != nil {
		t.Fatalf("another address's port: %v", err)
	}
	l.Close()

	hold(t, h, model.HostPort{Proto: udp, Port: 18080})
	if l, err = net.Listen("tcp", ":18080"); err != nil {
		t.Fatalf("listen after letting go: %v", err)
	}
	l.Close()
}

func TestErrorNamesHolder(t *testing.T) {
	h := newHolder(t)
	l, err := net.Listen("tcp", "127.0.0.1:18090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := []model.HostPort{{Proto: tcp, Port: 18091}, {Proto: tcp, Port: 18090}, {Proto: tcp, Port: 18092}}
	errs := h.Set(context.Background(), want)
	if len(errs) != 3 || errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Fatalf("errors %v, want one, for the second", errs)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	wantText := fmt.Sprintf("port 18090/tcp is in use by %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
	if errs[1].Error() != wantText {
		t.Errorf("error %q, want %q", errs[1], wantText)
	}
	if !errdefs.IsAlreadyExists(errs[1]) {
		t.Errorf("error %v is not of class already exists", errs[1])
	}
	if err := h.Check(want[1]); err == nil {
		t.Error("check found the port free")
	}
	if err := h.Check(want[0]); err != nil {
		t.Errorf("check of a port already held: %v", err)
	}
}

func TestTimeWaitIsNoHolder(t *testing.T) {
	h := newHolder(t)
	l, err := net.Listen("tcp", "127.0.0.1:18100")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", "127.0.0.1:18100")
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // the server closes first: its side goes to TIME_WAIT
	c.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	hold(t, h, model.HostPort{Proto: tcp, Port: 18100})
	if l, err := net.Listen("tcp", "127.0.0.1:18100"); err == nil {
		l.Close()
		t.Error("could be listened on while held")
	}
}

func TestUDPStaysEmpty(t *testing.T) {
	h := newHolder(t)
	hold(t, h, model.HostPort{Proto: udp, Port: 18110})
	c, err := net.Dial("udp", "127.0.0.1:18110")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatalf("send to a held port: %v", err) // an ICMP error would show here
		}
	}
	var fd int
	for _, fd = range h.held {
	}
	if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil || n != 0 {
		t.Errorf("%d bytes wait at the socket (%v), want none", n, err)
	}
}

func TestAddressNotHere(t *testing.T) {
	h := newHolder(t)
	err := h.Check(model.HostPort{Proto: tcp, Port: 80, Addr: netip.MustParseAddr("203.0.113.9")})
	if want := "hold port 80/tcp: 203.0.113.9 is not an address of this host"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v is not of class invalid argument", err)
	}
}

func TestFree(t *testing.T) {
	h := newHolder(t)
	seen := map[uint16]bool{}
	var held []model.HostPort
	for range 20 {
		p, err := h.Free(tcp, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] || p < FreeLow {
			t.Fatalf("free port %d: given before or out of range", p)
		}
		seen[p] = true
		held = append(held, model.HostPort{Proto: tcp, Port: p})
	}
	hold(t, h, held...)
	h.next = FreeLow
	p, err := h.Free(tcp, netip.MustParseAddr("127.0.0.1"))
	if err != nil || seen[p] {
		t.Errorf("free port %d (%v), want one not held", p, err)
	}
	h.next = FreeHigh
	if p, err := h.Free(udp, netip.Addr{}); err != nil || p != FreeHigh {
		t.Errorf("free port %d (%v), want %d", p, err, FreeHigh)
	}
	if p, err := h.Free(udp, netip.Addr{}); err != nil || p != FreeLow {
		t.Errorf("free port %d (%v), want the first again", p, err)
	}
}

func TestParseSockets(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17634 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1
   2: 0000000000000000FFFF00000200A8C0:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 98 1
   3: nonsense
   4: zz:zz 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17634 1`
	got := parseSockets(strings.NewReader(text))
	want := []socket{
		{netip.MustParseAddr("127.0.0.1"), 631, "17634"}, {netip.MustParseAddr("::1"), 8080, "99"},
		{netip.MustParseAddr("192.168.0.2"), 8080, "98"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sockets %v, want %v", got, want)
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add("   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17634 1")
	f.Fuzz(func(t *testing.T, s string) {
		for _, k := range parseSockets(strings.NewReader(s)) {
			if !k.addr.IsValid() {
				t.Errorf("invalid address from %q", s)
			}
		}
	})
}
