// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestIsolationPolicy asks the policy through every door there is: the API, the
// command line, and both as a user without rights.
func TestIsolationPolicy(t *testing.T) {
	h := newHost(t)
	conf := "[compute.policy]\n[[compute.policy.rules]]\nmatch = {uid = 61234}\nallow_host_paths = ['" + h.root + "/shared']\nmax_memory_in_mb = 64\n"
	for _, dir := range []string{"shared", "secret"} {
		if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(h.root, "config.toml"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.root, 0o711); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(h.root, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"Profile":"Client","DevProcessIsolation":true}`), 0o644); err != nil {
		t.Fatal(err)
	}
	h.start()
	user := func(uid string, args ...string) (string, int) {
		out, code := h.as(uid, append([]string{h.bin, "--root", h.root}, args...)...)
		return out, code
	}
	const alice, bob = "61234", "61235"
	if out, code := user(bob, "ps"); code == 0 || !strings.Contains(out, "user 61235 may not use this daemon") {
		t.Errorf("a user without a rule: exit %d %s", code, out)
	}
	h.gh("run", "-d", "--name", "roots", image)
	if out, code := user(alice, "run", "-d", "--name", "hers", "-p", "18080:80", "-v", h.root+"/shared:/data", image); code != 0 {
		t.Fatalf("run by a user with a rule: %s", out)
	}
	if out, code := user(alice, "ps", "-o", "name"); code != 0 || strings.TrimSpace(out) != "hers" {
		t.Errorf("ps of the user: %s", out)
	}
	if out, code := user(alice, "exec", "hers", "/hello", "exit", "3"); code != 3 {
		t.Errorf("exec: %d %s", code, out)
	}
	if out, code := user(alice, "run", "--rm", image, "exit", "4"); code != 4 {
		t.Errorf("run in the foreground: %d %s", code, out)
	}
	for _, x := range []struct {
		says string
		args []string
	}{
		{"not found", []string{"exec", "roots", "/hello", "id"}},
		{"not found", []string{"rm", "-f", "roots"}},
		{"not found", []string{"logs", "roots"}},
		{"not found", []string{"run", "--rm", "--network", "container:roots", image}},
		{"exists", []string{"run", "--rm", "--name", "roots", image}},
		{"AllowHostNamespaces", []string{"run", "--rm", "--network", "host", image}},
		{"not below a path", []string{"run", "--rm", "-v", h.root + "/secret:/x", image}},
		{"AllowPrivileged", []string{"run", "--rm", "--cap-add", "SYS_ADMIN", image}},
		{"at most 64", []string{"run", "--rm", "--memory", "65m", image}},
		{"administrators", []string{"network", "ls"}},
		{"administrators", []string{"image", "rm", image}},
		{"administrators", []string{"commit", "hers", "x"}},
		{"administrators", []string{"hcs", "policy", "-f", policy}},
		{"administrators", []string{"events"}},
	} {
		if out, code := user(alice, x.args...); code == 0 || !strings.Contains(out, x.says) {
			t.Errorf("%v by a user: exit %d, want a refusal saying %q\n%s", x.args, code, x.says, out)
		}
	}
	var events []struct{ ID string }
	out, _ := h.as(alice, "curl", "-s", "--unix-socket", filepath.Join(h.root, "run/gatehouse.sock"), "http://g/hcs/v2/events?since=0&follow=false")
	for line := range strings.Lines(out) {
		var e struct{ ID string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("events: %s", out)
		}
		events = append(events, e)
		if e.ID == "roots" {
			t.Errorf("a user sees an event of root's system: %s", line)
		}
	}
	if len(events) == 0 {
		t.Error("a user does not see the events of its own systems")
	}

	// The profile of clients, set while systems run.
	if out := h.gh("hcs", "policy", "-f", policy); !strings.Contains(out, `"DefaultIsolation": "Hypervisor"`) {
		t.Errorf("set policy: %s", out)
	}
	if out, code := user(alice, "ps"); code == 0 {
		t.Errorf("the user's rule is gone: %s", out)
	}
	h.gh("exec", "hers", "/hello", "id") // it runs on
	if out := h.gh("doctor"); !strings.Contains(out, "hers (no rule of this host's policy is about user 61234)") {
		t.Errorf("doctor does not list what would be refused now:\n%s", out)
	}
	h.refused(125, "Hypervisor", "run", "--rm", "--isolation", "library-os", image)
	if out, _, code := h.try("run", "--rm", image); code == 0 {
		t.Errorf("ran by default under a policy that wants a virtual machine: %s", out)
	}
	h.gh("run", "--name", "dev", "--isolation", "process", image, "exit", "0")
	if out := h.gh("inspect", "dev"); !strings.Contains(out, `"io.gatehouse.isolation.reason": "dev"`) {
		t.Errorf("inspect says no reason: %s", out)
	}
	h.stop()
	h.start()
	eventually(t, 5*time.Second, "the policy outlives the daemon", func() bool {
		return strings.Contains(h.gh("hcs", "policy"), `"Client"`)
	})
}

// as runs a command as another user without groups.
func (h *host) as(uid string, args ...string) (string, int) {
	h.t.Helper()
	cmd := exec.Command("setpriv", append([]string{"--reuid", uid, "--regid", uid, "--clear-groups"}, args...)...)
	out, err := cmd.CombinedOutput()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		h.t.Fatalf("%v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
