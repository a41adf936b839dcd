// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

func TestProcessesOfASystem(t *testing.T) {
	ctx := background(t)
	d := newHost(t).daemon()
	d.create("web", document(), true)
	w := d.host.worker(d, "web")
	a, _ := d.CreateProcess(ctx, "web", hcs.ProcessParameters{CommandLine: "sh -c 'sleep 1'"})
	b, _ := d.CreateProcess(ctx, "web", hcs.ProcessParameters{CommandLine: "sh"})
	if ok, err := d.SignalProcess(ctx, "web", a.Key, 15); !ok || err != nil {
		t.Errorf("signal: %v %v", ok, err)
	}
	if st, err := d.WaitProcess(ctx, "web", fmt.Sprint(a.ProcessId)); err != nil || st.ExitCode != 143 {
		t.Errorf("wait by pid: %+v %v", st, err)
	}
	if ok, err := d.SignalProcess(ctx, "web", a.Key, 15); ok || err != nil {
		t.Errorf("signal to a gone process: %v %v", ok, err)
	}
	if err := d.ModifyProcess(ctx, "web", a.Key, hcs.ProcessModifyRequest{Operation: hcs.ModifyCloseHandle, CloseHandle: &hcs.CloseHandle{Handle: "StdIn"}}); err != nil {
		t.Errorf("close stdin of a gone process: %v", err)
	}
	_, err := d.SignalProcess(ctx, "web", "p9", 15)
	wantCode(t, "unknown process", err, hcs.CodeProcessInfoNotAvailable)
	d.host.set("exec", &held.StartError{ExitCode: 126, Message: "permission denied"})
	_, err = d.CreateProcess(ctx, "web", hcs.ProcessParameters{CommandArgs: []string{"/"}})
	var e *hcs.Error
	if !errors.As(err, &e) || e.ExitCode != 126 {
		t.Errorf("exec that cannot start: %v", err)
	}
	_, err = d.CreateProcess(ctx, "web", hcs.ProcessParameters{})
	wantCode(t, "no command", err, hcs.CodeInvalidArg)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if st, err := d.WaitProcess(ctx, "web", b.Key); err != nil || !st.Exited {
				t.Errorf("one of many waiters: %+v %v", st, err)
			}
			if _, err := d.Wait(ctx, "web"); err != nil {
				t.Errorf("one of many waiters: %v", err)
			}
		})
	}
	w.exit(0) // p2 was never seen to end
	wg.Wait()
	d.host.clean()
}

func TestManyAtOnce(t *testing.T) {
	d := newHost(t).daemon()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			id := fmt.Sprintf("s%d", i)
			if _, err := d.Create(context.Background(), id, document(), CreateOptions{Start: true}); err != nil {
				t.Errorf("create %s: %v", id, err)
				return
			}
			if i%2 == 0 {
				if _, err := d.CreateProcess(context.Background(), id, hcs.ProcessParameters{CommandArgs: []string{"x"}}); err != nil {
					t.Errorf("exec in %s: %v", id, err)
				}
			}
			if err := d.Delete(context.Background(), id); err != nil {
				t.Errorf("delete %s: %v", id, err)
			}
		})
	}
	wg.Wait()
	d.host.clean()
	order := map[string][]string{}
	es, _, _ := d.db.Events(0)
	for _, e := range es {
		order[e.ID] = append(order[e.ID], e.Name)
	}
	for id, names := range order {
		if names[0] != "SystemCreated" || names[1] != "SystemStarted" || names[2] != "ProcessCreated" || names[len(names)-2] != "SystemExited" || names[len(names)-1] != "SystemForgotten" {
			t.Errorf("%s: %v", id, names)
		}
	}
}

func TestProperties(t *testing.T) {
	ctx := background(t)
	d := newHost(t).daemon()
	d.create("web", document(), true)
	p, err := d.Properties(ctx, "web", hcs.PropertyQuery{PropertyTypes: []hcs.PropertyType{hcs.PropertyStatistics, hcs.PropertyProcessList, hcs.PropertyNetwork, hcs.PropertyMemory}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Statistics == nil || len(p.ProcessList) != 1 || p.NetNsPath == "" || p.HostProcessId == 0 {
		t.Errorf("properties: %+v", p)
	}
	if r := p.PropertyResponses[hcs.PropertyMemory]; r.Error == nil || uint32(r.Error.Error) != uint32(hcs.CodeNotSupported) {
		t.Errorf("a part that fails: %+v", p.PropertyResponses)
	}
	if l, _ := d.Enumerate(ctx, hcs.SystemQuery{Owners: []string{"nobody"}}, true); len(l) != 0 {
		t.Errorf("by owner: %+v", l)
	}
}

func TestRefusedDocuments(t *testing.T) {
	d := newHost(t).daemon()
	for name, c := range map[string]struct {
		edit  func(*hcs.ComputeSystem)
		field string
		code  hcs.Code
	}{
		"host path": {func(d *hcs.ComputeSystem) {
			d.Container.MappedDirectories = []hcs.MappedDirectory{{HostPath: "/no/such", ContainerPath: "/x"}}
		}, "Container.MappedDirectories[0].HostPath", hcs.CodeNotFound},
		"user": {func(d *hcs.ComputeSystem) { d.Container.InitProcess.User = "nobody-here" }, "Container.InitProcess.User", hcs.CodeInvalidArg},
		"shared": {func(d *hcs.ComputeSystem) {
			d.Container.Networking = &hcs.Networking{NetworkSharedContainerName: "none"}
		}, "Container.Networking.NetworkSharedContainerName", hcs.CodeSystemNotFound},
		"device": {func(d *hcs.ComputeSystem) {
			d.Container.AssignedDevices = []hcs.Device{{LocationPath: "/dev/../etc/passwd"}}
		}, "Container.AssignedDevices[0].LocationPath", hcs.CodeNotSupported},
	} {
		doc := document()
		c.edit(&doc)
		_, err := d.Create(t.Context(), "web", doc, CreateOptions{Start: true})
		wantCode(t, name, err, c.code)
		var e *hcs.Error
		if !errors.As(err, &e) || e.Field != c.field {
			t.Errorf("%s: field of %v", name, err)
		}
	}
	d.host.clean()
	if d.rows() != 0 {
		t.Errorf("%d rows", d.rows())
	}
}
