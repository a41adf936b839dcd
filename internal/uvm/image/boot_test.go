// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// kernelPackage is what scripts/setup.sh downloaded.
func kernelPackage(t *testing.T) string {
	t.Helper()
	debs, _ := filepath.Glob("/var/cache/gatehouse/linux-image-*.deb")
	if len(debs) == 0 {
		t.Skip("no kernel package; run scripts/setup.sh dev")
	}
	return debs[len(debs)-1]
}

// need skips what this host cannot do.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() || runtime.GOARCH != "amd64" {
		t.Skip("boots a machine of amd64")
	}
	for _, p := range programs {
		if _, err := look(p); err != nil {
			t.Skipf("%s is not installed; run scripts/setup.sh dev", p)
		}
	}
}

// buildImage makes an image with the agent of this tree.
func buildImage(t *testing.T) Image {
	t.Helper()
	need(t, "qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4")
	deb := kernelPackage(t)
	program := filepath.Join(t.TempDir(), "guest")
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "../../../cmd/guest")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	agent, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	cat := Catalogue{t.TempDir()}
	img, err := cat.build(t.Context(), "test", Options{Source: Source{Deb: deb}}, agent)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// machine is a booted one, driven as a worker does it.
type machine struct {
	t       *testing.T
	s       *proto.Session
	cmd     *exec.Cmd
	serial  string
	sock    string
	began   time.Time
	key     uint64
	notices chan proto.Message
}

// hostKHz as QEMU's counter runs: emulation passes the host's on.
func hostKHz(t *testing.T) int {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "cpu MHz" {
			mhz, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(mhz * 1000)
		}
	}
	t.Skip("no cpu MHz in /proc/cpuinfo")
	return 0
}

func qemu(t *testing.T, img Image, serial, extra string, args ...string) *exec.Cmd {
	c := exec.Command("qemu-system-x86_64", append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=mem0", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", "1", "-m", "256", "-object", "memory-backend-memfd,id=mem0,size=256M,share=on", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", img.KernelPath(), "-initrd", img.InitrdPath(),
		"-append", fmt.Sprintf("%s tsc_early_khz=%d nr_cpus=1 %s", img.Cmdline, hostKHz(t), extra),
		"-serial", "file:" + serial}, args...)...)
	c.Stderr = os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return c
}

// boot starts the image with disks as LUNs 1…, LUN 0 being the tools.
func boot(t *testing.T, img Image, disks []string, extra ...string) *machine {
	t.Helper()
	m := &machine{t: t, serial: filepath.Join(t.TempDir(), "serial")}
	sock := filepath.Join(t.TempDir(), "a")
	args := append([]string{"-device", "virtio-serial-device,id=vs0,max_ports=32", "-chardev", "socket,id=ag0,path=" + sock + ",server=on,wait=off",
		"-device", "virtserialport,bus=vs0.0,nr=1,chardev=ag0,name=" + proto.PortName, "-device", "virtio-scsi-device,id=scsi0",
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng0", "-device", "pvpanic"}, extra...)
	for lun, path := range append([]string{img.ToolsPath()}, disks...) {
		ro := "on"
		if strings.HasSuffix(path, ".ext4") {
			ro = "off"
		}
		args = append(args, "-blockdev", fmt.Sprintf("driver=file,node-name=d%d,filename=%s,read-only=%s,auto-read-only=off", lun, path, ro),
			"-device", fmt.Sprintf("scsi-hd,bus=scsi0.0,scsi-id=0,channel=0,lun=%d,drive=d%d", lun, lun))
	}
	m.cmd = qemu(t, img, m.serial, "", args...)
	m.began = time.Now()
	runtime.LockOSThread() // Pdeathsig is of the thread
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(m.serial)
			t.Logf("serial console:\n%s", b[max(0, len(b)-4096):])
		}
	})
	m.sock = sock
	m.connect()
	return m
}

// connect begins a session and negotiates.
func (m *machine) connect() {
	m.t.Helper()
	var conn net.Conn
	var err error
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if conn, err = net.Dial("unix", m.sock); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := proto.Connect(ctx, conn)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s = s
	m.t.Cleanup(func() { s.Close() })
	notices := make(chan proto.Message, 1000)
	m.notices = notices
	go func() {
		for n := range s.Notifications() {
			notices <- n
		}
		close(notices)
	}()
	var r proto.NegotiateResponse
	m.call(proto.NegotiateProtocol, proto.NegotiateRequest{Base: proto.Base{ContainerId: proto.VM}, MinimumVersion: 1, MaximumVersion: 1,
		Time: time.Now().UnixNano(), Entropy: bytes.Repeat([]byte{7}, 64), HostName: "machine"}, &r)
	m.t.Logf("QEMU to handshake %d ms (%d ms of CPU); the kernel says it is up %d ms", time.Since(m.began).Milliseconds(), m.cpu().Milliseconds(), r.Uptime100ns/10000)
}

// cpu is what QEMU has used: unlike the clock it does not depend on what else the
// host does.
func (m *machine) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	sys, _ := strconv.Atoi(f[12])
	return time.Duration(user+sys) * 10 * time.Millisecond
}

func (m *machine) try(t proto.Type, req, resp any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return m.s.Call(ctx, t, req, resp)
}

func (m *machine) call(t proto.Type, req, resp any) {
	m.t.Helper()
	if err := m.try(t, req, resp); err != nil {
		m.t.Fatalf("%v: %v", t, err)
	}
}

func (m *machine) modify(resource string, settings any) {
	m.t.Helper()
	raw, err := json.Marshal(settings)
	if err != nil {
		m.t.Fatal(err)
	}
	m.call(proto.ModifySettings, proto.ModifyRequest{Base: proto.Base{ContainerId: proto.VM},
		Request: hcs.GuestRequest{RequestType: hcs.RequestAdd, ResourceType: resource, Settings: raw}}, nil)
}

// stdio are the streams of one process.
type stdio struct {
	proto.Stdio
	in       proto.Stream
	out, err bytes.Buffer
	done     sync.WaitGroup
	outDone  func()
	first    time.Time
}

func (m *machine) streams(id string, in bool) *stdio {
	m.t.Helper()
	m.key++
	s := &stdio{Stdio: proto.Stdio{Key: m.key, StdIn: in, StdOut: true, StdErr: true}}
	open := func(kind string) proto.Stream {
		st, err := m.s.Open(m.t.Context(), proto.StreamHead{Stream: kind, ContainerId: id, Key: s.Key})
		if err != nil {
			m.t.Fatal(err)
		}
		return st
	}
	if in {
		s.in = open(proto.StreamStdin)
	}
	out, errs := open(proto.StreamStdout), open(proto.StreamStderr)
	outEnd := make(chan struct{})
	s.outDone = func() { <-outEnd }
	s.done.Go(func() {
		defer close(outEnd)
		var b [1]byte
		if n, _ := out.Read(b[:]); n == 1 {
			s.first = time.Now()
			s.out.Write(b[:])
		}
		_, _ = io.Copy(&s.out, out)
	})
	s.done.Go(func() { _, _ = io.Copy(&s.err, errs) })
	return s
}

// exec runs a process in a container to its end.
func (m *machine) exec(id, input string, args ...string) (string, uint32) {
	m.t.Helper()
	s := m.streams(id, true)
	var r proto.ExecuteResponse
	m.call(proto.ExecuteProcess, proto.ExecuteRequest{Base: proto.Base{ContainerId: id}, Settings: proto.ExecuteSettings{
		ProcessParameters: hcs.ProcessParameters{CommandArgs: args}, Stdio: s.Stdio}}, &r)
	go func() { _, _ = io.WriteString(s.in, input); _ = s.in.CloseWrite() }()
	var w proto.WaitResponse
	m.call(proto.WaitForProcess, proto.WaitRequest{Base: proto.Base{ContainerId: id}, ProcessId: r.ProcessId, TimeoutInMs: 15000}, &w)
	s.done.Wait()
	return s.out.String() + s.err.String(), w.ExitCode
}

// notice waits for a notification of a type.
func (m *machine) notice(t proto.Type, doc any) {
	m.t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		select {
		case n, ok := <-m.notices:
			if !ok {
				m.t.Fatalf("the session ended before notification %v", t)
			}
			if n.Type != t {
				continue
			}
			if err := proto.Decode(n.Body, doc); err != nil {
				m.t.Fatal(err)
			}
			return
		case <-timeout:
			m.t.Fatalf("no notification %v", t)
		}
	}
}

// layer makes an EROFS of the program of gatehouse/hello.
func layer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "hello"), "../../../cmd/hello")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, d := range []string{"etc", "tmp", "proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/:/hello\nweb:x:33:34::/:/hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "layer.erofs")
	if err := mkfs(t.Context(), dir, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func scratch(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "scratch.ext4")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), "", "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", "-O", "^has_journal,^resize_inode", out); err != nil {
		t.Fatal(err)
	}
	return out
}

// spec of a container as a host compiles it.
func spec(args ...string) *specs.Spec {
	limit := int64(64 << 20)
	return &specs.Spec{Version: "1.0.2", Hostname: "box", Root: &specs.Root{},
		Process: &specs.Process{Args: args, Env: []string{"PATH=/:/bin"}, Cwd: "/", Capabilities: hcs.CapabilitySet(hcs.DefaultCapabilities())},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys"}, ReadonlyPaths: []string{"/proc/sys"},
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}, Pids: &specs.LinuxPids{Limit: new(int64(100))}}},
	}
}
