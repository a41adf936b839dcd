// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// BenchmarkHit is the cost of a packet of a known flow, TEST_RUN's own (about
// 44 ns) included, with the object as production loads it. Only paths that leave
// the packet as it was can be repeated: no TTL, no NAT.
func BenchmarkHit(b *testing.B) {
	const repeat = 200_000
	l := newLab(b, false)
	for _, c := range []struct{ name, line string }{
		{"v4", "192.168.100.10.40000 > 192.168.100.11.80: udp"},
		{"v6", "fd00:100::10.40000 > fd00:100::11.80: udp"},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := l.port("a")
			frame := l.frame(p, pkt.MustParse(c.line))
			ctx := bpfrun.Context{Ifindex: uint32(p.dev), IngressIfindex: uint32(p.dev)}
			best := time.Hour
			for b.Loop() {
				for range 7 {
					var ns time.Duration
					var err error
					l.in(func() {
						start := time.Now()
						_, err = l.coll.Programs["ep_in"].Run(&ebpf.RunOptions{Data: frame, Context: &ctx, Repeat: repeat})
						ns = time.Since(start) / repeat
					})
					if err != nil {
						b.Fatal(err)
					}
					best = min(best, ns)
				}
			}
			b.ReportMetric(float64(best.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}
