// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

const testMAC = "02:15:5d:00:00:01"

// TestBoot drives a machine from its start to its goodbye.
func TestBoot(t *testing.T) {
	img := buildImage(t)
	layers, disk := layer(t), scratch(t)
	shared, fsArgs := share(t)
	m := boot(t, img, []string{layers, disk}, append(fsArgs, "-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-device,netdev=n0,mac="+testMAC)...)
	m.modify(proto.ResourceMappedVirtualDisk, proto.MappedVirtualDisk{MountPath: "/l/1", Lun: 1, ReadOnly: true})
	m.modify(proto.ResourceMappedVirtualDisk, proto.MappedVirtualDisk{MountPath: "/c/1", Lun: 2})
	m.modify(proto.ResourceCombinedLayers, proto.CombinedLayers{ContainerRootPath: "/c/1/r", Layers: []hcs.Layer{{Path: "/l/1"}}, ScratchPath: "/c/1"})
	t.Logf("disks and overlay after %d ms", time.Since(m.began).Milliseconds())

	// Init mode: nothing runs before Start, no byte is lost, exit is told.
	const id = "box@1"
	s := m.streams(id, false)
	asked := time.Now()
	m.call(proto.Create, proto.CreateRequest{Base: proto.Base{ContainerId: id}, ContainerConfig: proto.ContainerConfig{Id: id, Mode: proto.ModeInit,
		RootPath: "/c/1/r", OCI: spec("hello", "echo", "first byte"), Stdio: s.Stdio}}, nil)
	created := time.Now()
	var started proto.StartResponse
	m.call(proto.Start, proto.Base{ContainerId: id}, &started)
	var w proto.WaitResponse
	m.call(proto.WaitForProcess, proto.WaitRequest{Base: proto.Base{ContainerId: id}, ProcessId: started.Pid, TimeoutInMs: proto.WaitForever}, &w)
	s.done.Wait()
	if s.out.String() != "first byte\n" || w.ExitCode != 0 {
		t.Errorf("init: %q %q, exit %d", s.out.String(), s.err.String(), w.ExitCode)
	}
	t.Logf("create %d ms, start to first byte %d ms; QEMU to first byte %d ms", created.Sub(asked).Milliseconds(),
		s.first.Sub(created).Milliseconds(), s.first.Sub(m.began).Milliseconds())
	var exited proto.ProcessExitedNotification
	m.notice(proto.NotifyProcessExited, &exited)
	var ended proto.ContainerNotification
	m.notice(proto.NotifyContainer, &ended)
	if exited.ProcessId != started.Pid || exited.Key != s.Key || ended.Type != hcs.GracefulExit {
		t.Errorf("news: %+v, %+v", exited, ended)
	}
	m.call(proto.DeleteContainerState, proto.Base{ContainerId: id}, nil)
	m.call(proto.DeleteContainerState, proto.Base{ContainerId: id}, nil) // idempotent

	// Holder mode: processes come and go.
	const hold = "hold"
	m.call(proto.Create, proto.CreateRequest{Base: proto.Base{ContainerId: hold}, ContainerConfig: proto.ContainerConfig{Id: hold,
		Mode: proto.ModeHolder, RootPath: "/c/1/r", OCI: spec()}}, nil)
	if err := m.try(proto.Create, proto.CreateRequest{Base: proto.Base{ContainerId: hold}, ContainerConfig: proto.ContainerConfig{Id: hold,
		Mode: proto.ModeHolder, RootPath: "/c/1/r", OCI: spec()}}, nil); hcs.CodeOf(err) != hcs.CodeSystemAlreadyExists {
		t.Errorf("the same Id again: %v", err)
	}
	m.call(proto.Start, proto.Base{ContainerId: hold}, nil)
	for _, c := range []struct {
		input, want string
		code        uint32
		args        []string
	}{
		{"", "box\n", 0, []string{"hello", "hostname"}},
		{"through\n", "through\n", 0, []string{"hello", "cat"}},
		{"", "", 3, []string{"hello", "exit", "3"}},
	} {
		if out, code := m.exec(hold, c.input, c.args...); out != c.want || code != c.code {
			t.Errorf("%v: %q, exit %d", c.args, out, code)
		}
	}
	if out, _ := m.exec(hold, "", "hello", "cat", "/etc/hosts"); !strings.Contains(out, "localhost") {
		t.Errorf("hosts: %q", out)
	}
	err := m.try(proto.ExecuteProcess, proto.ExecuteRequest{Base: proto.Base{ContainerId: hold}, Settings: proto.ExecuteSettings{
		ProcessParameters: hcs.ProcessParameters{CommandArgs: []string{"nope"}}}}, nil)
	if e := (*hcs.Error)(nil); !errors.As(err, &e) || e.ExitCode != 127 {
		t.Errorf("no such program: %v", err)
	}
	m.properties(hold)
	m.network(hold)
	m.terminal(hold)
	m.files(hold)
	m.clockAndRest(hold)
	m.bulk(hold)
	m.byCrun()
	m.shares(shared)
	m.memoryRunsOut(hold)
	if out, code := m.exec(proto.VM, "", "/bin/sh", "-c", "hostname; date +%Y"); code != 0 || out != fmt.Sprintf("machine\n%d\n", time.Now().UTC().Year()) {
		t.Errorf("in the machine: %q, exit %d", out, code)
	}
	m.goodbye()
}

// properties: what the kernel counted, and who runs.
func (m *machine) properties(id string) {
	m.t.Helper()
	var p proto.PropertiesResponse
	m.call(proto.GetProperties, proto.PropertiesRequest{Base: proto.Base{ContainerId: id}, Query: hcs.PropertyQuery{
		PropertyTypes: []hcs.PropertyType{hcs.PropertyStatistics, hcs.PropertyProcessList, hcs.PropertyCpuGroup}}}, &p)
	st := p.Properties.Statistics
	if st == nil || st.Memory == nil || st.Memory.LimitBytes != 64<<20 || st.Processor == nil || st.Pids == nil || st.Pids.Limit != 100 {
		m.t.Errorf("statistics: %+v", st)
	}
	if len(p.Properties.ProcessList) != 1 || p.Properties.PropertyResponses[hcs.PropertyCpuGroup].Error == nil {
		m.t.Errorf("properties: %+v", p.Properties)
	}
}

// memoryRunsOut: the kernel's kill is told as what it is.
func (m *machine) memoryRunsOut(id string) {
	m.t.Helper()
	if _, code := m.exec(id, "", "hello", "memhog", "100"); code != 137 {
		m.t.Errorf("a process larger than its container: exit %d", code)
	}
	var oom proto.Base
	m.notice(proto.NotifyOutOfMemory, &oom)
	if oom.ContainerId != id {
		m.t.Errorf("out of memory in %q", oom.ContainerId)
	}
}

// goodbye powers off.
func (m *machine) goodbye() {
	m.t.Helper()
	if err := m.s.Tell(proto.ShutdownGraceful, proto.ShutdownRequest{Base: proto.Base{ContainerId: proto.VM}}); err != nil {
		m.t.Fatal(err)
	}
	var bye proto.GoodbyeNotification
	m.notice(proto.NotifyGoodbye, &bye)
	if bye.Reason != proto.GoodbyePowerOff {
		m.t.Errorf("goodbye: %+v", bye)
	}
	done := make(chan error, 1)
	go func() { done <- m.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			m.t.Errorf("QEMU: %v", err)
		}
	case <-time.After(10 * time.Second):
		m.t.Error("the machine does not power off")
	}
}

// network: the NIC goes into the container with all that its endpoint says.
func (m *machine) network(id string) {
	m.t.Helper()
	n := proto.Network{MacAddress: strings.ReplaceAll(testMAC, ":", "-"), Name: "eth0", MTU: 1400,
		Addresses:  []string{"10.9.0.5/24", "fd09::5/64"},
		Routes:     []proto.Route{{Destination: "0.0.0.0/0", NextHop: "10.8.0.1"}, {Destination: "::/0", NextHop: "fd09::1"}},
		Neighbours: []proto.Neighbour{{IP: "10.8.0.1", MAC: "02-00-00-00-00-09"}},
		Dns:        &proto.Dns{Servers: []string{"10.9.0.1"}, Search: []string{"test"}}, HostName: "box"}
	m.call(proto.AddNetwork, proto.NetworkRequest{Base: proto.Base{ContainerId: id}, Network: n}, nil)
	m.call(proto.AddNetwork, proto.NetworkRequest{Base: proto.Base{ContainerId: id}, Network: n}, nil) // anew
	for file, wants := range map[string][]string{
		"/proc/net/fib_trie":      {"10.9.0.5"},
		"/proc/net/if_inet6":      {"fd090000000000000000000000000005", "eth0"},
		"/proc/net/route":         {"eth0\t00000000\t0100080A"}, // a gateway outside of the subnet is on the link
		"/proc/net/arp":           {"10.8.0.1", "02:00:00:00:00:09"},
		"/etc/resolv.conf":        {"nameserver 10.9.0.1\nsearch test\n"},
		"/etc/hosts":              {"10.9.0.5\tbox\n", "fd09::5\tbox\n"},
		"/sys/class/net/eth0/mtu": {"1400"},
		"/etc/hostname":           {"box\n"},
	} {
		out, _ := m.exec(id, "", "hello", "cat", file)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				m.t.Errorf("%s lacks %q:\n%s", file, want, out)
			}
		}
	}
	m.dial(id)
	m.call(proto.RemoveNetwork, proto.NetworkRequest{Base: proto.Base{ContainerId: id}, Network: proto.Network{MacAddress: testMAC}}, nil)
	if out, _ := m.exec(id, "", "hello", "cat", "/proc/net/dev"); strings.Contains(out, "eth0") {
		m.t.Errorf("the NIC stays:\n%s", out)
	}
	if err := m.try(proto.AddNetwork, proto.NetworkRequest{Base: proto.Base{ContainerId: id}, Network: proto.Network{MacAddress: "02-00-00-00-00-ff"}}, nil); hcs.CodeOf(err) != hcs.CodeNotFound {
		m.t.Errorf("a NIC that is not there: %v", err)
	}
}

// dial: a connection made inside a container's own network.
func (m *machine) dial(id string) {
	m.t.Helper()
	s := m.streams(id, false)
	var server proto.ExecuteResponse
	m.call(proto.ExecuteProcess, proto.ExecuteRequest{Base: proto.Base{ContainerId: id}, Settings: proto.ExecuteSettings{
		ProcessParameters: hcs.ProcessParameters{CommandArgs: []string{"hello", "serve"}}, Stdio: s.Stdio}}, &server)
	var answer string
	for end := time.Now().Add(5 * time.Second); answer == "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		st, err := m.s.Open(m.t.Context(), proto.StreamHead{Stream: proto.StreamDial, ContainerId: id, Network: "tcp", Address: "127.0.0.1:80"})
		if err != nil {
			m.t.Fatal(err)
		}
		_, _ = io.WriteString(st, "GET / HTTP/1.0\r\n\r\n")
		_ = st.CloseWrite()
		b, _ := io.ReadAll(st)
		answer = string(b)
	}
	if !strings.HasPrefix(answer, "HTTP/1.1 200") {
		m.t.Errorf("dial: %q", answer)
	}
	m.call(proto.SignalProcess, proto.SignalRequest{Base: proto.Base{ContainerId: id}, ProcessId: server.ProcessId,
		Options: hcs.SignalProcessOptions{Signal: hcs.SIGTERM}}, nil)
	m.call(proto.WaitForProcess, proto.WaitRequest{Base: proto.Base{ContainerId: id}, ProcessId: server.ProcessId, TimeoutInMs: 5000}, nil)
	err := m.try(proto.SignalProcess, proto.SignalRequest{Base: proto.Base{ContainerId: id}, ProcessId: server.ProcessId,
		Options: hcs.SignalProcessOptions{Signal: hcs.SIGTERM}}, nil)
	if hcs.CodeOf(err) != hcs.CodeProcessAlreadyStopped {
		m.t.Errorf("a signal to who has gone: %v", err)
	}
}

// terminal: output through it, its size, and a resize.
func (m *machine) terminal(id string) {
	m.t.Helper()
	run := func(args ...string) (*stdio, uint32) {
		s := m.streams(id, true)
		var r proto.ExecuteResponse
		m.call(proto.ExecuteProcess, proto.ExecuteRequest{Base: proto.Base{ContainerId: id}, Settings: proto.ExecuteSettings{
			ProcessParameters: hcs.ProcessParameters{CommandArgs: args, EmulateConsole: true, ConsoleSize: [2]uint16{33, 99}},
			Stdio:             proto.Stdio{Key: s.Key, StdIn: true, StdOut: true}}}, &r)
		return s, r.ProcessId
	}
	wait := func(pid uint32) {
		m.call(proto.WaitForProcess, proto.WaitRequest{Base: proto.Base{ContainerId: id}, ProcessId: pid, TimeoutInMs: 5000}, nil)
	}
	s, pid := run("hello", "tty")
	wait(pid)
	s.outDone()
	if s.out.String() != "terminal 33 rows 99 columns\r\n" {
		m.t.Errorf("terminal: %q", s.out.String())
	}
	s, pid = run("hello", "cat")
	m.call(proto.ResizeConsole, proto.ResizeRequest{Base: proto.Base{ContainerId: id}, ProcessId: pid, Height: 10, Width: 20}, nil)
	_, _ = io.WriteString(s.in, "typed\n\x04")
	wait(pid)
	s.outDone()
	if s.out.String() != "typed\r\ntyped\r\n" {
		m.t.Errorf("echo: %q", s.out.String())
	}
	err := m.try(proto.ResizeConsole, proto.ResizeRequest{Base: proto.Base{ContainerId: id}, ProcessId: pid, Height: 10, Width: 20}, nil)
	if hcs.CodeOf(err) != hcs.CodeProcessAlreadyStopped {
		m.t.Errorf("a resize after the end: %v", err)
	}
}

// files: CopyFile puts them where containers may mount them from.
func (m *machine) files(id string) {
	m.t.Helper()
	m.key++
	st, err := m.s.Open(m.t.Context(), proto.StreamHead{Stream: proto.StreamCopy, Key: m.key})
	if err != nil {
		m.t.Fatal(err)
	}
	_, _ = io.WriteString(st, "secret\n")
	_ = st.CloseWrite()
	m.call(proto.CopyFile, proto.CopyFileRequest{Base: proto.Base{ContainerId: proto.VM}, Path: proto.FilesRoot + "/a/b", Mode: 0o400, Key: m.key}, nil)
	if out, _ := m.exec(proto.VM, "", "/bin/sh", "-c", "cat "+proto.FilesRoot+"/a/b; stat -c %a "+proto.FilesRoot+"/a/b"); out != "secret\n400\n" {
		m.t.Errorf("copied: %q", out)
	}
}

// clockAndRest: requests of the machine itself, and limits that change.
func (m *machine) clockAndRest(id string) {
	m.t.Helper()
	vm := proto.Base{ContainerId: proto.VM}
	m.call(proto.SetTime, proto.SetTimeRequest{Base: vm, UnixNano: time.Now().Add(time.Hour).UnixNano()}, nil)
	m.call(proto.SetTime, proto.SetTimeRequest{Base: vm, UnixNano: time.Now().UnixNano(), Monotone: true}, nil) // never back
	out, _ := m.exec(proto.VM, "", "/bin/sh", "-c", "date +%s")
	var inside int64
	_, _ = fmt.Sscan(out, &inside)
	if ahead := time.Until(time.Unix(inside, 0)); ahead < 59*time.Minute || ahead > 61*time.Minute {
		m.t.Errorf("the clock is %v ahead, want an hour", ahead)
	}
	m.call(proto.SetTime, proto.SetTimeRequest{Base: vm, UnixNano: time.Now().UnixNano()}, nil)
	m.call(proto.AddEntropy, proto.EntropyRequest{Base: vm, Entropy: []byte("of the host")}, nil)
	m.call(proto.Freeze, proto.FreezeRequest{Base: vm}, nil)
	m.call(proto.Thaw, proto.FreezeRequest{Base: vm}, nil)
	m.call(proto.UpdateContainer, proto.UpdateRequest{Base: proto.Base{ContainerId: id}, Resources: specs.LinuxResources{
		Pids: &specs.LinuxPids{Limit: new(int64(50))}}}, nil)
	if out, _ := m.exec(id, "", "hello", "cat", "/sys/fs/cgroup/pids.max"); out != "50\n" {
		m.t.Errorf("pids.max: %q", out)
	}
	var stacks proto.StacksResponse
	if m.call(proto.DumpStacks, vm, &stacks); !strings.Contains(stacks.GuestStacks, "goroutine") {
		m.t.Error("no stacks")
	}
	if err := m.try(0x10107701, vm, nil); hcs.CodeOf(err) != hcs.CodeUnknownMessage {
		m.t.Errorf("an unknown request: %v", err)
	}
}

// bulk: bytes in and out are the same bytes.
func (m *machine) bulk(id string) {
	m.t.Helper()
	text := strings.Repeat("0123456789abcde\n", 128<<10) // 2 MiB
	began := time.Now()
	out, code := m.exec(id, text, "hello", "cat")
	if out != text || code != 0 {
		m.t.Errorf("%d bytes went in, %d came out, exit %d", len(text), len(out), code)
	}
	m.t.Logf("2 MiB through stdin and stdout in %d ms", time.Since(began).Milliseconds())
}

// byCrun: a spec that the own starter leaves to crun.
func (m *machine) byCrun() {
	m.t.Helper()
	const id = "crun"
	s := m.streams(id, true)
	sp := spec("hello", "cat")
	sp.Linux.RootfsPropagation = "shared"
	base := proto.Base{ContainerId: id}
	m.call(proto.Create, proto.CreateRequest{Base: base, ContainerConfig: proto.ContainerConfig{Id: id, Mode: proto.ModeInit,
		RootPath: "/c/1/r", OCI: sp, Stdio: s.Stdio, NamespaceId: proto.VM}}, nil)
	began := time.Now()
	var r proto.StartResponse
	m.call(proto.Start, base, &r)
	m.t.Logf("crun starts a container in %d ms", time.Since(began).Milliseconds())
	if out, code := m.exec(id, "", "hello", "hostname"); out != "box\n" || code != 0 {
		m.t.Errorf("exec by crun: %q, exit %d", out, code)
	}
	_, _ = io.WriteString(s.in, "through crun\n")
	_ = s.in.CloseWrite()
	var w proto.WaitResponse
	m.call(proto.WaitForProcess, proto.WaitRequest{Base: base, ProcessId: r.Pid, TimeoutInMs: 10000}, &w)
	s.done.Wait()
	if s.out.String() != "through crun\n" || w.ExitCode != 0 {
		m.t.Errorf("by crun: %q %q, exit %d", s.out.String(), s.err.String(), w.ExitCode)
	}
	m.call(proto.DeleteContainerState, base, nil)
}

// share starts a virtiofsd over a directory, for boot.
func share(t *testing.T) (dir string, args []string) {
	t.Helper()
	daemon := "/usr/lib/qemu/virtiofsd"
	if _, err := os.Stat(daemon); err != nil {
		t.Log("no virtiofsd: shares are not tried")
		return "", nil
	}
	dir = t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a/f"), []byte("shared\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "fs")
	c := exec.Command(daemon, "--socket-path="+sock, "-o", "source="+dir)
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("virtiofsd does not listen")
		}
	}
	return dir, []string{"-chardev", "socket,id=fs0,path=" + sock, "-device", "vhost-user-fs-device,chardev=fs0,tag=" + proto.ShareTag}
}

// shares: a directory and a file of the host, one of them read-only.
func (m *machine) shares(dir string) {
	m.t.Helper()
	if dir == "" {
		return
	}
	m.modify(proto.ResourceMappedDirectory, proto.MappedDirectory{MountPath: "/m/ro", ShareName: "a", ReadOnly: true})
	m.modify(proto.ResourceMappedDirectory, proto.MappedDirectory{MountPath: "/m/rw", ShareName: "a"})
	m.modify(proto.ResourceMappedDirectory, proto.MappedDirectory{MountPath: "/m/file", ShareName: "a/f"})
	out, _ := m.exec(proto.VM, "", "/bin/sh", "-c", "cat /m/ro/f /m/file; echo x > /m/ro/g; echo inside > /m/rw/h")
	if !strings.HasPrefix(out, "shared\nshared\n") || !strings.Contains(out, "Read-only") {
		m.t.Errorf("shares: %q", out)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "a/h")); string(b) != "inside\n" {
		m.t.Errorf("written inside: %q", b)
	}
}

// TestSessions: a template's clones begin new ones; a panic is told by QEMU.
func TestSessions(t *testing.T) {
	img := buildImage(t)
	m := boot(t, img, nil, "-action", "panic=exit-failure")
	m.call(proto.Prepare, proto.PrepareRequest{Base: proto.Base{ContainerId: proto.VM}, Template: true}, nil)
	m.s.Close()
	m.connect()
	m.call(proto.AddEntropy, proto.EntropyRequest{Base: proto.Base{ContainerId: proto.VM}, Entropy: []byte("of this clone")}, nil)
	// A host that goes without a word, in the middle of things, and comes back.
	if _, err := m.s.Open(t.Context(), proto.StreamHead{Stream: proto.StreamStdin, Key: 99}); err != nil {
		t.Fatal(err)
	}
	m.s.Close()
	m.connect()
	if err := m.s.Tell(proto.ExecuteProcess, proto.ExecuteRequest{Base: proto.Base{ContainerId: proto.VM}, Settings: proto.ExecuteSettings{
		ProcessParameters: hcs.ProcessParameters{CommandArgs: []string{"/bin/sh", "-c", "echo c > /proc/sysrq-trigger"}}}}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.cmd.Wait() }()
	select {
	case err := <-done:
		if x := (*exec.ExitError)(nil); !errors.As(err, &x) || x.ExitCode() != 1 {
			t.Errorf("QEMU ends with %v, want exit 1 by the panic", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing tells of the panic")
	}
}

// TestProbe: what proves an accelerator.
func TestProbe(t *testing.T) {
	img := buildImage(t)
	serial := filepath.Join(t.TempDir(), "serial")
	c := qemu(t, img, serial, proto.Probe)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	if err := c.Run(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(serial); !strings.Contains(string(b), proto.ProbeLine) {
		t.Errorf("console: %s", b)
	}
}
