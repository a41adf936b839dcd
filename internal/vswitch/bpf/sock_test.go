// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ownCgroup is the cgroup (v2) this process is in.
func ownCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for _, m := range strings.Split(string(mounts), "\n") {
		if w := strings.Fields(m); len(w) > 2 && w[2] == "cgroup2" {
			root = w[1]
			break
		}
	}
	if root == "" {
		t.Skip("no cgroup2 mount: the socket hooks need the unified hierarchy")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range strings.Split(string(own), "\n") {
		if p, ok := strings.CutPrefix(c, "0::"); ok {
			return filepath.Join(root, p)
		}
	}
	t.Skip("not in the unified hierarchy")
	return ""
}

// Real sockets in the lab's namespace: what is published is reached by 127.0.0.1,
// ::1 and the host's addresses, and shown as what was asked for.
func TestSockets(t *testing.T) {
	l := newLab(t, true)
	cgroup := ownCgroup(t)
	for prog, at := range map[string]ebpf.AttachType{
		"sock_connect4": ebpf.AttachCGroupInet4Connect, "sock_connect6": ebpf.AttachCGroupInet6Connect,
		"sock_sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sock_sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"sock_recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "sock_recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"sock_release":      ebpf.AttachCgroupInetSockRelease,
		"sock_getpeername4": ebpf.AttachCgroupInet4GetPeername, "sock_getpeername6": ebpf.AttachCgroupInet6GetPeername,
	} {
		k, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: at, Program: l.coll.Programs[prog]})
		if err != nil {
			t.Fatalf("%s: %v", prog, err)
		}
		t.Cleanup(func() { k.Close() })
	}
	// The backends answer in the namespace itself: their addresses are put on lo.
	l.in(func() {
		for _, a := range []string{"192.168.100.10/32", "fd00:100::10/128"} {
			if out, err := exec.Command("ip", "addr", "add", a, "dev", "lo", "nodad").CombinedOutput(); err != nil {
				t.Errorf("ip: %v: %s", err, out)
			}
		}
	})
	// The kernel makes an IPv6 address usable a moment after it was added.
	l.in(func() {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("udp", "[fd00:100::10]:9")
			if err == nil {
				c.Close()
				return
			}
			if time.Now().After(end) {
				t.Errorf("fd00:100::10 is not reachable: %v", err)
				return
			}
		}
	})
	// Scope host: only processes of the host see it.
	for _, f := range []struct{ vip, to string }{{"127.0.0.1", "192.168.100.10"}, {"::1", "fd00:100::10"}} {
		l.service(f.vip, 4444, 6, 0, SwitchGhSvcFlagsGH_SVC_HOST, labBackend{1, f.to, 80})
	}
	cookie := func() (c uint64, err error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}
	var c Cfg
	if err := l.coll.Maps["cfg"].Lookup(uint32(0), &c); err != nil {
		t.Fatal(err)
	}
	setCookie := func(n uint64) { c.NetnsCookie = n; l.put("cfg", uint32(0), c) }
	var ours uint64
	l.in(func() {
		var err error
		if ours, err = cookie(); err != nil {
			t.Error(err)
		}
	})
	setCookie(ours)

	for _, f := range []struct {
		backend string
		hosts   []string
	}{
		{"192.168.100.10", []string{"127.0.0.1", "127.8.8.8", "10.0.0.4", "10.1.0.4", "192.168.100.1"}},
		{"fd00:100::10", []string{"::1", "fd00:a::4"}},
	} {
		l.in(func() { serve(t, f.backend) })
		for _, h := range f.hosts {
			at := net.JoinHostPort(h, "8080")
			l.in(func() {
				if peer, err := askTCP(at); err != nil || peer != at {
					t.Errorf("tcp %s: peer %q, %v", at, peer, err)
				}
			})
			at = net.JoinHostPort(h, "8053")
			l.in(func() {
				if from, err := askUDP(at, true); err != nil || from != at {
					t.Errorf("udp %s connected: from %q, %v", at, from, err)
				}
				if from, err := askUDP(at, false); err != nil || from != at {
					t.Errorf("udp %s: from %q, %v", at, from, err)
				}
			})
		}
	}
	l.in(func() {
		if peer, err := askTCP("127.0.0.1:4444"); err != nil || peer != "127.0.0.1:4444" {
			t.Errorf("published on loopback: %q, %v", peer, err)
		}
		if _, err := askTCP("127.0.0.2:4444"); err == nil {
			t.Error("another loopback address than the published answers")
		}
		if _, err := askTCP("127.0.0.1:8082"); err == nil {
			t.Error("a port that is not published answers")
		}
	})
	o, _ := l.send(t, "x", "10.0.0.9.50000 > 10.0.0.4.4444: tcp S")
	if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
		t.Errorf("published on loopback is seen outside: %+v", o.res)
	}
	setCookie(ours + 1)
	l.in(func() {
		if _, err := askTCP("127.0.0.1:8080"); err == nil {
			t.Error("another namespace's sockets are touched")
		}
	})
}

// serve answers TCP on port 80 and UDP on port 53 of a in this namespace. What
// it starts lives until its sockets are closed at the end of the test.
func serve(t *testing.T, a string) {
	ln, err := net.Listen("tcp", net.JoinHostPort(a, "80"))
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "hello")
			c.Close()
		}
	}()
	u, err := net.ListenPacket("udp", net.JoinHostPort(a, "53"))
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := u.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
}

func askTCP(at string) (peer string, err error) {
	c, err := net.DialTimeout("tcp", at, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if s, err := bufio.NewReader(c).ReadString('\n'); err != nil || s != "hello\n" {
		return "", fmt.Errorf("answer %q: %w", s, err)
	}
	// RemoteAddr is what Dial was told; ask the kernel.
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return "", err
	}
	err2 := raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getpeername(int(fd)); err != nil {
			return
		}
		switch a := sa.(type) {
		case *unix.SockaddrInet4:
			peer = net.JoinHostPort(net.IP(a.Addr[:]).String(), fmt.Sprint(a.Port))
		case *unix.SockaddrInet6:
			peer = net.JoinHostPort(net.IP(a.Addr[:]).String(), fmt.Sprint(a.Port))
		}
	})
	if err == nil {
		err = err2
	}
	return peer, err
}

func askUDP(at string, connected bool) (string, error) {
	to, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return "", err
	}
	var u *net.UDPConn
	if connected {
		u, err = net.DialUDP("udp", nil, to)
	} else {
		u, err = net.ListenUDP("udp", nil)
	}
	if err != nil {
		return "", err
	}
	defer u.Close()
	if err := u.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if connected {
		_, err = u.Write([]byte("x"))
	} else {
		_, err = u.WriteToUDP([]byte("x"), to)
	}
	if err != nil {
		return "", err
	}
	b := make([]byte, 10)
	_, from, err := u.ReadFromUDP(b)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(from.IP.String(), fmt.Sprint(from.Port)), nil
}
