// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package agent is process 1 of a utility VM: it makes the machine usable, says
// hello to the host, and then does what the host asks. It trusts the host, keeps
// nothing on disk, and when it ends the kernel panics, which the host sees.
package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/modules"
	"gatehouse.dev/gatehouse/internal/guest/nic"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// Main runs the machine. It does not return.
func Main() {
	err := run()
	// The end of process 1 is a panic of the kernel, with this before it.
	fmt.Fprintln(os.Stderr, "gatehouse-guest:", err)
	os.Exit(1)
}

// run returns what ended the machine.
func run() error {
	if os.Getpid() != 1 {
		// Its mounts would hide those of a machine that is somebody else's.
		return errors.New("this is process 1 of a utility VM; there is nothing it does elsewhere")
	}
	if err := mounts(); err != nil {
		return err
	}
	log("agent starts")
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(cmdline)), proto.Probe) {
		fmt.Println(proto.ProbeLine)
		return powerOff()
	}
	mods, err := openModules(modules.Dir)
	if err != nil {
		return err
	}
	if err := mods.load(modules.Channel); err != nil {
		return err
	}
	log("channel's modules are loaded")
	if err := switchRoot(); err != nil {
		return err
	}
	if err := controllers(); err != nil {
		return err
	}
	if err := nic.Loopback(-1); err != nil {
		return err
	}
	reaper, err := silo.NewReaper()
	if err != nil {
		return err
	}
	go reaper.Run(context.Background())
	p, err := openPort(proto.PortName)
	if err != nil {
		return err
	}
	log("port is open")
	a := newAgent(reaper, mods)
	for {
		g, err := proto.Answer(p.session())
		if err != nil {
			// The port itself failed, or bytes came that are no session: from the start.
			log("session: %v", err)
			time.Sleep(retry)
			continue
		}
		a.serve(g)
		g.Close()
	}
}

// mount is one file system of the machine itself.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// kernelMounts are what every program expects.
func kernelMounts() []mount {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", strict, ""},
		{"sysfs", "/sys", "sysfs", strict, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"cgroup2", cgroupRoot, "cgroup2", strict, ""},
	}
}

func mounts() error {
	for _, m := range kernelMounts() {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// switchRoot leaves the initramfs, where pivot_root is impossible, for a root in
// memory. What stays behind, our own program, is made read-only: process 1 of a
// container may be that program.
func switchRoot() error {
	const root = "/root.new"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("new root: %w", err)
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "etc", "tmp", "tools", "l", "c", "s", "usr"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"bin": "tools/bin", "sbin": "tools/bin", "lib": "tools/lib", "lib64": "tools/lib64"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run"} {
		if err := unix.Mount(d, root+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the initramfs read-only: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Containers make their mounts slaves of these.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

const cgroupRoot = "/sys/fs/cgroup"

// controllers hands every controller down to the containers' groups.
func controllers() error {
	all, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var on []string
	for c := range strings.FieldsSeq(string(all)) {
		on = append(on, "+"+c)
	}
	if err := os.Mkdir(filepath.Join(cgroupRoot, groupName), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, g := range []string{"", groupName} {
		f := filepath.Join(cgroupRoot, g, "cgroup.subtree_control")
		if err := os.WriteFile(f, []byte(strings.Join(on, " ")), 0); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

// powerOff does not return unless it fails.
func powerOff() error {
	unix.Sync()
	return fmt.Errorf("power off: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// log writes to the kernel's log: the host may read it by a log stream, and a
// panic shows it on the console.
func log(format string, args ...any) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "<6>gatehouse: "+format, args...)
}
