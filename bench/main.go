// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command bench measures gatehouse beside what people use today, on this host, in
// one run, interleaved: each round runs every contender once, so that a drift of
// the machine hits all of them alike. It prints medians and ratios; it judges
// nothing. Everything runs in network namespaces of its own and is removed at the end.
//
//	bench [-rounds N] [run|many|endpoint|path|all]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type report struct{}

func (r *report) title(format string, a ...any) {
	fmt.Printf("\n## "+format+"\n", a...)
}

func (r *report) table(head string, rows ...string) {
	cols := strings.Count(head, "|") + 1
	fmt.Printf("\n| %s |\n|%s\n", head, strings.Repeat(" --- |", cols))
	for _, row := range rows {
		fmt.Printf("| %s |\n", row)
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "peer" {
		if err := peer(os.Args[2:]); err != nil {
			fail("%v", err)
		}
		return
	}
	rounds := flag.Int("rounds", 0, "rounds of each measurement (0 = its default)")
	flag.Parse()
	if os.Geteuid() != 0 {
		fail("bench needs root: network namespaces, runc, dockerd")
	}
	what := flag.Args()
	if len(what) == 0 || what[0] == "all" {
		what = []string{"run", "many", "endpoint", "path"}
	}
	b, err := newBench()
	if err != nil {
		fail("%v", err)
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	go func() { <-sig; b.close(); os.Exit(130) }()
	defer b.close()
	fmt.Printf("host: %s, %d CPUs, kernel %s, %s\n", runtime.GOARCH, runtime.NumCPU(), kernel(), time.Now().UTC().Format("2006-01-02 15:04 MST"))
	for _, w := range what {
		f := map[string]func(*bench, *report, int) error{
			"run": benchRun, "many": benchMany, "endpoint": benchEndpoint, "path": benchPath,
		}[w]
		if f == nil {
			b.close()
			fail("no measurement %q; there are run, many, endpoint, path", w)
		}
		if err := f(b, &report{}, *rounds); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", w, err)
			b.close()
			os.Exit(1)
		}
	}
}

func fail(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...)
	os.Exit(1)
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// series is one contender's samples.
type series []float64

func (s series) q(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	c := slices.Clone(s)
	slices.Sort(c)
	i := int(p * float64(len(c)-1))
	return c[i]
}

func (s series) median() float64 { return s.q(0.5) }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
