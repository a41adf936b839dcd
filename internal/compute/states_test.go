// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

// Every cell of the table of states and verbs, through the service: what may begin
// succeeds and leads to its state, what may not leaves everything as it was.
func TestStates(t *testing.T) {
	const (
		ok = hcs.Code(0)
		is = hcs.CodeInvalidState
		as = hcs.CodeSystemAlreadyStopped
		sn = hcs.CodeServiceNotAvailable
		nf = hcs.CodeSystemNotFound
		ns = hcs.CodeNotSupported // save: of virtual machines only
	)
	verbs := []struct {
		name string
		do   func(*daemon, context.Context) error
	}{
		{"start", func(d *daemon, c context.Context) error { _, err := d.Start(c, "web"); return err }},
		{"pause", func(d *daemon, c context.Context) error { return d.Pause(c, "web", hcs.PauseOptions{}) }},
		{"resume", func(d *daemon, c context.Context) error { return d.Resume(c, "web") }},
		{"save", func(d *daemon, c context.Context) error { return d.Save(c, "web", hcs.SaveOptions{}) }},
		{"shutdown", func(d *daemon, c context.Context) error { return d.Shutdown(c, "web", hcs.ShutdownOptions{}) }},
		{"terminate", func(d *daemon, c context.Context) error { return d.Terminate(c, "web") }},
		{"modify", func(d *daemon, c context.Context) error {
			return d.Modify(c, "web", hcs.ModifySettingRequest{ResourcePath: hcs.ResourceMemory, RequestType: hcs.RequestUpdate, Settings: []byte("64")})
		}},
		{"create process", func(d *daemon, c context.Context) error {
			_, err := d.CreateProcess(c, "web", hcs.ProcessParameters{CommandArgs: []string{"x"}})
			return err
		}},
		{"get properties", func(d *daemon, c context.Context) error {
			_, err := d.Properties(c, "web", hcs.PropertyQuery{})
			return err
		}},
	}
	type cell struct {
		code hcs.Code
		next hcs.State // "" = as before
	}
	to := func(s hcs.State) cell { return cell{ok, s} }
	no := func(c hcs.Code) cell { return cell{code: c} }
	keep := cell{}
	for state, row := range map[hcs.State][9]cell{
		"":               {no(nf), no(nf), no(nf), no(nf), no(nf), no(nf), no(nf), no(nf), no(nf)},
		hcs.StateCreated: {to(hcs.StateRunning), no(is), no(is), no(is), no(is), to(hcs.StateStopped), keep, no(is), keep},
		hcs.StateRunning: {no(is), to(hcs.StatePaused), no(is), no(is), keep, to(hcs.StateStopped), keep, keep, keep},
		hcs.StatePaused:  {no(is), no(is), to(hcs.StateRunning), no(ns), no(is), to(hcs.StateStopped), keep, no(is), keep},
		hcs.StateStopped: {no(as), no(as), no(as), no(as), no(as), keep, no(as), no(as), keep},
		hcs.StateUnknown: {no(sn), no(sn), no(sn), no(sn), no(sn), to(hcs.StateStopped), no(sn), no(sn), keep},
	} {
		for i, v := range verbs {
			t.Run(string(state)+"/"+v.name, func(t *testing.T) {
				d := newHost(t).daemon()
				if state != "" {
					d.create("web", annotated(hcs.AnnotationKeep), state != hcs.StateCreated)
				}
				switch state {
				case hcs.StatePaused:
					if err := d.Pause(background(t), "web", hcs.PauseOptions{}); err != nil {
						t.Fatal(err)
					}
				case hcs.StateStopped:
					if err := d.Terminate(background(t), "web"); err != nil {
						t.Fatal(err)
					}
				case hcs.StateUnknown:
					d.unreachable(d.look("web"))
				}
				want := row[i]
				if want.next == "" {
					want.next = state
				}
				if err := v.do(d, background(t)); hcs.CodeOf(err) != want.code {
					t.Errorf("got %v, want %s", err, want.code.Name())
				}
				if state == "" {
					return
				}
				p, err := d.Properties(background(t), "web", hcs.PropertyQuery{})
				if err != nil || p.State != want.next {
					t.Errorf("then %s (%v), want %s", p.State, err, want.next)
				}
			})
		}
	}
}
