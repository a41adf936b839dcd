// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestICS: as NAT, and a DHCP client that knows nothing is told its endpoint's address
// by the gateway, also from another daemon.
//
//covers:type ICS
func TestICS(t *testing.T) {
	client, err := exec.LookPath("udhcpc")
	if err != nil {
		t.Skip("needs a DHCP client: udhcpc")
	}
	b := newDocBench(t)
	b.serve(b.path(b.out))
	network := func(body string) {
		t.Helper()
		var n struct{ ID string }
		b.must("POST", "/networks", body, &n)
		t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
		b.network = n.ID
	}
	network(`{"Name":"ics","Type":"ICS","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.79.0.0/24"},{"IpAddressPrefix":"fd79::/64"}]}]}`)
	pc := b.machine("pc")
	other := b.machine("other")
	in := func(words ...string) string {
		t.Helper()
		out, err := b.run(pc.netns, words...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	in("ip", "addr", "flush", "dev", "eth0") // and the routes with it
	script := filepath.Join(t.TempDir(), "told")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec env\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	told := func() string { return in(client, "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script) }
	want := []string{"ip=" + pc.v4 + "\n", "mask=24\n", "router=10.79.0.1\n", "dns=10.79.0.1\n", "serverid=10.79.0.1\n", "lease=86400\n"}
	for _, when := range []string{"first", "with another daemon"} {
		out := told()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: it is not told %q:\n%s", when, w, out)
			}
		}
		b.kill9()
		b.start()
	}
	// To ask is no drop. (What IPv6 says without an address is one, and smaller.)
	forged := func() (bytes int) {
		for line := range strings.Lines(b.gh("metrics")) {
			if strings.HasPrefix(line, "gatehouse_switch_drop_bytes_total") && strings.Contains(line, `reason="spoof_ip"`) {
				n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
				if err != nil {
					t.Fatal(err)
				}
				bytes += n
			}
		}
		return bytes
	}
	before := forged()
	told()
	if more := forged() - before; more >= 300 {
		t.Errorf("%d bytes are dropped of a client that asks", more)
	}
	// A daemon that starts has put the addresses back that the test took away.
	for _, to := range []string{outV4, other.v4} {
		b.reaches(pc.netns, to+":80")
	}
	b.reaches(other.netns, pc.v4+":80")

	// Without the flag nobody answers.
	network(`{"Name":"quiet","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.80.0.0/24"},{"IpAddressPrefix":"fd80::/64"}]}]}`)
	quiet := b.machine("quiet")
	if out, err := b.run(quiet.netns, client, "-i", "eth0", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s", script); err == nil {
		t.Errorf("an address on a network without a DHCP server: %s", out)
	}
}
