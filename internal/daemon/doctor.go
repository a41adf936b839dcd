// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/door/host"
)

// Doctor looks at what this host can do, and says what to install.
func Doctor(ctx context.Context) []host.Check {
	kernel, major, minor := kernelRelease()
	return []host.Check{
		checkRoot(),
		checkKernel(kernel, major, minor),
		checkFile("BTF", "/sys/kernel/btf/vmlinux", "use a kernel built with CONFIG_DEBUG_INFO_BTF (Debian's are)"),
		checkBPFFS(),
		checkTCX(major, minor),
		checkCgroups(),
		checkOverlay(),
		checkRuntime(ctx, "runc"),
		checkLibraryOS(ctx),
		checkGroup("gatehouse"),
		checkForwarding(),
		checkNATPorts(),
		checkKVM(),
	}
}

func kernelRelease() (release string, major, minor int) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown", 0, 0
	}
	release = unix.ByteSliceToString(u.Release[:])
	_, _ = fmt.Sscanf(release, "%d.%d", &major, &minor)
	return release, major, minor
}

func checkRoot() host.Check {
	c := host.Check{Name: "user", State: host.OK, Found: fmt.Sprintf("uid %d", os.Geteuid())}
	if os.Geteuid() != 0 {
		c.State, c.Do = host.Warn, "the daemon runs as root: sudo gatehouse serve"
	}
	return c
}

// The oldest kernel whose verifier takes the programs, and where tcx links and
// netkit came; see the data plane's design.
func checkKernel(release string, major, minor int) host.Check {
	c := host.Check{Name: "kernel", State: host.OK, Found: release}
	if major < 6 || major == 6 && minor < 1 {
		c.State, c.Do = host.Fail, "the switch requires Linux 6.1; on Debian: apt install linux-image-amd64"
	}
	return c
}

func checkTCX(major, minor int) host.Check {
	if major > 6 || major == 6 && minor >= 6 {
		return host.Check{Name: "tcx", State: host.OK, Found: "by kernel version"}
	}
	return host.Check{Name: "tcx", State: host.Warn, Found: "no", Do: "works with clsact instead; replacing programs is not atomic before Linux 6.6"}
}

func checkFile(name, path, do string) host.Check {
	if _, err := os.Stat(path); err != nil {
		return host.Check{Name: name, State: host.Fail, Found: "no " + path, Do: do}
	}
	return host.Check{Name: name, State: host.OK, Found: path}
}

func checkBPFFS() host.Check {
	c := host.Check{Name: "bpffs", State: host.OK, Found: "/sys/fs/bpf"}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/bpf", &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		c.State, c.Found, c.Do = host.Warn, "not mounted", "the daemon mounts it: mount -t bpf bpf /sys/fs/bpf"
	}
	return c
}

func checkCgroups() host.Check {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return host.Check{Name: "cgroups", State: host.Fail, Found: err.Error(), Do: "mount the cgroup file system at /sys/fs/cgroup"}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return host.Check{Name: "cgroups", State: host.OK, Found: "v2"}
	}
	if err := unix.Statfs("/sys/fs/cgroup/unified", &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return host.Check{Name: "cgroups", State: host.OK, Found: "v1 with v2 beside it (hybrid)"}
	}
	return host.Check{Name: "cgroups", State: host.OK, Found: "v1"}
}

func checkOverlay() host.Check {
	b, err := os.ReadFile("/proc/filesystems")
	if err == nil && bytes.Contains(b, []byte("\toverlay\n")) {
		return host.Check{Name: "overlayfs", State: host.OK, Found: "yes"}
	}
	return host.Check{Name: "overlayfs", State: host.Warn, Found: "not loaded", Do: "modprobe overlay"}
}

func checkRuntime(ctx context.Context, name string) host.Check {
	c := host.Check{Name: "runtime", State: host.OK}
	path, err := exec.LookPath(name)
	if err != nil {
		c.State, c.Found, c.Do = host.Fail, name+" not found", "apt install runc"
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		c.State, c.Found, c.Do = host.Fail, path+": "+err.Error(), "apt install --reinstall runc"
		return c
	}
	line, _, _ := strings.Cut(string(out), "\n")
	c.Found = strings.TrimSpace(line) + " (" + path + ")"
	return c
}

func checkLibraryOS(ctx context.Context) host.Check {
	c := checkRuntime(ctx, "runsc")
	c.Name = "library OS"
	if c.State != host.OK {
		c.State, c.Do = host.Warn, "for --isolation library-os: apt install runsc"
	}
	return c
}

func checkGroup(name string) host.Check {
	c := host.Check{Name: "group", State: host.OK, Found: name}
	b, err := os.ReadFile("/etc/group")
	if err != nil || !bytes.HasPrefix(b, []byte(name+":")) && !bytes.Contains(b, []byte("\n"+name+":")) {
		c.State, c.Found, c.Do = host.Warn, "no group "+name, "root alone may use the socket; to let others in: groupadd --system "+name
	}
	return c
}

func checkForwarding() host.Check {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	found := "unknown"
	if err == nil {
		found = map[string]string{"0": "off", "1": "on"}[strings.TrimSpace(string(b))]
	}
	return host.Check{Name: "ip forwarding", State: host.OK, Found: found + "; not needed, left as it is"}
}

// checkSwitch is what only a running daemon knows.
func (d *daemon) checkSwitch() host.Check {
	m, why := d.dp.Metrics(), d.hns.Trouble()
	c := host.Check{Name: "switch", State: host.OK, Found: fmt.Sprintf("generation %d", m.Generation)}
	if m.InDoubt && why == "" {
		why = "a change failed halfway"
	}
	if why != "" {
		c.State, c.Found = host.Warn, why
		c.Do = "it is tried again by itself, and packets go on as before; if it lasts, the daemon's log says more"
	}
	return c
}

func checkKVM() host.Check {
	if _, err := os.Stat("/dev/kvm"); errors.Is(err, os.ErrNotExist) {
		return host.Check{Name: "kvm", State: host.OK, Found: "no /dev/kvm; needed for isolation hypervisor only"}
	}
	return host.Check{Name: "kvm", State: host.OK, Found: "/dev/kvm"}
}
