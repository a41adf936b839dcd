// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
)

// namespace is an open network namespace and a netlink socket inside it.
type namespace struct {
	fd int
	nl *netlink.Handle
}

func (n *namespace) close() {
	if n.nl != nil {
		n.nl.Close()
	}
	unix.Close(n.fd)
}

// newNamespace makes a namespace that lives as long as its descriptor: loopback
// up, and nothing that delays or surprises an interface made in it later.
func newNamespace(procs *ownProc) (*namespace, error) {
	n := &namespace{fd: -1}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err error
		if n.fd, err = openNamespace("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		// Addresses are unique by IPAM, so duplicate detection would only cost a second.
		if err := procs.sysctl6("default",
			"accept_dad", "0", "dad_transmits", "0", "accept_ra", "0", "router_solicitations", "0"); err != nil {
			return err
		}
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err == nil {
		err = loopbackUp(n.nl)
	}
	if err != nil {
		if n.fd >= 0 {
			n.close()
		}
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return n, nil
}

// openAt opens the namespace mounted at path.
func openAt(path string) (*namespace, error) {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return nil, err
	}
	fd, err := openNamespace(path)
	if err != nil {
		return nil, err
	}
	n := &namespace{fd: fd}
	err = doAt(fd, func() (err error) {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		n.close()
		return nil, fmt.Errorf("netlink in %s: %w", path, err)
	}
	return n, nil
}

func loopbackUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if lo.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// mountAt gives an open namespace a name in the file system.
func (n *namespace) mountAt(path string) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o444)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", n.fd), path, "", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("mount network namespace at %s: %w", path, err)
	}
	return nil
}

// isNamespace reports whether a namespace is mounted at path. A plain file there
// is what a crash between making and mounting leaves behind.
func isNamespace(path string) (bool, error) {
	var st unix.Statfs_t
	switch err := unix.Statfs(path, &st); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false, nil
	case err != nil:
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	// PROC_SUPER_MAGIC: a /proc/<pid>/ns/net handed in by a caller resolves to
	// nsfs as well, so only nsfs counts.
	return st.Type == unix.NSFS_MAGIC, nil
}

// dropNamespace takes the name away. The kernel frees the namespace and the
// devices in it when nothing else uses it.
func dropNamespace(path string) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	for { // a crash may have stacked two
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network namespace: %w", err)
	}
	return nil
}

// shareDir makes dir a shared mount unless it lies on one. Workers live in slave
// copies of our mount namespace; sharing is what takes a namespace that we
// unmount out of their copies too. On a private mount they would keep it alive.
func shareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	mounts, err := mountsAbove(dir)
	if err != nil {
		return err
	}
	if mounts[len(mounts)-1].shared {
		return nil
	}
	if mounts[len(mounts)-1].path != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

type mountPoint struct {
	path   string
	shared bool
}

// mountsAbove lists the mounts that dir lies on, the nearest last.
func mountsAbove(dir string) ([]mountPoint, error) {
	all, err := mountPoints()
	if err != nil {
		return nil, err
	}
	above := []mountPoint{{path: "/"}}
	for _, m := range all {
		if m.path == "/" || m.path == dir || strings.HasPrefix(dir, m.path+"/") {
			if len(m.path) >= len(above[len(above)-1].path) { // the later of two at one place covers
				above = append(above, m)
			}
		}
	}
	return above, nil
}

func mountPoints() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []mountPoint
	s := bufio.NewScanner(f)
	for s.Scan() {
		if m, ok := parseMount(s.Text()); ok {
			all = append(all, m)
		}
	}
	return all, s.Err()
}

// parseMount reads a line of /proc/self/mountinfo, proc_pid_mountinfo(5):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw
func parseMount(line string) (mountPoint, bool) {
	fields := strings.Fields(line)
	if len(fields) < 7 {
		return mountPoint{}, false
	}
	m := mountPoint{path: unescape(fields[4])}
	for _, f := range fields[6:] {
		if f == "-" {
			break
		}
		if strings.HasPrefix(f, "shared:") {
			m.shared = true
		}
	}
	return m, true
}

// unescape undoes the kernel's octal escapes of space, tab, newline, backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// namespacesIn lists the files in dir, mounted or not.
func namespacesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	var all []string
	for _, e := range entries {
		if !e.IsDir() {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all, nil
}
