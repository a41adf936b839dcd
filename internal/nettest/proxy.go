// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proxyEnv marks the process that is Proxy's: the test's own binary, run again.
const proxyEnv = "GATEHOUSE_NETTEST_PROXY"

func init() {
	if s := os.Getenv(proxyEnv); s != "" {
		fmt.Fprintln(os.Stderr, runProxy(strings.Fields(s)))
		os.Exit(1)
	}
}

// Proxy starts a process of a user in a network namespace, given by path, that takes
// connections on ports, of any address and both families, until the test ends. Each is
// told "proxy ADDR:PORT", where it was to go as the kernel says (SO_ORIGINAL_DST), or
// "proxy -" when it was for the proxy, and joined to a connection of the proxy's to there.
func Proxy(t testing.TB, netns string, uid int, ports ...int) {
	t.Helper()
	arg := strconv.Itoa(uid)
	for _, p := range ports {
		arg += " " + strconv.Itoa(p)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net="+netns, "--", exe)
	cmd.Env = append(os.Environ(), proxyEnv+"="+arg)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // nsenter became it
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("proxy says %q, %v", line, err)
	}
}

func runProxy(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, port := range args[1:] {
		for _, network := range []string{"tcp4", "tcp6"} {
			l, err := net.Listen(network, ":"+port)
			if err != nil {
				return err
			}
			all.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go proxied(c.(*net.TCPConn))
				}
			})
		}
	}
	fmt.Println("ready")
	all.Wait()
	return nil
}

func proxied(c *net.TCPConn) {
	defer c.Close()
	here := c.LocalAddr().(*net.TCPAddr).AddrPort()
	to, err := OriginalDst(c)
	if err != nil || to == here {
		fmt.Fprintln(c, "proxy -", err)
		return
	}
	fmt.Fprintln(c, "proxy", to)
	far, err := net.DialTimeout("tcp", to.String(), 2*time.Second)
	if err != nil {
		fmt.Fprintln(c, err)
		return
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(far, c)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, far)
}

// OriginalDst is where a connection was to go before netfilter redirected it.
func OriginalDst(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	const soOriginalDst = 80 // linux/netfilter_ipv4.h, and ip6_tables.h
	is6 := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Is6()
	cerr := raw.Control(func(fd uintptr) {
		if is6 {
			var info *unix.IPv6MTUInfo // begins with a sockaddr_in6
			if info, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst); err == nil {
				port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, info.Addr.Port))
				to = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), port)
			}
			return
		}
		var m *unix.IPv6Mreq // as long as a sockaddr_in, and more
		if m, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst); err == nil {
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Multiaddr[4:8])), binary.BigEndian.Uint16(m.Multiaddr[2:4]))
		}
	})
	if err == nil {
		err = cerr
	}
	return to, err
}
