// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/seccomp"
)

func TestMain(m *testing.M) {
	if Is(os.Args) {
		Main()
	}
	os.Exit(m.Run())
}

// theReaper is one for all tests: two would take each other's children.
var theReaper = sync.OnceValues(func() (*silo.Reaper, error) {
	r, err := silo.NewReaper()
	if err == nil {
		go r.Run(context.Background())
	}
	return r, err
})

// box is a container to be: a root with the program of gatehouse/hello, a cgroup.
type box struct {
	t      *testing.T
	reaper *silo.Reaper
	group  *os.File
	spec   *specs.Spec
	c      Container
}

func newBox(t *testing.T) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, mounts")
	}
	hello, err := os.ReadFile("../../hello/bin/hello-" + runtime.GOARCH)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the hello image is not built; run make hello")
	}
	if err != nil {
		t.Fatal(err)
	}
	cg, err := silo.LoadCgroups()
	if err != nil || cg.V2 == "" {
		t.Skip("no cgroup v2 here", err)
	}
	root := t.TempDir()
	for _, d := range []string{"etc", "proc", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// In a link of the image lies no way out of it.
	if err := os.Symlink("/../../../../../../tmp", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "hello"), hello, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cg.V2, fmt.Sprintf("gatehouse-start-%d-%s", os.Getpid(), filepath.Base(t.Name())))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := theReaper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g := silo.Cgroup{On: silo.Cgroups{V2: cg.V2}, Path: filepath.Base(dir)}
		end, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		if err := errors.Join(g.Kill(end), g.Remove(end), group.Close()); err != nil {
			t.Error(err)
		}
	})
	ns := func(types ...specs.LinuxNamespaceType) (l []specs.LinuxNamespace) {
		for _, n := range types {
			l = append(l, specs.LinuxNamespace{Type: n})
		}
		return l
	}
	spec := &specs.Spec{Hostname: "inside", Root: &specs.Root{},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "ro"}},
		},
		Linux: &specs.Linux{Namespaces: ns(specs.MountNamespace, specs.PIDNamespace, specs.UTSNamespace, specs.IPCNamespace,
			specs.NetworkNamespace, specs.CgroupNamespace), MaskedPaths: []string{"/proc/keys", "/sys/kernel", "/none"}, ReadonlyPaths: []string{"/proc/sys"}},
	}
	return &box{t: t, reaper: r, group: group, spec: spec, c: Container{Spec: spec, Root: root, Cgroup: group}}
}

func hello(args ...string) *specs.Process {
	return &specs.Process{Args: append([]string{"/hello"}, args...), Env: []string{"PATH=/:/bin", "K=v"}, Cwd: "/"}
}

// out collects what a process writes.
func (b *box) out() (*os.File, func() string) {
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	return w, func() string {
		w.Close()
		defer r.Close()
		text, err := io.ReadAll(r)
		if err != nil {
			b.t.Error(err)
		}
		return string(text)
	}
}

// run starts init and returns its output and exit code.
func (b *box) run(p *specs.Process) (string, int) {
	b.t.Helper()
	w, text := b.out()
	b.c.Init = p
	c, err := Create(b.reaper, b.c, IO{Stdout: w, Stderr: w})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.Run(); err != nil {
		b.t.Fatal(err)
	}
	s := text()
	return s, (<-c.Exit).Code
}

func TestRunsInNamespacesOfItsOwn(t *testing.T) {
	b := newBox(t)
	if s, code := b.run(hello("hostname")); s != "inside\n" || code != 0 {
		t.Errorf("host name %q, exit %d", s, code)
	}
	if s, _ := b.run(hello("ls", "/")); !strings.Contains(s, "hello\n") || strings.Contains(s, "root") {
		t.Errorf("root: %q", s)
	}
	if s, _ := b.run(hello("cat", "/proc/1/comm")); s != "hello\n" {
		t.Errorf("process 1 is %q", s)
	}
	if s, _ := b.run(hello("cat", "/proc/self/cgroup")); !strings.Contains(s, "0::/\n") {
		t.Errorf("cgroup %q", s)
	}
	if s, _ := b.run(hello("ls", "/dev")); !strings.Contains(s, "null") || !strings.Contains(s, "ptmx") {
		t.Errorf("devices: %q", s)
	}
	if _, code := b.run(hello("exit", "7")); code != 7 {
		t.Errorf("exit %d, want 7", code)
	}
	if s, _ := b.run(hello("ls", "/proc/self/fd")); strings.Contains(s, "5\n") || strings.Contains(s, "6\n") {
		t.Errorf("descriptors left: %q", s)
	}
}

// Create runs nothing of the caller's; the mounts of the host do not change.
func TestCreateIsNotStart(t *testing.T) {
	b := newBox(t)
	w, text := b.out()
	b.c.Init = hello("echo", "ran")
	c, err := Create(b.reaper, b.c, IO{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.PID)); !strings.HasPrefix(string(comm), Name) {
		t.Errorf("the process runs already: %q", comm)
	}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if s := text(); s != "ran\n" {
		t.Errorf("output %q", s)
	}
	<-c.Exit
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), b.c.Root) {
		t.Error("mounts came out")
	}
}

func TestPrivileges(t *testing.T) {
	b := newBox(t)
	umask := uint32(0o77)
	p := hello("id")
	p.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 44}, Umask: &umask}
	p.Capabilities = hcs.CapabilitySet([]string{"CAP_NET_BIND_SERVICE", "CAP_CHOWN"})
	p.NoNewPrivileges = true
	s, _ := b.run(p)
	for _, want := range []string{"uid=1000 gid=1001", "44", "NoNewPrivs=1", "CapBnd=0000000000000401", "CapEff=0000000000000000"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q lacks %q", s, want)
		}
	}
	p = hello("cat", "/proc/self/limits")
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_MSGQUEUE", Soft: 123, Hard: 456}}
	if s, _ := b.run(p); !strings.Contains(s, "123                  456") {
		t.Errorf("limits: %s", s)
	}
	root := hello("id")
	root.Capabilities = hcs.CapabilitySet(hcs.DefaultCapabilities())
	if s, _ := b.run(root); !strings.Contains(s, "uid=0") || !strings.Contains(s, "CapEff=00000000a80425fb") {
		t.Errorf("Docker's default: %q", s)
	}
}

// A filter counts for the process, with and without no_new_privs, also when its
// user may not set one.
func TestSeccomp(t *testing.T) {
	b := newBox(t)
	filter, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"getdents64"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EDOM))}}}, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	b.c.Seccomp = filter
	for _, nnp := range []bool{false, true} {
		p := hello("id")
		p.NoNewPrivileges, p.User.UID = nnp, 1000
		if s, _ := b.run(p); !strings.Contains(s, "Seccomp=2") {
			t.Errorf("noNewPrivileges %v: %q", nnp, s)
		}
		p.Args = []string{"/hello", "ls", "/"}
		if s, code := b.run(p); code == 0 || !strings.Contains(s, unix.EDOM.Error()) {
			t.Errorf("noNewPrivileges %v: %q, exit %d", nnp, s, code)
		}
	}
}

func TestDevices(t *testing.T) {
	b := newBox(t)
	mode := os.FileMode(0o666)
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: &mode}}
	write := func(file string) bool {
		_, code := b.run(hello("write", file, "a test of gatehouse"))
		return code == 0
	}
	if !write("/dev/kmsg") {
		t.Error("refused without rules")
	}
	none := specs.LinuxDeviceCgroup{Access: "rwm"}
	if err := LimitDevices(b.group, []specs.LinuxDeviceCgroup{none}); err != nil {
		t.Fatal(err)
	}
	if write("/dev/kmsg") {
		t.Error("a device that no rule allows can be written")
	}
	if !write("/dev/null") {
		t.Error("a standard device is refused")
	}
	for i, c := range []struct {
		rules []specs.LinuxDeviceCgroup
		want  bool
	}{
		{[]specs.LinuxDeviceCgroup{none, {Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(11)), Access: "rw"}}, true},
		{[]specs.LinuxDeviceCgroup{none, {Allow: true, Type: "c", Major: new(int64(1)), Access: "r"}}, false},
		{[]specs.LinuxDeviceCgroup{none, {Allow: true, Type: "b", Major: new(int64(1)), Minor: new(int64(11))}}, false},
		{[]specs.LinuxDeviceCgroup{{Allow: true}, {Type: "c", Major: new(int64(1)), Minor: new(int64(11)), Access: "w"}}, false},
		{[]specs.LinuxDeviceCgroup{{Allow: true}, {Type: "c", Major: new(int64(1)), Minor: new(int64(12))}}, true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b := newBox(t)
			b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: &mode}}
			if err := LimitDevices(b.group, c.rules); err != nil {
				t.Fatal(err)
			}
			_, code := b.run(hello("write", "/dev/kmsg", "a test of gatehouse"))
			if (code == 0) != c.want {
				t.Errorf("exit %d, want allowed %v", code, c.want)
			}
		})
	}
	if err := LimitDevices(b.group, []specs.LinuxDeviceCgroup{{Access: "x"}}); hcs.CodeOf(err) != hcs.CodeInvalidArg {
		t.Errorf("no access: %v", err)
	}
}

func TestPathsAreMaskedAndReadOnly(t *testing.T) {
	b := newBox(t)
	b.spec.Root.Readonly = true
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
	if s, _ := b.run(hello("cat", "/proc/keys")); s != "" {
		t.Errorf("a masked file shows %q", s)
	}
	if s, _ := b.run(hello("ls", "/sys/kernel")); s != "" {
		t.Errorf("a masked directory shows %q", s)
	}
	for _, f := range []string{"/x", "/proc/sys/net/ipv4/ip_forward"} {
		if s, code := b.run(hello("write", f, "1")); code == 0 || !strings.Contains(s, "read-only") {
			t.Errorf("%s can be written: %q", f, s)
		}
	}
	if s, _ := b.run(hello("cat", "/proc/sys/net/ipv4/ip_default_ttl")); s != "77\n" {
		t.Errorf("sysctl: %q", s)
	}
}

func TestBindMounts(t *testing.T) {
	b := newBox(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("shared\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/a/b", Type: "bind", Source: dir, Options: []string{"rbind", "ro", "rprivate"}},
		specs.Mount{Destination: "/etc/one", Type: "bind", Source: filepath.Join(dir, "f"), Options: []string{"bind"}},
		specs.Mount{Destination: "/out/via-link", Type: "bind", Source: dir, Options: []string{"rbind", "rro"}})
	for _, f := range []string{"/a/b/f", "/etc/one", "/tmp/via-link/f"} {
		if s, _ := b.run(hello("cat", f)); s != "shared\n" {
			t.Errorf("%s: %q", f, s)
		}
	}
	if _, err := os.Stat("/tmp/via-link"); err == nil {
		t.Error("a link of the image led out of it")
	}
	for _, f := range []string{"/a/b/new", "/tmp/via-link/new"} {
		if _, code := b.run(hello("write", f, "1")); code == 0 {
			t.Errorf("%s is not read-only", f)
		}
	}
	if _, code := b.run(hello("write", "/etc/one", "changed")); code != 0 {
		t.Error("a writable bind is not")
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such"})
	b.c.Init = hello("id")
	if _, err := Create(b.reaper, b.c, IO{}); err == nil || !strings.Contains(err.Error(), "/x") {
		t.Errorf("a missing source: %v", err)
	}
}

func TestHoldAndExec(t *testing.T) {
	b := newBox(t)
	holder, err := Create(b.reaper, b.c, IO{})
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(holder.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", holder.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	exec := func(p *specs.Process) string {
		w, text := b.out()
		c, err := Exec(b.reaper, pidfd, mounts, b.group, *p, nil, IO{Stdout: w, Stderr: w})
		if err != nil {
			t.Fatal(err)
		}
		s := text()
		<-c.Exit
		return s
	}
	if s := exec(hello("hostname")); s != "inside\n" {
		t.Errorf("host name %q", s)
	}
	if s := exec(hello("cat", "/proc/1/cmdline")); !strings.HasPrefix(s, Name) {
		t.Errorf("process 1 is %q", s)
	}
	if s := exec(hello("cat", "/proc/self/cgroup")); !strings.Contains(s, "0::/\n") {
		t.Errorf("cgroup %q", s)
	}
	var he *hcs.Error
	for name, code := range map[string]int{"nope": 127, "/nope": 127, "/etc": 126} {
		p := hello()
		p.Args = []string{name}
		if _, err = Exec(b.reaper, pidfd, mounts, b.group, *p, nil, IO{}); !errors.As(err, &he) || he.ExitCode != code {
			t.Errorf("%s: %v, want exit code %d", name, err, code)
		}
	}
	if ok, err := b.reaper.Kill(holder.PID, int(unix.SIGTERM)); !ok || err != nil {
		t.Errorf("signal: %v, %v", ok, err)
	}
	if s := exec(hello("hostname")); s != "inside\n" {
		t.Error("SIGTERM ended the holder")
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t)
	b.c.Init = hello("tty")
	b.c.Init.Terminal = true
	b.c.Init.ConsoleSize = &specs.Box{Height: 33, Width: 99}
	c, err := Create(b.reaper, b.c, IO{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	s, err := io.ReadAll(c.Console)
	if !errors.Is(err, unix.EIO) || string(s) != "terminal 33 rows 99 columns\r\n" {
		t.Errorf("%q, %v", s, err)
	}
	c.Console.Close()
	<-c.Exit
}

func TestJoinsAnotherNetwork(t *testing.T) {
	b := newBox(t)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(self)
	b.c.Joins = map[specs.LinuxNamespaceType]int{specs.NetworkNamespace: self, specs.UTSNamespace: Ours}
	want, _ := os.Readlink("/proc/self/ns/net")
	b.c.Init = hello("sleep", "inf")
	c, err := Create(b.reaper, b.c, IO{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.PID)); got != want {
		t.Errorf("network %s, want %s", got, want)
	}
	if got, _ := os.Readlink("/proc/self/ns/net"); got != want {
		t.Error("we moved")
	}
	name, _ := os.Hostname()
	if name == "inside" {
		t.Error("the host name of a joined namespace was changed")
	}
	c.abandon(b.reaper)
}

func TestSupportedNamesTheMember(t *testing.T) {
	for field, s := range map[string]*specs.Spec{
		"OCI.hooks":                   {Hooks: &specs.Hooks{}},
		"OCI.process.apparmorProfile": {Process: &specs.Process{ApparmorProfile: "x"}},
		"OCI.linux.seccomp":           {Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "mount"}}, Seccomp: &specs.LinuxSeccomp{}}},
		"OCI.linux.namespaces.user":   {Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "user"}}}},
		"OCI.mounts[0].options":       {Mounts: []specs.Mount{{Options: []string{"rshared"}}}},
		"OCI.linux.namespaces.mount":  {Linux: &specs.Linux{}},
	} {
		var e *hcs.Error
		if err := Supported(s, nil); !errors.As(err, &e) || e.Field != field || e.Code != hcs.CodeNotSupported {
			t.Errorf("%s: %v", field, err)
		}
	}
}
