// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"

	"gatehouse.dev/gatehouse/hcs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden is one case: a document, what the host and the image are, and the spec.
type golden struct {
	Facts     Facts
	Image     *ispec.ImageConfig
	User      specs.User
	NetNsPath string
	OwnNetNs  bool
	Devices   []specs.LinuxDevice
}

func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var g golden
			if err := json.Unmarshal(a.Files[1].Data, &g); err != nil {
				t.Fatal(err)
			}
			doc, ignored, err := hcs.Decode[hcs.ComputeSystem](a.Files[0].Data)
			if err != nil || len(ignored) > 0 {
				t.Fatalf("%v, ignored %v", err, ignored)
			}
			doc = granted("web-frontend-1", "uid:0", doc)
			if err := Validate("web-frontend-1", doc, g.Facts); err != nil {
				t.Fatal(err)
			}
			g.Facts.NoSeccomp = true // tested apart: it is long and of the kernel
			s, err := Compile(Input{ID: "web-frontend-1", RuntimeID: "rid", Doc: doc, Image: g.Image, Facts: g.Facts, User: g.User,
				NetNsPath: g.NetNsPath, OwnNetNs: g.OwnNetNs, EtcDir: "/scratch/etc", CgroupPath: "/gatehouse/rid", Devices: g.Devices})
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(s, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			goldenPart(t, name, a, "silo.json", got)
		})
	}
}

// goldenPart holds what was compiled against the third part of an archive, of that name.
func goldenPart(t *testing.T, file string, a *txtar.Archive, part string, got []byte) {
	t.Helper()
	if *update {
		a.Files = append(a.Files[:2:2], txtar.File{Name: part, Data: got})
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if len(a.Files) < 3 {
		t.Fatal("no golden part; run with -update")
	}
	if d := cmp.Diff(string(a.Files[2].Data), string(got)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// The document is not touched: what is stored is what was asked for.
func TestCompileLeavesItsInput(t *testing.T) {
	doc := granted("x", "o", hcs.ComputeSystem{Container: &hcs.Container{Image: "i", Memory: &hcs.Memory{SizeInMB: 64},
		InitProcess: &hcs.ProcessParameters{CommandArgs: []string{"a"}},
		Oci: &specs.Spec{Process: &specs.Process{NoNewPrivileges: true}, Linux: &specs.Linux{Sysctl: map[string]string{"a": "b"},
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{}}}}}})
	before, _ := json.Marshal(doc)
	s, err := Compile(Input{ID: "x", Doc: doc, Facts: Facts{Cgroup: CgroupV1, NoSeccomp: true}})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Linux.Sysctl["c"] = "d"
	s.Spec.Process.Args[0] = "z"
	if after, _ := json.Marshal(doc); string(after) != string(before) {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	if !s.Spec.Process.NoNewPrivileges {
		t.Error("Oci.process is lost")
	}
}

func TestSeccompFollowsCapabilities(t *testing.T) {
	allowed := func(caps *specs.LinuxCapabilities, call string) bool {
		doc := granted("x", "o", hcs.ComputeSystem{Container: &hcs.Container{Image: "i",
			InitProcess: &hcs.ProcessParameters{CommandArgs: []string{"a"}, Oci: &specs.Process{Capabilities: caps}}}})
		s, err := Compile(Input{ID: "x", Doc: doc, Facts: Facts{Cgroup: CgroupV2}})
		if err != nil {
			t.Fatal(err)
		}
		sc := s.Spec.Linux.Seccomp
		if sc.DefaultAction != specs.ActErrno {
			t.Fatalf("default action %s", sc.DefaultAction)
		}
		return slices.ContainsFunc(sc.Syscalls, func(c specs.LinuxSyscall) bool {
			return c.Action == specs.ActAllow && len(c.Args) == 0 && slices.Contains(c.Names, call)
		})
	}
	admin, err := hcs.Capabilities([]string{"SYS_ADMIN"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		call          string
		normal, admin bool
	}{{"read", true, true}, {"mount", false, true}, {"keyctl", false, false}, {"kexec_load", false, false}, {"chroot", true, true}} {
		if a, b := allowed(nil, c.call), allowed(admin, c.call); a != c.normal || b != c.admin {
			t.Errorf("%s: allowed %v by default, %v with SYS_ADMIN", c.call, a, b)
		}
	}
}

func TestLimits(t *testing.T) {
	two := Facts{Cgroup: CgroupV1, CPUs: 2}
	for _, c := range []struct {
		p             hcs.Processor
		f             Facts
		quota, period int64
		shares        uint64
		weight        string
	}{
		{hcs.Processor{Count: 2}, two, 200000, 100000, 0, ""},
		{hcs.Processor{Maximum: 5000}, two, 100000, 100000, 0, ""},
		{hcs.Processor{Maximum: 10000}, two, 200000, 100000, 0, ""},
		{hcs.Processor{Maximum: 1}, two, 1000, 1000000, 0, ""}, // 200 µs: below the floor even of a second
		{hcs.Processor{Maximum: 20}, two, 4000, 1000000, 0, ""},
		{hcs.Processor{Weight: 100}, two, 0, 0, 1024, ""},
		{hcs.Processor{Weight: 1}, two, 0, 0, 10, ""},
		{hcs.Processor{Weight: 10000}, two, 0, 0, 102400, ""},
		{hcs.Processor{Weight: 100}, Facts{Cgroup: CgroupV2}, 0, 0, 0, "100"},
	} {
		cpu, unified := CPU(c.p, c.f)
		if cpu == nil {
			cpu = &specs.LinuxCPU{}
		}
		var q, s int64
		var per uint64
		if cpu.Quota != nil {
			q, per = *cpu.Quota, *cpu.Period
		}
		if cpu.Shares != nil {
			s = int64(*cpu.Shares)
		}
		if q != c.quota || int64(per) != c.period || uint64(s) != c.shares || unified["cpu.weight"] != c.weight {
			t.Errorf("%+v on %s: quota %d period %d shares %d unified %v", c.p, c.f.Cgroup, q, per, s, unified)
		}
	}
	if m := Memory(64, two); *m.Limit != 64<<20 || *m.Swap != 64<<20 {
		t.Errorf("memory %+v", m)
	}
	if m := Memory(64, Facts{NoSwapLimit: true}); m.Swap != nil {
		t.Errorf("swap limit on a host that has none")
	}
}

func TestUpdate(t *testing.T) {
	doc := granted("x", "o", hcs.ComputeSystem{Container: &hcs.Container{Image: "i", InitProcess: &hcs.ProcessParameters{}}})
	for _, c := range []struct {
		path, settings string
		code           hcs.Code
	}{
		{hcs.ResourceMemory, `64`, 0}, {hcs.ResourceMemory, `{"SizeInMB":64}`, 0}, {hcs.ResourceProcessor, `{"Count":1}`, 0}, {hcs.ResourcePids, `9`, 0},
		{hcs.ResourceMemory, `0`, hcs.CodeInvalidArg}, {hcs.ResourceMemory, `"x"`, hcs.CodeInvalidJSON}, {hcs.ResourceMemory, `3`, hcs.CodeInvalidArg},
		{hcs.ResourceProcessor, `{}`, hcs.CodeInvalidArg}, {hcs.ResourceProcessor, `{"Count":1,"Weight":3}`, hcs.CodeInvalidJSON},
		{hcs.ResourceMappedDirectories, `{}`, hcs.CodeNotSupported}, {"", `{}`, hcs.CodeNotSupported}, {hcs.ResourcePids, `-1`, hcs.CodeInvalidJSON},
	} {
		_, _, err := Update(doc, c.path, []byte(c.settings), Facts{CPUs: 2})
		if hcs.CodeOf(err) != c.code {
			t.Errorf("%s %s: %v, want %s", c.path, c.settings, err, c.code)
		}
	}
	if doc.Container.Memory != nil {
		t.Error("Update changed its input")
	}
}

func TestInitCommand(t *testing.T) {
	img := &ispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"PATH=/p", "A=1"}, WorkingDir: "/w", User: "u"}
	for name, c := range map[string]struct {
		p         hcs.ProcessParameters
		img       *ispec.ImageConfig
		args, env string
		cwd, user string
	}{
		"image":           {hcs.ProcessParameters{}, img, "/entry cmd", "A=1 HOSTNAME=h PATH=/p", "/w", "u"},
		"command":         {hcs.ProcessParameters{CommandArgs: []string{"x", "y"}}, img, "/entry x y", "A=1 HOSTNAME=h PATH=/p", "/w", "u"},
		"entry point":     {hcs.ProcessParameters{ApplicationName: "/e"}, img, "/e", "A=1 HOSTNAME=h PATH=/p", "/w", "u"},
		"both":            {hcs.ProcessParameters{ApplicationName: "/e", CommandArgs: []string{"x"}}, img, "/e x", "A=1 HOSTNAME=h PATH=/p", "/w", "u"},
		"command line":    {hcs.ProcessParameters{CommandLine: "a 'b c'"}, nil, "a b c", "HOSTNAME=h PATH=" + defaultPath, "/", ""},
		"own environment": {hcs.ProcessParameters{Environment: map[string]string{"A": "2", "B": "3"}, User: "0", WorkingDirectory: "/x"}, img, "/entry cmd", "A=2 B=3 HOSTNAME=h PATH=/p", "/x", "0"},
		"terminal":        {hcs.ProcessParameters{EmulateConsole: true}, img, "/entry cmd", "A=1 HOSTNAME=h PATH=/p TERM=xterm", "/w", "u"},
		"oci":             {hcs.ProcessParameters{Oci: &specs.Process{Args: []string{"o"}, Env: []string{"A=9"}, Cwd: "/o", User: specs.User{UID: 5}}}, img, "o", "A=9 HOSTNAME=h PATH=/p", "/o", "5:0"},
	} {
		got, err := InitCommand(c.p, c.img, "h")
		if err != nil || strings.Join(got.Args, " ") != c.args || strings.Join(got.Env, " ") != c.env || got.Cwd != c.cwd || got.User != c.user {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	if _, err := InitCommand(hcs.ProcessParameters{}, &ispec.ImageConfig{}, ""); hcs.CodeOf(err) != hcs.CodeInvalidArg {
		t.Errorf("no command: %v", err)
	}
}

func TestExecCommand(t *testing.T) {
	init := specs.Process{Env: []string{"A=1", "PATH=/p"}, Cwd: "/w", User: specs.User{UID: 7}, Capabilities: hcs.CapabilitySet([]string{"CAP_KILL"}), Terminal: true, Args: []string{"init"}}
	p := hcs.ProcessParameters{CommandArgs: []string{"sh"}, Environment: map[string]string{"B": "2"}, EmulateConsole: false}
	c, err := ExecCommand(p, init)
	if err != nil || strings.Join(c.Env, " ") != "A=1 B=2 PATH=/p" || c.Cwd != "/w" || c.User != "" {
		t.Errorf("%+v %v", c, err)
	}
	o := ExecProcess(p, init, c, init.User)
	if o.Terminal || o.Args[0] != "sh" || o.User.UID != 7 || len(o.Capabilities.Bounding) != 1 {
		t.Errorf("%+v", o)
	}
	p.RestrictedToken = true
	if o = ExecProcess(p, init, c, init.User); len(o.Capabilities.Bounding) != 0 || !o.NoNewPrivileges {
		t.Errorf("restricted: %+v", o)
	}
}
