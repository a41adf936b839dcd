// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

// isolations are those that the one suite runs over.
var isolations = []string{"process", "library-os"}

// differences are where an isolation is known to answer otherwise than process
// isolation, with the reason. Everything else must be the same.
var differences = map[string]map[string]string{
	"library-os": {
		"pids limit": "its processes are none of the host's: Container.PidsLimit is refused",
		"shared net": "its network stack shares a namespace with nobody: NetworkSharedContainerName is refused",
		"host net":   "it has no part in the host's network: refused",
	},
}

// need says whether the host can run an isolation, and ends the test if not.
func need(t *testing.T, isolation string) {
	t.Helper()
	if isolation == "library-os" {
		if _, err := exec.LookPath("runsc"); err != nil {
			t.Skip("no runsc; install it with: apt install runsc")
		}
	}
}

// silo is a host with one isolation to try.
type silo struct {
	*host
	isolation string
}

func (s *silo) args(args ...string) []string {
	return append([]string{"run", "--isolation", s.isolation}, args...)
}

// same says whether a behaviour is that of process isolation.
func (s *silo) same(behaviour string) bool { return differences[s.isolation][behaviour] == "" }

// word is what a document calls the isolation.
func (s *silo) word() string {
	return map[string]string{"process": "Process", "library-os": "LibraryOS"}[s.isolation]
}

// once runs a container to its end.
func (s *silo) once(code int, args ...string) string {
	s.t.Helper()
	out, errs, got := s.try(s.args(append([]string{"--rm"}, args...)...)...)
	if got != code {
		s.t.Errorf("run %v: exit %d, want %d\n%s%s", args, got, code, out, errs)
	}
	return out
}

// refusedFor runs one that must be refused, naming the field.
func (s *silo) refusedFor(field string, args ...string) {
	s.t.Helper()
	s.refused(125, field, s.args(append([]string{"--rm"}, args...)...)...)
}

// TestIsolations: the same behaviour in every isolation.
func TestIsolations(t *testing.T) {
	for _, isolation := range isolations {
		t.Run(isolation, func(t *testing.T) {
			need(t, isolation)
			t.Parallel()
			s := &silo{newHost(t), isolation}
			s.start()
			for name, f := range map[string]func(*silo){"run": (*silo).tryRun, "exec": (*silo).tryExec, "files": (*silo).tryFiles,
				"limits": (*silo).tryLimits, "life": (*silo).tryLife, "network": (*silo).tryNetwork, "daemon": (*silo).tryDaemon} {
				t.Run(name, func(t *testing.T) {
					h := *s.host
					h.t = t
					f(&silo{&h, isolation})
					s.daemon = h.daemon
				})
			}
		})
	}
}

func (s *silo) tryRun() {
	s.once(0, image, "exit", "0")
	s.once(7, image, "exit", "7")
	s.once(127, "--entrypoint", "/nothing", image)
	s.once(126, "--entrypoint", "/etc", image)
	if out := s.once(0, "-e", "A=1", "--hostname", "box", image, "env"); !strings.Contains(out, "A=1\n") || !strings.Contains(out, "HOSTNAME=box") {
		s.t.Errorf("environment: %s", out)
	}
	if out := s.once(0, "--hostname", "box", image, "hostname"); strings.TrimSpace(out) != "box" {
		s.t.Errorf("host name: %q", out)
	}
	if out := s.once(0, "-u", "65534:65534", image, "id"); !strings.Contains(out, "uid=65534 gid=65534") {
		s.t.Errorf("user: %s", out)
	}
	// Docker's fourteen capabilities, or fewer.
	if out := s.once(0, "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", image, "id"); !strings.Contains(out, "CapBnd=0000000000000400") {
		s.t.Errorf("capabilities: %s", out)
	}
	in := strings.Repeat("0123456789abcdef\n", 64<<10) // 1 MiB and some
	if out, errs, code := s.tryStdin(in, s.args("--rm", "-i", image, "cat")...); code != 0 || out != in {
		s.t.Errorf("stdin to stdout: exit %d, %d of %d bytes\n%.200s", code, len(out), len(in), errs)
	}
	out, errs, code := s.try(s.args("--rm", image, "echo", "-2", "to", "stderr")...)
	if code != 0 || out != "" || !strings.Contains(errs, "to stderr") {
		s.t.Errorf("stderr: exit %d, %q, %q", code, out, errs)
	}
	tty := s.must("script", "-qec", fmt.Sprintf("stty rows 33 cols 77; %s --root %s %s", s.bin, s.root, strings.Join(s.args("--rm", "-it", image, "tty"), " ")), "/dev/null")
	if !strings.Contains(tty, "33") || !strings.Contains(tty, "77") {
		s.t.Errorf("terminal: %q, want 33 by 77", tty)
	}
	if out := s.gh("inspect", s.kept("shown", image, "exit", "0")); !strings.Contains(out, `"Isolation": "`+s.word()+`"`) {
		s.t.Errorf("inspect does not say its isolation: %s", out)
	}
	if s.same("host net") {
		s.once(0, "--network", "host", image, "exit", "0")
	} else {
		s.refusedFor("Container.Networking.NetNsPath", "--network", "host", image)
	}
	if out := s.once(0, "--network", "none", image, "addr"); !strings.Contains(out, "127.0.0.1") {
		s.t.Errorf("without a network: %s", out)
	}
}

// kept makes a container that stays after its end, until the test's.
func (s *silo) kept(name string, args ...string) string {
	s.t.Helper()
	s.gh(s.args(append([]string{"-d", "--name", name}, args...)...)...)
	s.t.Cleanup(func() { _, _, _ = s.try("rm", "-f", name) })
	return name
}

func (s *silo) tryExec() {
	s.kept("c", "-e", "A=1", image, "sleep", "1000")
	for code, args := range map[int][]string{3: {"exec", "c", "/hello", "exit", "3"}, 127: {"exec", "c", "/nothing"}, 0: {"exec", "-u", "nobody", "c", "/hello", "id"}} {
		if out, errs, got := s.try(args...); got != code && code != 0 {
			s.t.Errorf("%v: exit %d, want %d\n%s%s", args, got, code, out, errs)
		}
	}
	if out := s.gh("exec", "-e", "B=2", "-u", "1000:1000", "c", "/hello", "env"); !strings.Contains(out, "A=1\n") || !strings.Contains(out, "B=2\n") {
		s.t.Errorf("environment of exec: %s", out)
	}
	if out := s.gh("exec", "-u", "1000:1000", "c", "/hello", "id"); !strings.Contains(out, "uid=1000 gid=1000") {
		s.t.Errorf("user of exec: %s", out)
	}
	in := strings.Repeat("0123456789abcdef\n", 16<<10)
	if out, errs, code := s.tryStdin(in, "exec", "-i", "c", "/hello", "cat"); code != 0 || out != in {
		s.t.Errorf("exec cat: exit %d, %d of %d bytes\n%.200s", code, len(out), len(in), errs)
	}
	tty := s.must("script", "-qec", fmt.Sprintf("stty rows 21 cols 66; %s --root %s exec -it c /hello tty", s.bin, s.root), "/dev/null")
	if !strings.Contains(tty, "21") || !strings.Contains(tty, "66") {
		s.t.Errorf("terminal of exec: %q, want 21 by 66", tty)
	}
	// A signal reaches the process it is for, and no other.
	cmd := exec.Command(s.bin, "--root", s.root, "exec", "c", "/hello", "trap")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	key := ""
	eventually(s.t, 10*time.Second, "the process of exec is there", func() bool {
		list := s.gh("hcs", "processes", "c")
		for _, k := range strings.Split(list, `"Key": "p`)[1:] {
			key = "p" + k[:strings.IndexByte(k, '"')]
		}
		return key != ""
	})
	time.Sleep(200 * time.Millisecond) // until it listens
	s.must("curl", "-sf", "--unix-socket", filepath.Join(s.root, "run/gatehouse.sock"), "-d", `{"Signal":15}`, "http://g/hcs/v2/systems/c/processes/"+key+"/signal")
	if err := cmd.Wait(); err != nil {
		s.t.Errorf("SIGTERM to one process: %v, %s", err, out.String())
	}
	s.gh("exec", "c", "/hello", "exit", "0")
}

func (s *silo) tryFiles() {
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("from the host"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if out := s.once(0, "-v", dir+":/data:ro", image, "cat", "/data/f"); out != "from the host" {
		s.t.Errorf("mapped directory: %q", out)
	}
	if out := s.once(0, "-v", dir+"/f:/one", image, "cat", "/one"); out != "from the host" {
		s.t.Errorf("mapped file: %q", out)
	}
	s.once(1, "-v", dir+":/data:ro", image, "write", "/data/g", "x")
	s.once(0, "-v", dir+":/data", image, "write", "/data/g", "x")
	if b, err := os.ReadFile(filepath.Join(dir, "g")); err != nil || string(b) != "x\n" {
		s.t.Errorf("written into a mapped directory: %q %v", b, err)
	}
	s.once(1, "--read-only", image, "write", "/g", "x")
	s.once(0, image, "write", "/g", "x")
	s.once(1, image, "write", "/proc/sys/kernel/hostname", "x")
	s.refusedFor("does not exist", "-v", "/no/such:/x", image)
	for _, masked := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware"} {
		if out, _, code := s.try(s.args("--rm", image, "cat", masked)...); code == 0 && out != "" {
			s.t.Errorf("%s is readable: %d bytes", masked, len(out))
		}
	}
	// What it wrote is in its writable layer: export and commit see it.
	s.kept("w", image, "write", "/made", "inside")
	s.gh("wait", "w")
	if out := s.must("sh", "-c", s.bin+" --root "+s.root+" export w | tar -xO made"); out != "inside\n" {
		s.t.Errorf("exported: %q", out)
	}
}

func (s *silo) tryLimits() {
	s.kept("hog", "--memory", "96m", image, "memhog", "256")
	if out := strings.TrimSpace(s.gh("wait", "hog")); out != "137" {
		s.t.Errorf("out of memory: exit %s, want 137", out)
	}
	if out := s.gh("inspect", "hog"); !strings.Contains(out, `"Reason": "oom"`) {
		s.t.Errorf("no word of the out-of-memory kill: %s", out)
	}
	if out := s.must("curl", "-sf", "--unix-socket", filepath.Join(s.root, "run/gatehouse.sock"), "http://g/hcs/v2/events?since=0&follow=false&id=hog"); !strings.Contains(out, `"OutOfMemory"`) {
		s.t.Errorf("no event of it: %s", out)
	}
	if s.same("pids limit") {
		s.once(1, "--pids-limit", "16", image, "fork", "64")
	} else {
		s.refusedFor("Container.PidsLimit", "--pids-limit", "16", image)
	}
	s.kept("half", "--cpus", "0.5", image, "spin", "60")
	var used, up float64
	eventually(s.t, 20*time.Second, "three seconds of a busy container", func() bool {
		var p hcs.Properties
		if err := json.Unmarshal([]byte(s.gh("hcs", "get", "half", "--types", "Statistics")), &p); err != nil || p.Statistics == nil {
			return false
		}
		used, up = float64(p.Statistics.Processor.TotalRuntime100ns)/1e7, float64(p.Statistics.Uptime100ns)/1e7
		return up > 3
	})
	if used > 0.5*up+0.5 { // a start is not throttled yet
		s.t.Errorf("used %.1f s of %.1f s with half a processor", used, up)
	}
	s.gh("rm", "-f", "half")
	s.kept("lim", "--memory", "128m", "--cpus", "1", image, "memhog", "64")
	eventually(s.t, 10*time.Second, "memory is taken", func() bool { return strings.Contains(s.gh("logs", "lim"), "64 MB") })
	if out := s.gh("stats", "--no-stream", "lim"); !strings.Contains(out, "128MiB") {
		s.t.Errorf("stats: %s", out)
	}
	modify := func(doc string) (string, string, int) {
		return s.tryStdin(doc, "hcs", "modify", "lim", "-f", "-")
	}
	for _, doc := range []string{`{"ResourcePath":"Container/Memory/SizeInMB","RequestType":"Update","Settings":{"SizeInMB":160}}`,
		`{"ResourcePath":"Container/Memory/SizeInMB","RequestType":"Update","Settings":112}`,
		`{"ResourcePath":"Container/Processor","RequestType":"Update","Settings":{"Maximum":2500}}`} {
		if out, errs, code := modify(doc); code != 0 {
			s.t.Errorf("%s: %s%s", doc, out, errs)
		}
	}
	if out := s.gh("stats", "--no-stream", "lim"); !strings.Contains(out, "112MiB") {
		s.t.Errorf("stats after the limit was changed: %s", out)
	}
	if _, errs, code := modify(`{"ResourcePath":"Container/Memory/SizeInMB","RequestType":"Update","Settings":32}`); code == 0 {
		s.t.Errorf("a limit below what is in use: %s", errs)
	}
	if _, errs, code := modify(`{"ResourcePath":"Container/PidsLimit","RequestType":"Update","Settings":16}`); (code == 0) != s.same("pids limit") {
		s.t.Errorf("a limit of processes later: exit %d %s", code, errs)
	}

	// A system that is created and not started takes limits, too.
	cold := `{"Container":{"Image":"` + image + `","Isolation":"` + s.word() + `","InitProcess":{},"Memory":{"SizeInMB":128}}}`
	if out, errs, code := s.tryStdin(cold, "hcs", "create", "lim2", "-f", "-"); code != 0 {
		s.t.Fatalf("create: %s%s", out, errs)
	}
	defer s.gh("rm", "-f", "lim2")
	if out, errs, code := s.tryStdin(`{"ResourcePath":"Container/Memory/SizeInMB","RequestType":"Update","Settings":96}`, "hcs", "modify", "lim2", "-f", "-"); code != 0 {
		s.t.Errorf("modify before start: %s%s", out, errs)
	}
	s.gh("hcs", "start", "lim2")
	if out := s.gh("stats", "--no-stream", "lim2"); !strings.Contains(out, "96MiB") {
		s.t.Errorf("stats of what was limited before its start: %s", out)
	}
}

func (s *silo) tryLife() {
	s.kept("c", "--stop-timeout", "5", image)
	s.refused(125, "exists", s.args("-d", "--name", "c", image)...)
	v4, _ := s.addrs("c")
	s.kept("peer", image)
	get := func() bool {
		_, _, code := s.try("exec", "peer", "/hello", "get", "-t", "1", "http://"+net.JoinHostPort(v4, "80")+"/")
		return code == 0
	}
	eventually(s.t, 10*time.Second, "it serves", get)
	s.gh("pause", "c")
	if get() {
		s.t.Error("a paused container answers")
	}
	s.gh("resume", "c")
	eventually(s.t, 10*time.Second, "it serves again", get)
	t0 := time.Now()
	s.gh("stop", "c")
	if d := time.Since(t0); d > 4*time.Second {
		s.t.Errorf("stop took %v: the signal was not delivered", d)
	}
	if out := s.gh("ps", "-a"); !strings.Contains(out, "Exited (0)") {
		s.t.Errorf("after stop: %s", out)
	}
	if out := s.gh("logs", "c"); !strings.Contains(out, "http on") {
		s.t.Errorf("logs: %s", out)
	}
	s.kept("k", image, "sleep", "1000")
	s.gh("kill", "k")
	if out := strings.TrimSpace(s.gh("wait", "k")); out != "137" {
		s.t.Errorf("after kill: %s, want 137", out)
	}
	s.kept("t", image, "trap")
	time.Sleep(200 * time.Millisecond)
	s.gh("kill", "-s", "USR1", "t")
	s.gh("kill", "-s", "TERM", "t")
	if out := strings.TrimSpace(s.gh("wait", "t")); out != "0" {
		s.t.Errorf("trap: exit %s", out)
	}
	if out := s.gh("logs", "t"); !strings.Contains(out, "SIGUSR1") {
		s.t.Errorf("SIGUSR1 did not come: %q", out)
	}
}

func (s *silo) tryNetwork() {
	s.kept("web", "-p", "18080:80", "--network-alias", "www", image)
	s.gh("run", "-d", "--name", "silo", image) // a neighbour in process isolation
	s.t.Cleanup(func() { _, _, _ = s.try("rm", "-f", "silo") })
	v4, v6 := s.addrs("web")
	reaches := func(from, url string) bool {
		_, _, code := s.try("exec", from, "/hello", "get", "-t", "1", url)
		return code == 0
	}
	for _, url := range []string{"http://web/", "http://www/", "http://" + v4 + "/", "http://[" + v6 + "]/"} {
		eventually(s.t, 5*time.Second, "a silo reaches "+url, func() bool { return reaches("silo", url) })
	}
	for _, url := range []string{"http://silo/", "http://" + hostV4 + ":18080/", "http://[" + hostV6 + "]:18080/"} {
		if !reaches("web", url) {
			s.t.Errorf("does not reach %s", url)
		}
	}
	for _, a := range []string{hostV4, "[" + hostV6 + "]"} { // published, from outside
		if out, err := s.at(s.out, s.hello, "get", "-t", "2", "http://"+a+":18080/"); err != nil {
			s.t.Errorf("published port at %s: %v %s", a, err, out)
		}
	}
	s.background(s.out, s.hello, "serve", "-http", ":8088", "-echo", ":8089")
	for _, a := range []string{outV4, "[" + outV6 + "]"} {
		eventually(s.t, 5*time.Second, "out by NAT to "+a, func() bool { return reaches("web", "http://"+a+":8088/") })
	}
	if out := s.gh("exec", "web", "/hello", "ping", "-c", "1", v4[:strings.LastIndexByte(v4, '.')]+".1"); !strings.Contains(out, "1") {
		s.t.Errorf("ping the gateway: %s", out)
	}

	s.gh("policy", "add", "-e", "web", "acl", "--direction", "in", "--protocol", "tcp", "--local-port", "80")
	if reaches("silo", "http://"+v4+"/") || reaches("silo", "http://["+v6+"]/") {
		s.t.Error("reached in spite of an ACL")
	}
	s.gh("policy", "rm", "-e", "web", "acl")
	s.gh("policy", "add", "-e", "web", "acl", "--direction", "out", "--protocol", "tcp", "--remote-port", "80")
	if reaches("web", "http://silo/") {
		s.t.Error("reaches out in spite of an ACL")
	}
	s.gh("policy", "rm", "-e", "web", "acl")
	if !reaches("web", "http://silo/") || !reaches("silo", "http://web/") {
		s.t.Error("not reached without the ACL")
	}

	s.gh("service", "create", "front", "-p", "81:80", "-b", "web", "-b", "silo")
	s.t.Cleanup(func() { _, _, _ = s.try("service", "rm", "front") })
	s.kept("client", image)
	seen := map[string]bool{}
	eventually(s.t, 10*time.Second, "a service over both isolations", func() bool {
		out, _, _ := s.try("exec", "client", "/hello", "get", "-t", "1", "http://front:81/")
		for _, b := range []string{"web", "silo"} {
			seen[b] = seen[b] || strings.Contains(out, "hello from "+b)
		}
		return seen["web"] && seen["silo"]
	})
	if s.same("shared net") {
		s.once(0, "--network", "container:web", image, "get", "http://127.0.0.1/")
	} else {
		s.refusedFor("Container.Networking.NetworkSharedContainerName", "--network", "container:silo", image)
		s.refused(125, "shares its network with nobody", "run", "--rm", "--network", "container:web", image)
	}
	if out := s.gh("stats", "--no-stream", "-o", "json", "web"); !strings.Contains(out, "BytesReceived") {
		s.t.Errorf("no counters of the network: %s", out)
	}
}

// tryDaemon: it runs on without the daemon, as do its streams and its network; what
// ended meanwhile is known.
func (s *silo) tryDaemon() {
	s.kept("web", image)
	s.kept("ends", image, "sleep", "1", "--exit", "5")
	s.gh("run", "-d", "--name", "silo", image)
	s.t.Cleanup(func() { _, _, _ = s.try("rm", "-f", "silo") })
	fg := make(chan string, 1)
	go func() {
		out, _, code := s.try(s.args("--rm", "--name", "fg", image, "sleep", "2", "--exit", "6", "--say", "bye")...)
		fg <- strings.TrimSpace(out) + " " + strconv.Itoa(code)
	}()
	eventually(s.t, 10*time.Second, "fg runs", func() bool { out, _, _ := s.try("ps", "-o", "name"); return strings.Contains(out, "fg") })
	s.kill9()
	if got := <-fg; got != "bye 6" {
		s.t.Errorf("foreground run while the daemon was dead: %q", got)
	}
	s.start()
	if out := s.gh("wait", "ends"); strings.TrimSpace(out) != "5" {
		s.t.Errorf("exit while the daemon was dead: %q, want 5", out)
	}
	for _, x := range [][2]string{{"web", "silo"}, {"silo", "web"}} {
		if out, errs, code := s.try("exec", x[0], "/hello", "get", "-t", "2", "http://"+x[1]+"/"); code != 0 {
			s.t.Errorf("%s asks %s after the restart: %s%s", x[0], x[1], out, errs)
		}
	}
}
