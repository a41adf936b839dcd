// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// The frames of newFlows are whole, which pkt checks, and as small as the meter
// expects.
func TestFrames(t *testing.T) {
	for i, c := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
		h := hop{
			src: netip.MustParseAddr(c[0]), dst: netip.MustParseAddr(c[1]),
			srcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, dstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		}
		f := h.udp(20000, trafficPort)
		if len(f) != int(frameSizes[i]) {
			t.Errorf("%s: %d bytes, the meter counts those of %d", c[0], len(f), frameSizes[i])
		}
		if _, err := pkt.Decode(f); err != nil {
			t.Errorf("%s: %v", c[0], err)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		s    series
		want float64
	}{{nil, 0}, {series{3}, 3}, {series{4, 1}, 2.5}, {series{9, 1, 5}, 5}} {
		if got := c.s.median(); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.s, got, c.want)
		}
	}
}

// Noisy samples count only where there is no other.
func TestContestReport(t *testing.T) {
	c := contest{
		title: "x", family: 4, metrics: []metric{metricRR},
		goals: []goal{{colP50, "a", "b", 1.05}, {colP99, "a", "b", 1}},
		cells: map[cell][]sample{
			{"a", colP50.name}: {{10, false}, {99, true}}, {"b", colP50.name}: {{20, true}},
			{"a", colP99.name}: {{30, false}}, {"b", colP99.name}: {{20, false}},
		},
	}
	var out bytes.Buffer
	r := &report{out: &out}
	if err := c.report(r, []*path{{name: "a"}, {name: "b"}}, 2); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| a | 10.0 | 30.0 |", "| b | ~20.0 | 20.0 |",
		"| RR p50 µs: a / b | ~0.50 | ≤ 1.05 | yes |", "| RR p99 µs: a / b | 1.50 | ≤ 1.00 | no |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	i := slices.IndexFunc(r.last().Samples, func(s samples) bool { return s.Row == "a" && s.Column == colP50.name })
	if i < 0 || len(r.last().Samples[i].Values) != 2 {
		t.Errorf("samples %+v", r.last().Samples)
	}
}

// Both shapes of kube-proxy's rules name every chain that they go to.
func TestServiceRules(t *testing.T) {
	for _, family := range []int{4, 6} {
		nft, ipt := nftServices(family, 3, 2), iptablesServices(family, 3, 2)
		for i := range 3 {
			for _, proto := range serviceProtocols(i, 3) {
				for _, want := range []string{
					fmt.Sprintf("%s . %s . %d : goto service-%d-%s", vip(family, i), proto, trafficPort, i, proto),
					fmt.Sprintf("chain service-%d-%s {", i, proto), fmt.Sprintf("chain endpoint-%d-%s-1 {", i, proto),
				} {
					if !strings.Contains(nft, want) {
						t.Errorf("IPv%d: no %q in\n%s", family, want, nft)
					}
				}
				for _, want := range []string{
					fmt.Sprintf("-A KUBE-SERVICES -d %s -p %s -m %[2]s --dport %d -j KUBE-SVC-%d-%[2]s\n", vip(family, i), proto, trafficPort, i),
					fmt.Sprintf("-A KUBE-SVC-%d-%s -j KUBE-SEP-%[1]d-%[2]s-1\n", i, proto),
				} {
					if !strings.Contains(ipt, want) {
						t.Errorf("IPv%d: no %q in\n%s", family, want, ipt)
					}
				}
			}
		}
	}
}
