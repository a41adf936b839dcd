// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkCreate measures what one create asks of this package: Ensure of one
// compartment more, then Prune that finds nothing.
func BenchmarkCreate(b *testing.B) {
	for _, existing := range []int{0, 500} {
		b.Run(fmt.Sprintf("existing=%d", existing), func(b *testing.B) {
			inst := newInstance(b)
			h := openHost(b, inst)
			ctx := context.Background()
			want := world(inst, existing)
			start := time.Now()
			if _, err := h.Ensure(ctx, want); err != nil {
				b.Fatal(err)
			}
			if existing > 0 {
				b.ReportMetric(time.Since(start).Seconds()*1000/float64(existing), "setup-ms/each")
			}
			if err := h.Prune(ctx, want); err != nil {
				b.Fatal(err)
			}
			var create, prune []time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				for len(h.pool.ready) == 0 { // a pace that the pool can hold
					time.Sleep(time.Millisecond)
				}
				more := want
				more.Compartments = append(slices.Clip(want.Compartments), oneCompartment(inst, existing+1+i%1000))
				b.StartTimer()
				start := time.Now()
				if _, err := h.Ensure(ctx, more); err != nil {
					b.Fatal(err)
				}
				if err := h.Prune(ctx, more); err != nil {
					b.Fatal(err)
				}
				create = append(create, time.Since(start))
				b.StopTimer()
				start = time.Now()
				if err := h.Prune(ctx, want); err != nil {
					b.Fatal(err)
				}
				prune = append(prune, time.Since(start))
				b.StartTimer()
			}
			b.ReportMetric(quantile(create, 0.5), "p50-ms")
			b.ReportMetric(quantile(create, 0.99), "p99-ms")
			b.ReportMetric(quantile(prune, 0.5), "prune-p50-ms")
			b.ReportMetric(quantile(prune, 0.99), "prune-p99-ms")
			if err := h.Settle(ctx); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func quantile(d []time.Duration, q float64) float64 {
	slices.Sort(d)
	return d[min(int(float64(len(d))*q), len(d)-1)].Seconds() * 1000
}
