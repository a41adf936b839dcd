// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package nettest helps tests that need a real kernel: network namespaces, veth
// pairs between them, servers inside them, and checks that nothing is left over.
//
// Be aware:
//   - everything a test makes is named "ght" + six hex digits and is removed at
//     the test's end, also after a failure (not after SIGKILL: see Sweep);
//   - commands enter a namespace by nsenter --net, so that bpffs and cgroup
//     mounts stay visible; `ip netns exec` would hide them;
//   - new namespaces have no IPv6 duplicate address detection and hand no bridged
//     packet to netfilter, whatever the host's defaults are;
//   - they inherit the host's TCP congestion control, and where that is BBR,
//     throughput says nothing: give iperf3 "-C cubic".
package nettest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Prefix begins the name of every namespace made here.
const Prefix = "ght"

// dir is where ip(8) looks for named namespaces, so that people can look inside
// while a test runs.
const dir = "/run/netns"

// RequireRoot skips the test when it does not run as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and devices")
	}
}

// NS is a network namespace. Make it with NewNS or Host.
type NS struct {
	t    testing.TB
	name string // "" for the test's own
	path string
	fd   int
}

// Host returns the namespace the test process runs in.
func Host(t testing.TB) *NS {
	t.Helper()
	fd, err := openCurrent()
	if err != nil {
		t.Fatalf("open the test's network namespace: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// Not ns/net of the process: that is its main thread's, which the code under
	// test may have sent to another namespace for a moment.
	return &NS{t: t, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), fd: fd}
}

// NewNS makes a network namespace with loopback up. It is gone at the test's
// end, and with it the devices whose other end is inside.
func NewNS(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	var b [3]byte
	rand.Read(b[:])
	n := &NS{t: t, name: Prefix + hex.EncodeToString(b[:])}
	n.path = filepath.Join(dir, n.name)
	if err := n.make(); err != nil {
		n.remove()
		t.Fatalf("make network namespace %s: %v", n.name, err)
	}
	t.Cleanup(n.remove)
	return n
}

func (n *NS) make() error {
	if err := sharedDir(); err != nil {
		return err
	}
	f, err := os.OpenFile(n.path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	n.fd = -1
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		fd, err := openCurrent()
		if err != nil {
			return err
		}
		n.fd = fd
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), n.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", n.path, err)
		}
		quiet()
		return nil
	})
	if err != nil {
		return err
	}
	h, err := n.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// quiet takes the host's habits out of a new namespace. /proc/sys/net shows the
// namespace of the calling thread. A missing file means that the feature is not
// there, which is as good.
func quiet() {
	for name, value := range map[string]string{
		"net/bridge/bridge-nf-call-iptables":  "0",
		"net/bridge/bridge-nf-call-ip6tables": "0",
		"net/bridge/bridge-nf-call-arptables": "0",
		"net/ipv6/conf/all/accept_dad":        "0",
		"net/ipv6/conf/default/accept_dad":    "0",
		"net/ipv6/conf/default/accept_ra":     "0",
	} {
		_ = os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	}
}

func (n *NS) remove() {
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		n.t.Errorf("unmount %s: %v", n.path, err)
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Errorf("remove network namespace: %v", err)
	}
}

// Path of the namespace's file.
func (n *NS) Path() string { return n.path }

// Fd stays open until the test ends and must not be closed.
func (n *NS) Fd() int { return n.fd }

// Do runs f on a thread inside the namespace and returns its error. Sockets that
// f opens stay in the namespace; goroutines that f starts do not run there.
func (n *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.path, err)
		}
		return f()
	})
}

// Command prepares a command that runs inside.
func (n *NS) Command(name string, args ...string) *exec.Cmd {
	return n.CommandContext(context.Background(), name, args...)
}

// CommandContext is Command with a context that ends it.
func (n *NS) CommandContext(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.path, "--", name}, args...)...)
}

// Exec runs a command inside and returns its output without the final newline;
// the test fails when the command does.
func (n *NS) Exec(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Command(name, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %s %s: %v\n%s", n.label(), name, strings.Join(args, " "), err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

func (n *NS) label() string {
	if n.name == "" {
		return "host"
	}
	return n.name
}

// onThread runs f on a locked thread whose network namespace f may change. The
// thread goes back to where it was; when that fails it is not reused.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		old, err := openCurrent()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(old)
		// A test's Fatal inside f ends this goroutine: answer then, too.
		err = errors.New("function ended its goroutine")
		defer func() {
			if unix.Setns(old, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			done <- err
		}()
		err = f()
	}()
	return <-done
}

func openCurrent() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
	}
	return fd, nil
}

// sharedDir makes /run/netns a shared mount, as ip(8) does, so that removing a
// namespace also removes the copies in other mount namespaces.
func sharedDir() error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	if unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "") == nil {
		return nil
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}
