// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBesideDocker: dockerd of Debian's package on the same host, with its FORWARD
// policy of DROP. Each side's containers work, and not a rule of ours is added.
func TestBesideDocker(t *testing.T) {
	h := newHost(t)
	rules := func() string {
		return h.mustAt(h.ns, "iptables-save") + h.mustAt(h.ns, "nft", "list", "ruleset")
	}
	// dockerd sets the policy when it is the one that switches forwarding on.
	h.mustAt(h.ns, "sysctl", "-qw", "net.ipv4.ip_forward=0")
	clean := rules()
	h.start()
	h.gh("run", "-d", "--name", "first", "-p", "8080:80", image)
	if now := rules(); now != clean {
		t.Errorf("gatehouse changed iptables or nftables:\n%s", now)
	}

	dir := tempRoot(t)
	sock := filepath.Join(dir, "docker.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	dockerd := exec.Command("nsenter", "--net=/run/netns/"+h.ns, "dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "--host", "unix://"+sock)
	dockerd.Stdout, dockerd.Stderr = log, log
	dockerd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := dockerd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dockerd.Process.Signal(syscall.SIGTERM)
		_ = dockerd.Wait()
		log.Close()
	})
	docker := func(args ...string) (string, error) {
		out, err := exec.Command("docker", append([]string{"--host", "unix://" + sock}, args...)...).CombinedOutput()
		return string(out), err
	}
	eventually(t, 60*time.Second, "dockerd answers", func() bool { _, err := docker("version"); return err == nil })
	if out := h.mustAt(h.ns, "iptables", "-S", "FORWARD"); !strings.Contains(out, "-P FORWARD DROP") {
		t.Fatalf("dockerd did not set FORWARD DROP:\n%s", out)
	}
	tar := filepath.Join(dir, "hello.tar")
	h.gh("image", "save", "--format", "docker", "--output", tar, image)
	mustDocker := func(args ...string) string {
		t.Helper()
		out, err := docker(args...)
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	mustDocker("load", "--input", tar)
	mustDocker("run", "-d", "--name", "theirs", "-p", "8181:80", image)
	t.Cleanup(func() { _, _ = docker("rm", "-f", "theirs") })

	before := rules()
	h.gh("run", "-d", "--name", "second", image)
	h.background(h.out, h.hello, "serve")
	eventually(t, 5*time.Second, "outside serves", func() bool {
		_, err := h.at(h.out, h.hello, "get", "http://127.0.0.1/")
		return err == nil
	})
	h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/")         // ours from outside
	h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8181/")         // theirs from outside
	h.gh("exec", "second", "/hello", "get", "http://first/")           // ours to ours
	h.gh("exec", "second", "/hello", "get", "http://"+outV4+"/")       // ours to outside
	h.gh("exec", "second", "/hello", "get", "http://"+hostV4+":8181/") // ours to theirs, published
	mustDocker("exec", "theirs", "/hello", "get", "http://"+hostV4+":8080/")
	mustDocker("exec", "theirs", "/hello", "get", "http://"+outV4+"/")
	if now := rules(); stripCounters(now) != stripCounters(before) {
		t.Errorf("gatehouse changed rules beside Docker:\n%s\n---\n%s", before, now)
	}
}

// stripCounters drops what changes by itself: packet counters and timestamps.
func stripCounters(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ":") {
			continue
		}
		f := strings.Fields(line)
		for i := 0; i < len(f); i++ {
			if f[i] == "packets" || f[i] == "bytes" {
				i++
				continue
			}
			b.WriteString(f[i] + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
