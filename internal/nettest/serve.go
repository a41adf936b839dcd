// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listen opens a TCP listener inside, closed at the test's end.
func (n *NS) Listen(addr string) net.Listener {
	n.t.Helper()
	var l net.Listener
	err := n.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err })
	if err != nil {
		n.t.Fatalf("%s: %v", n.label(), err)
	}
	n.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket inside, closed at the test's end.
func (n *NS) ListenPacket(addr string) net.PacketConn {
	n.t.Helper()
	var c net.PacketConn
	err := n.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err })
	if err != nil {
		n.t.Fatalf("%s: %v", n.label(), err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

// EchoTCP serves echo on addr ("10.0.0.2:7", port 0 picks one) until the test
// ends and returns where.
func (n *NS) EchoTCP(addr string) netip.AddrPort {
	n.t.Helper()
	l := n.Listen(addr)
	var open sync.Map
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, nil)
			wg.Go(func() {
				defer open.Delete(c)
				defer c.Close()
				// Plain reads and writes: splicing would keep pipes open for later.
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			})
		}
	})
	n.t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// EchoUDP serves echo on addr until the test ends and returns where.
func (n *NS) EchoUDP(addr string) netip.AddrPort {
	n.t.Helper()
	c := n.ListenPacket(addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:k], from)
		}
	}()
	n.t.Cleanup(func() { c.Close(); <-done })
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// Dial connects from inside; network and addr as for net.Dial, addr numeric.
func (n *NS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Ask sends msg from inside to an echo server, waits for the answer at most
// timeout, and says what went wrong, a wrong answer included.
func (n *NS) Ask(network, addr, msg string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := n.Dial(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write([]byte(msg)); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != msg {
		return fmt.Errorf("%s %s: answer %q, want %q", network, addr, got, msg)
	}
	return nil
}
