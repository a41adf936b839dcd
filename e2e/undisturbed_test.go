// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// TestUplinkIsUndisturbed: the host's own traffic on an interface goes on without a
// loss, and its addresses and routes stay, while networks are bound to it and removed,
// while each of these fails at each of its steps, and while the daemon dies in one.
//
//covers:type Transparent L2Bridge
func TestUplinkIsUndisturbed(t *testing.T) {
	h := failing(t)
	h.start()
	b := &docBench{host: h, c: &hcn.Client{Socket: filepath.Join(h.root, "run", "gatehouse.sock"), Patience: time.Minute}}
	own := func() string {
		return h.mustAt(h.ns, "ip", "-o", "addr", "show", "dev", "wire") + h.mustAt(h.ns, "ip", "route") + h.mustAt(h.ns, "ip", "-6", "route", "show", "dev", "wire") +
			strings.Fields(h.mustAt(h.ns, "ip", "-br", "link", "show", "dev", "wire"))[2]
	}
	before := own()
	host, out := b.path(b.ns), b.path(b.out)
	stream := func(from, to, addr string) func() {
		r := h.peer(to, "udp-receive "+addr)
		s := h.peer(from, "udp-send "+addr+" 1000")
		return func() {
			t.Helper()
			sent := s.end()
			time.Sleep(100 * time.Millisecond)
			got := r.end()
			if lost := sent.Sent - got.Received - got.Overrun; sent.Failed != 0 || lost != 0 || got.Received == 0 || len(got.From) != 1 {
				t.Errorf("to %s: %d of %d lost, %d refused, seen from %v", addr, lost, sent.Sent, sent.Failed, got.From)
			}
		}
	}
	ends := []func(){stream(host, out, outV4+":5001"), stream(host, out, "["+outV6+"]:5001"), stream(out, host, hostV4+":5002"), stream(out, host, "["+hostV6+"]:5002")}

	// once has a step fail once more; the daemon counts how often it came there, by undoing, too.
	met := map[string]int{}
	once := func(step string) {
		h.points(fmt.Sprintf("%s=%d*error", step, met[step]+1))
		if met[step]++; step != "network.committed" {
			met[step]++
		}
	}
	steps := []string{"network.committed", "network.attach", "network.ensured", "network.applied"}
	for _, typ := range []string{"Transparent", "L2Bridge"} {
		body := fmt.Sprintf(`{"Name":"seg","Type":%q,"Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"wire"}}],"Ipams":[{"Subnets":[{"IpAddressPrefix":"198.51.100.0/24"},{"IpAddressPrefix":"2001:db8:100::/64"}]}]}`, typ)
		var n, ns struct{ ID string }
		for _, step := range steps {
			once(step)
			if err := b.call("POST", "/networks", body, &n); err == nil {
				t.Errorf("%s: made in spite of an error at %s", typ, step)
			}
		}
		h.points("")
		b.must("POST", "/networks", body, &n)
		b.must("POST", "/namespaces", `{}`, &ns)
		pod := fmt.Sprintf(`{"HostComputeNamespace":%q}`, ns.ID)
		once("network.applied")
		if err := b.call("POST", "/networks/"+n.ID+"/endpoints", pod, nil); err == nil {
			t.Errorf("%s: an endpoint in spite of an error", typ)
		}
		h.points("")
		b.must("POST", "/networks/"+n.ID+"/endpoints", pod, nil)
		for _, step := range steps {
			once(step)
			if err := b.call("DELETE", "/networks/"+n.ID, "", nil); err == nil {
				t.Errorf("%s: deleted in spite of an error at %s", typ, step)
			}
		}
		h.arm("network.applied") // it dies in it, and comes back
		gone := make(chan error, 1)
		go func() { gone <- b.call("DELETE", "/networks/"+n.ID, "", nil) }()
		h.died("network.applied")
		h.start()
		clear(met)
		<-gone
		b.must("DELETE", "/namespaces/"+ns.ID, "", nil)
		if now := own(); now != before {
			t.Errorf("%s: the host's own is\n%s\nand was\n%s", typ, now, before)
		}
	}
	for _, end := range ends {
		end()
	}
}
