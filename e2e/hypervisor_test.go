// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machines makes the image of utility VMs in the host's root.
func (h *host) machines() {
	h.t.Helper()
	for _, p := range []string{"qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4"} {
		if _, err := exec.LookPath(p); err != nil {
			h.t.Skipf("%s is not installed; run scripts/setup.sh dev", p)
		}
	}
	debs, _ := filepath.Glob("/var/cache/gatehouse/linux-image-*.deb")
	if len(debs) == 0 {
		h.t.Skip("no kernel package; run scripts/setup.sh dev")
	}
	h.gh("uvm", "build", "--deb", debs[len(debs)-1])
}

type inspected struct {
	Properties struct {
		HostProcessId int
		ExitType      string
		Reason        string
		ExitStatus    struct{ Status int32 }
	}
}

func (h *host) inspect(name string) inspected {
	h.t.Helper()
	var all []inspected
	if err := json.Unmarshal([]byte(h.gh("inspect", name)), &all); err != nil || len(all) != 1 {
		h.t.Fatalf("inspect %s: %v", name, err)
	}
	return all[0]
}

// TestHypervisor: a container in a machine of its own is used as any other, on the
// same switch under the same rules, and outlives the daemon; then QEMU is killed.
func TestHypervisor(t *testing.T) {
	h := newHost(t)
	h.machines()
	h.start()
	h.gh("run", "-d", "--name", "s", image)
	dir := t.TempDir()
	note := filepath.Join(dir, "note")
	if err := os.WriteFile(note, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.gh("run", "-d", "--name", "v", "-v", dir+":/d", "-v", note+":/r/note:ro", "-p", "8080:80", "--memory", "64m", "-e", "A=1", "--hostname", "box", "--isolation", "hypervisor", image)
	kernel := func(name string) string {
		return strings.TrimSpace(h.gh("exec", name, "/hello", "cat", "/proc/sys/kernel/osrelease"))
	}
	if v, s := kernel("v"), kernel("s"); v == s || !strings.Contains(v, "cloud") {
		t.Errorf("kernel of the machine %q, of the host %q", v, s)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"of the host", []string{"exec", "v", "/hello", "cat", "/r/note"}},
		{"", []string{"exec", "v", "/hello", "write", "/d/answer", "of the guest"}},
		{"A=1", []string{"exec", "v", "/hello", "env"}},
		{"box", []string{"exec", "v", "/hello", "hostname"}},
		{"Seccomp=2", []string{"exec", "v", "/hello", "id"}},
		{"uid=7 gid=8", []string{"exec", "-u", "7:8", "v", "/hello", "id"}},
		{"lo", []string{"exec", "v", "/hello", "addr"}},
		{"2 sent, 2 received", []string{"exec", "v", "/hello", "ping", "s", "-c", "2", "-i", "0.1"}},
		{"2 sent, 2 received", []string{"exec", "s", "/hello", "ping", "v", "-c", "2", "-i", "0.1", "-6"}},
		{"hello from s", []string{"exec", "v", "/hello", "get", "http://s/"}},
		{"hello from box", []string{"exec", "s", "/hello", "get", "http://v/"}},
	} {
		if out := h.gh(c.args...); !strings.Contains(out, c.want) {
			t.Errorf("%v: %q, want %q", c.args, out, c.want)
		}
	}
	if out := h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/"); !strings.Contains(out, "hello from box") {
		t.Errorf("published port: %s", out)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "answer")); string(b) != "of the guest\n" {
		t.Errorf("what the guest wrote to a directory of the host: %q", b)
	}
	if _, _, code := h.try("exec", "v", "/hello", "write", "/r/note", "x"); code == 0 {
		t.Error("a file that is mapped read-only was written")
	}
	text := strings.Repeat("0123456789abcdef", 1<<16)
	if out, _, code := h.tryStdin(text, "exec", "-i", "v", "/hello", "cat"); code != 0 || out != text {
		t.Errorf("1 MiB through cat: exit %d, %d bytes", code, len(out))
	}
	for want, args := range map[int][]string{7: {"exec", "v", "/hello", "exit", "7"}, 127: {"exec", "v", "/nothing"}} {
		if _, errs, code := h.try(args...); code != want {
			t.Errorf("%v: exit %d, want %d: %s", args, code, want, errs)
		}
	}
	h.policy("endpoints", "v", "Add", `ACL {"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"80"}`)
	if _, _, code := h.try("exec", "s", "/hello", "get", "-t", "1", "http://v/"); code == 0 {
		t.Error("a rule that blocks does not hold for the machine")
	}
	if out := h.gh("stats", "--no-stream", "v"); !strings.Contains(out, "64") {
		t.Errorf("stats without the limit: %s", out)
	}
	h.gh("pause", "v")
	if out := h.gh("ps"); !strings.Contains(out, "Paused") {
		t.Errorf("ps: %s", out)
	}
	h.gh("resume", "v")

	h.kill9()
	h.start()
	if out := h.gh("exec", "v", "/hello", "echo", "still", "here"); out != "still here\n" {
		t.Errorf("after the daemon was killed: %q", out)
	}
	if out := h.gh("logs", "v"); out != h.gh("logs", "s") {
		t.Errorf("logs: %q", out)
	}
	pid := h.inspect("v").Properties.HostProcessId
	if exe := h.must("readlink", fmt.Sprintf("/proc/%d/exe", pid)); !strings.Contains(exe, "qemu") {
		t.Fatalf("HostProcessId %d is %s", pid, exe)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := strings.TrimSpace(h.gh("wait", "v")); code != "137" {
		t.Errorf("exit code of a container whose machine was killed: %s", code)
	}
	if p := h.inspect("v").Properties; p.ExitType != "UnexpectedExit" || !strings.HasPrefix(p.Reason, "qemu: signal 9") {
		t.Errorf("%+v", p)
	}
}

// TestGuestPanic: a guest whose kernel panics is told as such, with the kernel's
// last words; one whose worker is killed leaves nothing.
func TestGuestPanic(t *testing.T) {
	h := newHost(t)
	h.machines()
	h.start()
	// The document says what run has no flag for: nothing in /proc is read-only.
	doc := func(args ...string) string {
		b, _ := json.Marshal(args)
		return `{"Annotations":{"io.gatehouse.keep":"true"},"Container":{"Isolation":"Hypervisor","Image":"` + image + `","Oci":{"linux":{"readonlyPaths":["/none"],"maskedPaths":["/none"]}},
			"InitProcess":{"CommandArgs":` + string(b) + `,"CreateStdOutPipe":true,"CreateStdErrPipe":true}}}`
	}
	create := func(name, doc string) {
		if out, errs, code := h.tryStdin(doc, "hcs", "create", name, "--start"); code != 0 {
			t.Fatalf("create %s: %s%s", name, out, errs)
		}
	}
	create("p", doc("write", "/proc/sysrq-trigger", "c"))
	h.gh("wait", "p")
	p := h.inspect("p").Properties
	if p.ExitType != "UnexpectedExit" || uint32(p.ExitStatus.Status) != 0x8037011c || !strings.Contains(p.Reason, "guest panic: not syncing: sysrq") {
		t.Errorf("%+v", p)
	}
	events := h.gh("events", "--since", "1h", "--until", "0s", "-o", "json")
	if !strings.Contains(events, "SystemCrashReport") || !strings.Contains(events, "Kernel panic") {
		t.Errorf("no crash report with the console's last words:\n%s", events)
	}

	create("w", doc("serve"))
	qemu := h.inspect("w").Properties.HostProcessId
	worker := parentOf(t, qemu)
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.gh("wait", "w")
	eventually(t, 5*time.Second, "QEMU ends with its worker", func() bool { return syscall.Kill(qemu, 0) == syscall.ESRCH })
	if p := h.inspect("w").Properties; p.ExitType != "UnexpectedExit" {
		t.Errorf("%+v", p)
	}
}

// parentOf is the process that started another.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	n, e := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || e != nil {
		t.Fatalf("parent of %d: %v %v", pid, err, e)
	}
	return n
}
