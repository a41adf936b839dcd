// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

func (d *daemon) state(id string) hcs.State {
	d.host.t.Helper()
	p, err := d.Properties(d.host.t.Context(), id, hcs.PropertyQuery{})
	if err != nil {
		d.host.t.Fatal(err)
	}
	return p.State
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestCommitThaws: a system stands still while its files are read, and runs on
// whatever becomes of that: success, failure, or the daemon's end.
func TestCommitThaws(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	ctx := t.Context()
	doc := document()
	doc.Container.InitProcess.CommandArgs = []string{"own", "words"}
	d.create("web", doc, true)
	out, err := d.Commit(ctx, "web", hcs.CommitOptions{Name: "mine:1"})
	if err != nil || !strings.HasSuffix(out.Image, "mine:1 [own words]") {
		t.Errorf("%+v, %v", out, err)
	}
	if s := d.state("web"); s != hcs.StateRunning {
		t.Errorf("after a commit: %s", s)
	}
	h.set("commit", errors.New("no space"))
	if _, err := d.Commit(ctx, "web", hcs.CommitOptions{}); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("failed commit: %v", err)
	}
	eventually(t, "frozen after a commit that failed", func() bool { return d.state("web") == hcs.StateRunning })
	h.set("commit", nil)

	release := h.hold("commit")
	ended := make(chan error, 1)
	go func() {
		_, err := d.Commit(ctx, "web", hcs.CommitOptions{})
		ended <- err
	}()
	eventually(t, "never frozen", func() bool { return d.state("web") == hcs.StatePaused })
	d.Close()
	release()
	<-ended
	d.db.Close()
	d = h.daemon()
	defer d.down()
	eventually(t, "frozen after the daemon died", func() bool { return d.state("web") == hcs.StateRunning })
	eventually(t, "to be thawed for ever", func() bool { return !d.look("web").row.Load().Committing })

	if err := d.Pause(ctx, "web", hcs.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(ctx, "web", hcs.CommitOptions{}); err != nil {
		t.Error(err)
	}
	if s := d.state("web"); s != hcs.StatePaused {
		t.Errorf("a commit thawed what somebody else froze: %s", s)
	}
}

// TestFilesOf: whose files can be had.
func TestFilesOf(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	defer d.down()
	ctx := t.Context()
	_, err := d.Export(ctx, "none")
	wantCode(t, "export of nothing", err, hcs.CodeSystemNotFound)
	_, err = d.Commit(ctx, "none", hcs.CommitOptions{})
	wantCode(t, "commit of nothing", err, hcs.CodeSystemNotFound)
	d.create("web", document(), true)
	write, err := d.Export(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := write(ctx, io.Discard); err != nil {
		t.Error(err)
	}
	if err := d.Terminate(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Export(ctx, "web")
	wantCode(t, "export of what is not kept", err, hcs.CodeSystemAlreadyStopped)
	_, err = d.Commit(ctx, "web", hcs.CommitOptions{})
	wantCode(t, "commit of what is not kept", err, hcs.CodeSystemAlreadyStopped)
}
