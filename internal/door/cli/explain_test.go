// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		in, to string
		port   uint16
		proto  uint8
		bad    bool
	}{
		{in: "web", to: "web"},
		{in: "web:80", to: "web", port: 80},
		{in: "web:53/udp", to: "web", port: 53, proto: 17},
		{in: "web/icmp", to: "web", proto: 1},
		{in: "10.0.0.1", to: "10.0.0.1"},
		{in: "10.0.0.1:80/TCP", to: "10.0.0.1", port: 80, proto: 6},
		{in: "fd00::1", to: "fd00::1"},
		{in: "fd00::1/ping", to: "fd00::1", proto: 1},
		{in: "[fd00::1]", to: "fd00::1"},
		{in: "[fd00::1]:8132/sctp", to: "fd00::1", port: 8132, proto: 132},
		{in: "web:http", bad: true},
		{in: "web:0", bad: true},
		{in: "web:65536", bad: true},
		{in: "web:80/xtp", bad: true},
	} {
		to, port, proto, err := target(c.in)
		if (err != nil) != c.bad || to != c.to || port != c.port || proto != c.proto {
			t.Errorf("%s: %q %d %d %v; want %q %d %d", c.in, to, port, proto, err, c.to, c.port, c.proto)
		}
	}
}

func TestWriteExplanation(t *testing.T) {
	var b strings.Builder
	writeExplanation(&b, hcn.Explanation{From: "endpoint db (10.0.0.2)", To: "host (10.0.0.1)", Verdict: "drop", Text: "NO_ROUTE at L6 route, silently",
		Walks: []hcn.ExplainWalk{{Packet: "tcp 10.0.0.2:5 > 10.0.0.1:6 [S]", Steps: []hcn.ExplainStep{
			{Layer: "L0 port", Verdict: "pass", Reason: "from endpoint db"},
			{Layer: "L7 NAT", Verdict: "rewrite", Reason: "a new flow", Before: "a", After: "b", Rule: "natpool 1"},
		}}}})
	want := `endpoint db (10.0.0.2) to host (10.0.0.1)

tcp 10.0.0.2:5 > 10.0.0.1:6 [S]
  L0 port  pass     from endpoint db
  L7 NAT   rewrite  a new flow
                    a  =>  b
                    rule: natpool 1

DROP: NO_ROUTE at L6 route, silently
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
