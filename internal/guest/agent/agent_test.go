// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

func TestLimitsOfVersion2(t *testing.T) {
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(100)), Swap: new(int64(150)), Reservation: new(int64(-1))},
		CPU:    &specs.LinuxCPU{Quota: new(int64(50000)), Shares: new(uint64(2048)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: new(int64(-1))}, Unified: map[string]string{"io.weight": "7"},
	}
	want := []setting{{"memory.swap.max", "50"}, {"memory.max", "100"}, {"memory.low", "max"}, {"cpu.max", "50000 100000"},
		{"cpu.weight", "200"}, {"cpuset.cpus", "0"}, {"pids.max", "max"}, {"io.weight", "7"}}
	if d := cmp.Diff(want, settings(r), cmp.AllowUnexported(setting{})); d != "" {
		t.Error(d)
	}
	if got := settings(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1024))}, Unified: map[string]string{"cpu.weight": "3"}}); len(got) != 1 || got[0].value != "3" {
		t.Errorf("shares beside a weight: %v", got)
	}
}

// A refused limit leaves none of the others behind.
func TestLimitsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"memory.max": "max\n", "pids.max": "10\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := setLimits(dir, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(5))}, Pids: &specs.LinuxPids{Limit: new(int64(5))},
		Unified: map[string]string{"no.such": "1"}})
	if hcs.CodeOf(err) != hcs.CodeInvalidArg {
		t.Errorf("got %v", err)
	}
	for name, want := range map[string]string{"memory.max": "max", "pids.max": "10"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s is %q, want %q", name, b, want)
		}
	}
}

func TestFilesOfANetwork(t *testing.T) {
	n := proto.Network{Addresses: []string{"10.0.0.5/24", "fd00::5/64"}, HostName: "web", Hosts: []proto.Host{{IP: "10.0.0.6", Names: []string{"db", "db.local"}}}}
	if got, want := hosts(n), localhost+"10.0.0.5\tweb\nfd00::5\tweb\n10.0.0.6\tdb db.local\n"; got != want {
		t.Errorf("hosts:\n%s", got)
	}
	if got, want := resolvConf(proto.Dns{Servers: []string{"10.0.0.1"}, Search: []string{"a", "b"}, Options: []string{"ndots:0"}}),
		"nameserver 10.0.0.1\nsearch a b\noptions ndots:0\n"; got != want {
		t.Errorf("resolv.conf:\n%s", got)
	}
}

// Bytes of an image decide what it is mounted as.
func TestFileSystems(t *testing.T) {
	write := func(at int, b ...byte) string {
		f := filepath.Join(t.TempDir(), "disk")
		content := make([]byte, 2048)
		copy(content[at:], b)
		if err := os.WriteFile(f, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for want, f := range map[string]string{"erofs": write(1024, 0xe2, 0xe1, 0xf5, 0xe0), "ext4": write(1080, 0x53, 0xef)} {
		if got, err := fileSystem(f); got != want || err != nil {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
	if _, err := fileSystem(write(0)); hcs.CodeOf(err) != hcs.CodeInvalidLayer {
		t.Errorf("neither: %v", err)
	}
}

// Every request that the protocol has is answered.
func TestEveryRequestHasARule(t *testing.T) {
	for _, typ := range []proto.Type{proto.Create, proto.Start, proto.ShutdownGraceful, proto.ShutdownForced, proto.ExecuteProcess,
		proto.WaitForProcess, proto.SignalProcess, proto.ResizeConsole, proto.GetProperties, proto.ModifySettings, proto.NegotiateProtocol,
		proto.DumpStacks, proto.DeleteContainerState, proto.UpdateContainer, proto.SetTime, proto.AddEntropy, proto.AddNetwork,
		proto.RemoveNetwork, proto.Freeze, proto.Thaw, proto.CopyFile} {
		if _, ok := rules[typ]; !ok {
			t.Errorf("%v has no rule", typ)
		}
	}
}

// One container's requests wait for each other, the machine's do not.
func TestLanes(t *testing.T) {
	a := newAgent(nil, nil)
	first, done := a.lane("c", false)
	if first != nil {
		t.Error("the first waits")
	}
	second, _ := a.lane("c", false)
	if second != done {
		t.Error("the second does not wait for the first")
	}
	if b, _ := a.lane("c", true); b != nil {
		t.Error("what overtakes waits")
	}
	if b, _ := a.lane(proto.VM, false); b != nil {
		t.Error("the machine's requests wait")
	}
}

func TestStreamsAreWaitedFor(t *testing.T) {
	s := newStreams()
	got := make(chan error, 1)
	go func() { _, err := s.take(streamID{"stdin", 1}); got <- err }()
	time.Sleep(time.Millisecond)
	s.put(streamID{"stdin", 1}, proto.Stream{})
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestCopyFileStaysBelow(t *testing.T) {
	a := newAgent(nil, nil)
	for _, p := range []string{"/etc/passwd", proto.FilesRoot, proto.FilesRoot + "/../x", "x"} {
		if _, err := a.copyFile(proto.CopyFileRequest{Path: p}); hcs.CodeOf(err) != hcs.CodeInvalidArg {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"a", "A.b-c_d@vm", strings.Repeat("x", 128)} {
		if !isID(id) {
			t.Errorf("%q is none", id)
		}
	}
	for _, id := range []string{"", ".", "..", "-a", "@a", "a/b", "a b", "ä", strings.Repeat("x", 129)} {
		if isID(id) {
			t.Errorf("%q is one", id)
		}
	}
}

// On a host the agent touches nothing: it would hide the host's mounts.
func TestOnlyAsProcess1(t *testing.T) {
	if err := run(); err == nil || !strings.Contains(err.Error(), "process 1") {
		t.Errorf("got %v", err)
	}
}

func TestCreateSaysWhatIsWrong(t *testing.T) {
	a := newAgent(nil, nil)
	for field, c := range map[string]proto.ContainerConfig{
		"ContainerConfig.Id":       {Id: "../x", Mode: proto.ModeHolder},
		"ContainerConfig.Mode":     {Id: "a", Mode: "x"},
		"ContainerConfig.OCI":      {Id: "a", Mode: proto.ModeInit, OCI: &specs.Spec{}},
		"ContainerConfig.RootPath": {Id: "a", Mode: proto.ModeHolder, OCI: &specs.Spec{}, RootPath: "/no/such"},
	} {
		var e *hcs.Error
		if _, err := a.create(proto.CreateRequest{Base: proto.Base{ContainerId: c.Id}, ContainerConfig: c}); !errors.As(err, &e) || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
