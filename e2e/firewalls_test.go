// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Scripts that run a firewall of the host in its network namespace, with files of
// its own: $1 is a directory, $2 how often it reloads. They say "on" once it is.
var firewalls = map[string]struct {
	needs  string
	script string
}{
	"ufw": {"ufw", `
		cp -a /etc/ufw "$1/ufw" && mount --bind "$1/ufw" /etc/ufw
		cp -a /etc/default/ufw "$1/default" && mount --bind "$1/default" /etc/default/ufw
		mkdir "$1/lock" && mount --bind "$1/lock" /run/lock
		ufw --force enable >&2
		ufw status verbose | grep -q 'deny (incoming)'
		echo on
		for i in $(seq "$2"); do ufw reload >&2; done
		ufw disable >&2`},
	"firewalld": {"firewalld", `
		cp -a /etc/firewalld "$1/firewalld" && mount --bind "$1/firewalld" /etc/firewalld
		export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$1/bus
		cat >"$1/bus.conf" <<-END
			<busconfig><type>system</type><listen>$DBUS_SYSTEM_BUS_ADDRESS</listen><auth>EXTERNAL</auth>
			<policy context="default"><allow user="root"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
		END
		dbus-daemon --config-file="$1/bus.conf" --nofork --nopidfile >&2 & bus=$!
		firewalld --nofork --nopid >&2 & firewalld=$!
		trap 'kill $firewalld $bus; wait' EXIT
		for i in $(seq 100); do firewall-cmd --state >&2 && break; sleep 0.2; done
		nft list chain inet firewalld filter_INPUT | grep -q reject
		echo on
		for i in $(seq "$2"); do firewall-cmd --reload >&2; done`},
}

// TestBesideFirewalls: a firewall of the host that lets nothing in, and reloads its
// rules again and again. No flow is lost, names are found, and connections begin as
// if it were not there: those of the switch never meet the host's rules. (The
// host's own processes do. GATEHOUSE_E2E_RELOADS says how often, 3 by default.)
func TestBesideFirewalls(t *testing.T) {
	reloads := 3
	if n, err := strconv.Atoi(os.Getenv("GATEHOUSE_E2E_RELOADS")); err == nil {
		reloads = n
	}
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("run", "-d", "--name", "a", image)
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", "-p", "5300:53/udp", "-p", "6300:63", image)
	a, web, out := h.netnsOf("a"), h.netnsOf("web"), "/run/netns/"+h.out
	bv4, _ := h.addrs("web")
	for name, f := range firewalls {
		t.Run(name, func(t *testing.T) {
			defer h.in(t)()
			if _, err := exec.LookPath(f.needs); err != nil {
				t.Skipf("%s is not installed", f.needs)
			}
			type stream struct {
				name           string
				send, received *running
			}
			var streams []stream
			for _, s := range []struct{ name, proto, from, to, addr, listen string }{
				{"outside by NAT", "udp", a, out, outV4 + ":5001", outV4 + ":5001"},
				{"published", "udp", out, web, hostV4 + ":5300", bv4 + ":53"},
				{"outside by NAT", "tcp", a, out, "[" + outV6 + "]:6001", "[" + outV6 + "]:6001"},
				{"published", "tcp", out, web, hostV4 + ":6300", bv4 + ":63"},
			} {
				r := h.peer(s.to, s.proto+"-receive "+s.listen)
				order := s.proto + "-send " + s.addr
				if s.proto == "udp" {
					order += " 2000"
				}
				streams = append(streams, stream{s.proto + " " + s.name, h.peer(s.from, order), r})
			}
			ended := h.firewall(f.script, reloads)
			rounds := 0
			for start := time.Now(); ; rounds++ {
				h.eachWay(a, bv4)
				select {
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				default:
					continue
				}
				t.Logf("%d reloads in %v, %d rounds of connections", reloads, time.Since(start).Round(time.Second), rounds+1)
				break
			}
			for _, s := range streams {
				sent := s.send.end()
				got := s.received.end()
				if lost := sent.Sent - got.Received - got.Overrun; lost != 0 || sent.Failed != 0 {
					t.Errorf("%s: %d of %d lost, %d refused", s.name, lost, sent.Sent, sent.Failed)
				}
				if sent.Sent+sent.Bytes == 0 || sent.Bytes != got.Bytes || len(got.From) != 1 {
					t.Errorf("%s: %+v sent, %+v received", s.name, sent, got)
				}
			}
		})
	}
}

// eachWay begins a connection in every way that there is.
func (h *host) eachWay(a, web string) {
	h.t.Helper()
	in := func(words ...string) (string, error) {
		return h.at(h.ns, append([]string{"nsenter", "--net=" + a}, words...)...)
	}
	for what, do := range map[string]func() (string, error){
		"outside by NAT":     func() (string, error) { return in(h.hello, "tcp", outV4+":7", "x") },
		"outside by NAT, v6": func() (string, error) { return in(h.hello, "tcp", "["+outV6+"]:7", "x") },
		"container":          func() (string, error) { return in(h.hello, "tcp", web+":7", "x") },
		"name":               func() (string, error) { return h.lookup("web") },
		"name, TCP":          func() (string, error) { return h.lookup("web", "-tcp") },
		"published":          func() (string, error) { return h.at(h.out, h.hello, "get", "-t", "2", "http://"+hostV4+":8080/") },
		"published v6":       func() (string, error) { return h.at(h.out, h.hello, "get", "-t", "2", "http://["+hostV6+"]:8080/") },
	} {
		if _, err := do(); err != nil {
			h.t.Errorf("%s: %v", what, err)
		}
	}
}

// lookup asks for a name in container a.
func (h *host) lookup(name string, more ...string) (string, error) {
	out, errs, code := h.try(append([]string{"exec", "a", "/hello", "lookup", name}, more...)...)
	if _, err := netip.ParseAddr(strings.TrimSpace(strings.Split(out, "\n")[0])); code != 0 || err != nil {
		return out, fmt.Errorf("lookup %s: exit %d, %q%s", name, code, out, errs)
	}
	return out, nil
}

// firewall runs a script of firewalls and waits until it says "on". What comes
// back tells its end.
func (h *host) firewall(script string, reloads int) <-chan error {
	h.t.Helper()
	cmd := exec.Command("nsenter", "--net=/run/netns/"+h.ns, "unshare", "--mount", "--propagation", "private",
		"bash", "-euc", script, "bash", h.t.TempDir(), strconv.Itoa(reloads))
	var said strings.Builder
	cmd.Stderr = &said
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "on\n" {
		_ = cmd.Wait()
		h.t.Fatalf("the firewall does not come up: %q, %v\n%s", line, err, &said)
	}
	ended := make(chan error, 1)
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("firewall: %w\n%s", err, &said)
		}
		ended <- err
	}()
	return ended
}
