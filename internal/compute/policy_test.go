// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

func uid(n uint32) *uint32 { return &n }

// What is another's is not there, whichever verb asks; one's own is.
func TestOwners(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	if _, err := d.SetPolicy(background(t), &hcs.Policy{Rules: []hcs.PolicyRule{{Match: hcs.PolicyMatch{Uid: uid(7)}}, {Match: hcs.PolicyMatch{Uid: uid(8)}}}}); err != nil {
		t.Fatal(err)
	}
	d.create("roots", document(), true)
	seven := resource.WithCaller(background(t), resource.Caller{UID: 7})
	eight := resource.WithCaller(background(t), resource.Caller{UID: 8})
	if _, err := d.Create(seven, "web", document(), CreateOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	for name, verb := range map[string]func(context.Context, string) error{
		"start":     func(c context.Context, id string) error { _, err := d.Start(c, id); return err },
		"shutdown":  func(c context.Context, id string) error { return d.Shutdown(c, id, hcs.ShutdownOptions{}) },
		"terminate": d.Terminate,
		"crash":     func(c context.Context, id string) error { return d.Crash(c, id, hcs.CrashOptions{}) },
		"pause":     func(c context.Context, id string) error { return d.Pause(c, id, hcs.PauseOptions{}) },
		"resume":    d.Resume,
		"save":      func(c context.Context, id string) error { return d.Save(c, id, hcs.SaveOptions{}) },
		"modify": func(c context.Context, id string) error {
			return d.Modify(c, id, hcs.ModifySettingRequest{ResourcePath: hcs.ResourcePids, Settings: []byte("5")})
		},
		"delete": d.Delete,
		"properties": func(c context.Context, id string) error {
			_, err := d.Properties(c, id, hcs.PropertyQuery{})
			return err
		},
		"document": func(c context.Context, id string) error { _, err := d.Document(c, id); return err },
		"wait":     func(c context.Context, id string) error { _, err := d.Wait(c, id); return err },
		"lease":    func(c context.Context, id string) error { _, err := d.OpenLease(c, id); return err },
		"export":   func(c context.Context, id string) error { _, err := d.Export(c, id); return err },
		"logs":     func(c context.Context, id string) error { _, err := d.Logs(c, id, hcs.LogOptions{}); return err },
		"exec": func(c context.Context, id string) error {
			_, err := d.CreateProcess(c, id, hcs.ProcessParameters{CommandArgs: []string{"x"}})
			return err
		},
		"processes":    func(c context.Context, id string) error { _, err := d.Processes(c, id); return err },
		"open process": func(c context.Context, id string) error { _, _, err := d.OpenProcess(c, id, "init"); return err },
		"signal":       func(c context.Context, id string) error { _, err := d.SignalProcess(c, id, "init", 15); return err },
		"end process":  func(c context.Context, id string) error { _, err := d.TerminateProcess(c, id, "init"); return err },
		"wait process": func(c context.Context, id string) error { _, err := d.WaitProcess(c, id, "init"); return err },
		"share network": func(c context.Context, id string) error {
			doc := document()
			doc.Container.Networking = &hcs.Networking{NetworkSharedContainerName: id}
			_, err := d.Create(c, "x", doc, CreateOptions{})
			return err
		},
	} {
		if err := verb(eight, "web"); hcs.CodeOf(err) != hcs.CodeSystemNotFound {
			t.Errorf("%s another's: %v, want SYSTEM_NOT_FOUND", name, err)
		}
	}
	for _, c := range []struct {
		who  context.Context
		want string
	}{{background(t), "roots web"}, {seven, "web"}, {eight, ""}} {
		ps, err := d.Enumerate(c.who, hcs.SystemQuery{}, true)
		var ids []string
		for _, p := range ps {
			ids = append(ids, p.Id)
			if d.Owns(eight, p.RuntimeId) {
				t.Errorf("%s is said to be user 8's", p.Id)
			}
		}
		if got := strings.Join(ids, " "); err != nil || got != c.want {
			t.Errorf("list: %q %v, want %q", got, err, c.want)
		}
	}
	if _, err := d.Commit(seven, "web", hcs.CommitOptions{}); hcs.CodeOf(err) != hcs.CodeAccessDenied {
		t.Errorf("commit by a user: %v", err)
	}
	if _, err := d.SetPolicy(seven, nil); hcs.CodeOf(err) != hcs.CodeAccessDenied {
		t.Errorf("set policy by a user: %v", err)
	}
	// A policy counts for creates: what is there stays its owner's to use and end.
	if _, err := d.SetPolicy(background(t), &hcs.Policy{Profile: hcs.ProfileClient, Rules: []hcs.PolicyRule{{Match: hcs.PolicyMatch{Uid: uid(7)}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateProcess(seven, "web", hcs.ProcessParameters{CommandArgs: []string{"x"}}); err != nil {
		t.Errorf("exec in one's own under a new policy: %v", err)
	}
	if _, bad := d.Refusals(); len(bad) != 2 || !strings.HasPrefix(bad[0], "roots (isolation Process is not allowed by profile Client") {
		t.Errorf("would be refused now: %q", bad)
	}
	if err := d.Delete(seven, "web"); err != nil {
		t.Errorf("delete one's own: %v", err)
	}
}

// A policy that was set outlives the daemon, and counts over the configured one
// until it is taken back; one that cannot be read lets nobody in.
func TestPolicyIsKept(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	_, err := d.SetPolicy(background(t), &hcs.Policy{Profile: hcs.ProfileClient})
	if err != nil {
		t.Fatal(err)
	}
	process := document()
	process.Container.Isolation = hcs.IsolationProcess
	if _, err := d.Create(background(t), "web", process, CreateOptions{}); hcs.CodeOf(err) != hcs.CodeAccessDenied {
		t.Errorf("process under Client: %v", err)
	}
	if _, err := d.Create(background(t), "web", document(), CreateOptions{}); hcs.CodeOf(err) != hcs.CodeHypervNotInstalled {
		t.Errorf("hypervisor without an engine: %v; it must never be a weaker one", err)
	}
	h.clean()
	d.down()
	d = h.daemon()
	if p, _ := d.Policy(background(t)); p.Profile != hcs.ProfileClient {
		t.Errorf("after a restart: %s", p.Profile)
	}
	if _, err := d.SetPolicy(background(t), &hcs.Policy{Profile: "Home"}); hcs.CodeOf(err) != hcs.CodeInvalidArg {
		t.Errorf("a wrong policy: %v", err)
	}
	if p, err := d.SetPolicy(background(t), nil); err != nil || p.Profile != hcs.ProfileServer {
		t.Errorf("back to the configured one: %s, %v", p.Profile, err)
	}
	if _, err := d.db.Update(func(tx *store.Tx) error { return policies().Put(tx, policyKey, hcs.Policy{Profile: "Home"}) }); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Instance: h.inst, Store: d.db, Images: h, Networks: h, Workers: h, Facts: model.Facts{Cgroup: model.CgroupHybrid}}); err == nil {
		t.Error("began with a policy that it does not understand")
	}
}

// Limits hold for modify, rights for further processes.
func TestRuleLater(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	if _, err := d.SetPolicy(background(t), &hcs.Policy{Rules: []hcs.PolicyRule{{Match: hcs.PolicyMatch{Uid: uid(7)}, MaxMemoryInMB: 64}}}); err != nil {
		t.Fatal(err)
	}
	seven := resource.WithCaller(background(t), resource.Caller{UID: 7})
	if _, err := d.Create(seven, "web", document(), CreateOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	memory := func(n string) error {
		return d.Modify(seven, "web", hcs.ModifySettingRequest{ResourcePath: hcs.ResourceMemory, Settings: []byte(n)})
	}
	if err := memory("65"); hcs.CodeOf(err) != hcs.CodeNoMemory {
		t.Errorf("more memory than the rule allows: %v", err)
	}
	if err := memory("63"); err != nil {
		t.Errorf("less memory: %v", err)
	}
	all, err := hcs.Capabilities([]string{"ALL"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := hcs.ProcessParameters{CommandArgs: []string{"x"}, Oci: &specs.Process{Capabilities: all}}
	if _, err := d.CreateProcess(seven, "web", p); hcs.CodeOf(err) != hcs.CodeAccessDenied {
		t.Errorf("every capability by exec: %v", err)
	}
	if _, err := d.CreateProcess(background(t), "web", p); err != nil {
		t.Errorf("root's exec: %v", err)
	}
}
