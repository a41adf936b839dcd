// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKillAnywhere kills the daemon at random moments while containers, networks
// and endpoints come and go. After each restart what was answered as done is there,
// and nothing is there that the inventory does not know. h.end looks for leaks.
func TestKillAnywhere(t *testing.T) {
	h := newHost(t)
	h.start()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	kept := map[string]bool{}
	for round := range 12 {
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			stop = make(chan struct{})
		)
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("k%d-%d-%d", round, w, i)
					switch w {
					case 0:
						if _, _, code := h.try("run", "-d", "--name", name, "-p", "80", image); code == 0 {
							mu.Lock()
							kept[name] = true
							mu.Unlock()
						}
					case 1:
						h.try("run", "--rm", "--name", name, image, "exit", "0")
					case 2:
						if _, _, code := h.try("network", "create", name, "--type", "nat"); code == 0 {
							h.try("network", "rm", name)
						}
					}
				}
			})
		}
		time.Sleep(time.Duration(20+rnd.IntN(400)) * time.Millisecond)
		h.kill9()
		close(stop)
		wg.Wait()
		h.start()
		have := " " + strings.Join(strings.Fields(h.gh("ps", "-o", "name")), " ") + " "
		for name := range kept {
			if !strings.Contains(have, " "+name+" ") {
				t.Errorf("round %d: %s was answered as running and is gone; have %s", round, name, have)
			}
		}
		eventually(t, 10*time.Second, "no orphans after the restart", func() bool {
			_, _, code := h.try("doctor", "--leaks")
			return code == 0
		})
		for name := range kept {
			if rnd.IntN(2) == 0 {
				h.gh("exec", name, "/hello", "get", "http://127.0.0.1/")
				h.gh("rm", "-f", name)
				delete(kept, name)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	h := newHost(t)
	h.start()
	_, err, code := h.try("serve")
	if code == 0 || !strings.Contains(err, "another") {
		t.Errorf("second daemon: exit %d, %q", code, err)
	}
}

// TestBadRuntime: one that fails, one that hangs, none at all.
func TestBadRuntime(t *testing.T) {
	h := newHost(t)
	rt := filepath.Join(h.root, "rt")
	script := func(body string) {
		if err := os.WriteFile(rt+".new", []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(rt+".new", rt); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(h.root, "config.toml"), []byte("[compute]\nruntime = \""+rt+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script("echo 'no such luck' >&2; exit 1")
	h.start()
	h.refused(125, "no such luck", "run", "--rm", image)
	if err := os.Remove(rt); err != nil {
		t.Fatal(err)
	}
	h.refused(125, rt, "run", "--rm", image)
	script("exec runc \"$@\"")
	h.gh("run", "--rm", image, "exit", "0")
	if out := h.gh("endpoint", "ls", "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("endpoints left after refused runs: %s", out)
	}
	// The last one, which ran, has given back name and addresses; its row and scratch go on their own time.
	eventually(t, 5*time.Second, "no container is left", func() bool { return strings.TrimSpace(h.gh("ps", "-a", "-o", "name")) == "" })
}

// TestFullDisk: the root on a small tmpfs that somebody fills.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	h.must("mount", "-t", "tmpfs", "-o", "size=64m", "ghe2e", h.root)
	t.Cleanup(func() { h.must("umount", h.root) })
	h.start()
	h.gh("run", "-d", "--name", "before", "-p", "8080:80", image)
	fill := filepath.Join(h.root, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(buf)
	}
	f.Close()
	_, msg, code := h.try("run", "-d", "--name", "during", image)
	if code == 0 {
		t.Log("a container still fitted into the full disk")
	} else if !strings.Contains(msg, "no space") {
		t.Errorf("full disk: %q; want the reason", msg)
	}
	if _, msg, code := h.try("exec", "before", "/hello", "id"); code != 0 && !strings.Contains(msg, "no space") {
		t.Errorf("exec on a full disk: %q; want it to work or the reason", msg)
	}
	h.gh("ps")
	h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/")
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	h.gh("exec", "before", "/hello", "id")
	h.gh("run", "--rm", image, "exit", "0")
	if code != 0 {
		if out := h.gh("ps", "-a", "-o", "name"); strings.Contains(out, "during") {
			t.Errorf("the refused container is listed: %s", out)
		}
	}
}

// TestBadInput: one clear line each, nothing changed.
func TestBadInput(t *testing.T) {
	h := newHost(t)
	h.start()
	before := h.gh("hcn", "list", "endpoints")
	for _, c := range []struct {
		code int
		text string
		args []string
	}{
		{125, "70000", []string{"run", "-p", "70000:80", image}},
		{125, "x:y", []string{"run", "-p", "x:y", image}},
		{125, "10.0.0.300", []string{"run", "--ip", "10.0.0.300", image}},
		{125, "NOSUCH", []string{"run", "--cap-add", "NOSUCH", image}},
		{125, "nobody-of-this-image", []string{"run", "-u", "nobody-of-this-image", image}},
		{125, "name", []string{"run", "--name", "no spaces please", image}},
		{125, "relative", []string{"run", "-v", "relative:/x", image}},
		{1, "type", []string{"network", "create", "x", "--type", "warp"}},
		{1, "", []string{"image", "load", "--input", "/etc/passwd"}},
		{1, "", []string{"image", "inspect", "no/such"}},
	} {
		h.refused(c.code, c.text, c.args...)
	}
	if after := h.gh("hcn", "list", "endpoints"); after != before {
		t.Errorf("refused commands changed something:\n%s\n%s", before, after)
	}
	if out := h.gh("ps", "-a", "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("refused commands left %s", out)
	}
}
