// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peerEnv makes the test binary one end of a stream, so that it can be in a
// namespace of its own while the daemon comes and goes: "udp-send ADDR RATE",
// "udp-receive ADDR", "tcp-send ADDR", "tcp-receive ADDR". It says "ready" on its
// output, goes on until its input is closed, and then prints what it counted.
const peerEnv = "GATEHOUSE_E2E_PEER"

func TestMain(m *testing.M) {
	if order := os.Getenv(peerEnv); order != "" {
		n, err := peer(strings.Fields(order))
		if err != nil {
			fmt.Fprintln(os.Stderr, order+":", err)
			os.Exit(1)
		}
		_ = json.NewEncoder(os.Stdout).Encode(n)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// counted is what one end saw.
type counted struct {
	Sent, Received int64
	Failed         int64    // sends that the kernel refused
	Overrun        int64    // what the receiver's own socket had no room for
	From           []string // who datagrams came from
	Bytes          int64
}

// rcvbuf of receivers, as vswitch.md says: otherwise they drop about 1 %.
const rcvbuf = 4 << 20

func peer(order []string) (n counted, err error) {
	if len(order) < 2 {
		return n, errors.New("not an order")
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	switch kind, addr := order[0], order[1]; kind {
	case "udp-send":
		rate, err := strconv.Atoi(order[2])
		if err != nil {
			return n, err
		}
		c, err := net.Dial("udp", addr)
		if err != nil {
			return n, err
		}
		fmt.Println("ready")
		buf := make([]byte, 18)
		tick := time.NewTicker(time.Millisecond)
		for start := time.Now(); ; {
			select {
			case <-ended:
				return n, nil
			case <-tick.C:
			}
			// In bounded bursts, so that a stall of the machine makes no flood.
			due := int64(time.Since(start).Seconds() * float64(rate))
			for burst := 0; n.Sent+n.Failed < due && burst < 200; burst++ {
				binary.BigEndian.PutUint64(buf, uint64(n.Sent))
				if _, err := c.Write(buf); err != nil {
					n.Failed++
					continue
				}
				n.Sent++
			}
		}
	case "udp-receive":
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return n, err
		}
		u := c.(*net.UDPConn)
		raw, err := u.SyscallConn()
		if err != nil {
			return n, err
		}
		if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf) }); e != nil || err != nil {
			return n, errors.Join(e, err)
		}
		fmt.Println("ready")
		from := map[netip.AddrPort]bool{}
		buf := make([]byte, 64)
		var end atomic.Bool
		go func() {
			<-ended
			end.Store(true)
			_ = u.SetReadDeadline(time.Now().Add(time.Second)) // for what is on its way
		}()
		for {
			_, a, err := u.ReadFromUDPAddrPort(buf)
			if err != nil && end.Load() {
				break
			}
			if err != nil {
				return n, err
			}
			n.Received++
			if !from[a] {
				from[a] = true
				n.From = append(n.From, a.String())
			}
		}
		var mem [9]uint32 // enum SK_MEMINFO_*, linux/sock_diag.h; the last is the drops
		_ = raw.Control(func(fd uintptr) {
			b := make([]byte, 4*len(mem))
			if s, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_MEMINFO); err == nil {
				copy(b, s)
			}
			for i := range mem {
				mem[i] = binary.NativeEndian.Uint32(b[4*i:])
			}
		})
		n.Overrun = int64(mem[8])
		return n, nil
	case "tcp-send":
		c, err := net.DialTimeout("tcp", addr, 10*time.Second)
		if err != nil {
			return n, err
		}
		fmt.Println("ready")
		buf := make([]byte, 16<<10)
		for {
			select {
			case <-ended:
				return n, c.Close()
			case <-time.After(time.Millisecond): // leave the processors to the datagrams
			}
			if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				return n, err
			}
			m, err := c.Write(buf)
			n.Bytes += int64(m)
			if err != nil {
				return n, err
			}
		}
	case "tcp-receive":
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return n, err
		}
		fmt.Println("ready")
		c, err := l.Accept()
		if err != nil {
			return n, err
		}
		n.From = []string{c.RemoteAddr().String()}
		n.Bytes, err = io.Copy(io.Discard, c)
		return n, err
	}
	return n, fmt.Errorf("%q is not an order", order[0])
}

// running is one end at work.
type running struct {
	t     *testing.T
	order string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
}

// peer starts one end in a namespace, which is a path, and waits until it is ready.
func (h *host) peer(netns, order string) *running {
	h.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	r := &running{t: h.t, order: order, cmd: exec.Command("nsenter", "--net="+netns, exe)}
	r.cmd.Env = append(os.Environ(), peerEnv+"="+order)
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	word := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, word); err != nil {
		h.t.Fatalf("%s: %v", order, err)
	}
	r.out = json.NewDecoder(out)
	return r
}

// end stops it and returns what it counted.
func (r *running) end() (n counted) {
	r.t.Helper()
	_ = r.in.Close()
	if err := r.out.Decode(&n); err != nil {
		r.t.Errorf("%s: %v", r.order, err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("%s: %v", r.order, err)
	}
	return n
}
