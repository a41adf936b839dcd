// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// insideEnv marks the process that already runs in its own namespace.
const insideEnv = "GATEHOUSE_NETTEST_INSIDE"

// Main runs a package's tests with the whole process in a fresh network
// namespace, so that code which works on "the host's" namespace can be tried
// without touching the host:
//
//	func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }
//
// Mounts and cgroups stay the host's. Without root the tests run where they are
// and are expected to skip (RequireRoot).
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(insideEnv) != "" {
		os.Unsetenv(insideEnv)
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "run tests in a network namespace: %v\n", err)
		return 1
	}
	return 0
}

func settle() error {
	quiet()
	fd, err := openCurrent()
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	n := &NS{path: "/proc/self/ns/net", fd: fd}
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
