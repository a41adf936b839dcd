// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command bench measures gatehouse beside what people use today, on this host, in
// one run, interleaved: each round runs every contender once, so that a drift of
// the machine hits all of them alike. It prints medians and ratios beside the
// goals. Everything runs in network namespaces of its own and is removed at the end.
//
//	bench [-rounds N] [-o markdown|json] [SUBJECT…]
package main

import (
	"errors"
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

// subject is something that can be asked for by name.
type subject struct {
	name  string
	about string
	plane bool // belongs to "dataplane"
	run   func(b *bench, r *report, rounds int) error
}

func subjects() []subject {
	return []subject{
		{"run", "a container from start to exit", false, benchRun},
		{"many", "containers at once", false, benchMany},
		{"endpoint", "endpoint create and attach", false, benchEndpoint},
		{"endpoints", "2000 endpoints on one network", false, benchEndpoints},
		{"balancers", "1, 100 and 10000 load balancers through the daemon", false, benchBalancers},
		{"samehost", "container to container", true, benchSameHost},
		{"hostvnic", "process of the host to container", true, benchHostVNIC},
		{"tap", "container to virtual machine", true, benchTap},
		{"nat", "container to outside, source translated", true, benchNAT},
		{"publish", "outside to published port", true, benchPublish},
		{"loopback", "process of the host to a port published on 127.0.0.1", true, benchLoopback},
		{"route", "container to container of another host, without a tunnel", true, benchRoute},
		{"overlay", "container to container of another host, by VXLAN", true, benchOverlay},
		{"rules", "past 1, 100 and 10000 rules", true, benchRules},
		{"services", "1, 100 and 10000 services", true, benchServices},
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
	format := flag.String("o", "markdown", "markdown, or json with every sample")
	all := subjects()
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: bench [-rounds N] [-o markdown|json] [SUBJECT…]\n\nsubjects (none = all; dataplane = those marked *):\n")
		for _, s := range all {
			mark := " "
			if s.plane {
				mark = "*"
			}
			fmt.Fprintf(os.Stderr, "  %s %-10s %s\n", mark, s.name, s.about)
		}
	}
	flag.Parse()
	if *format != "markdown" && *format != "json" {
		fail("-o %s: want markdown or json", *format)
	}
	var todo []subject
	want := flag.Args()
	if len(want) == 0 {
		want = []string{"all"}
	}
	for _, w := range want {
		n := len(todo)
		for _, s := range all {
			if (s.name == w || w == "all" || w == "dataplane" && s.plane) && !slices.ContainsFunc(todo, func(t subject) bool { return t.name == s.name }) {
				todo = append(todo, s)
			}
		}
		if len(todo) == n && w != "all" && w != "dataplane" && !slices.ContainsFunc(todo, func(t subject) bool { return t.name == w }) {
			flag.Usage()
			fail("no subject %q", w)
		}
	}
	if os.Geteuid() != 0 {
		fail("bench needs root: network namespaces, runc, dockerd")
	}
	b, err := newBench()
	if err != nil {
		fail("%v", err)
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-sig
		b.stop()
		// What takes long by itself, e.g. a command that waits, is not waited for.
		time.Sleep(15 * time.Second)
		b.close()
		os.Exit(130)
	}()
	r := &report{out: os.Stdout, json: *format == "json"}
	r.Host = fmt.Sprintf("%s, %d CPUs, kernel %s, %s", runtime.GOARCH, runtime.NumCPU(), kernel(), time.Now().UTC().Format("2006-01-02 15:04 MST"))
	r.printf("host: %s\n", r.Host)
	var errs []error
	for _, s := range todo {
		t0 := time.Now()
		mark := b.mark()
		err := s.run(b, r, *rounds)
		if b.going() != nil {
			break
		}
		if err != nil {
			err = fmt.Errorf("bench %s: %w", s.name, err)
			fmt.Fprintln(os.Stderr, err)
			errs = append(errs, err)
		}
		if s.plane { // the others share a daemon
			b.release(mark)
		}
		fmt.Fprintf(os.Stderr, "bench %s: took %.0f s\n", s.name, time.Since(t0).Seconds())
	}
	b.close()
	if b.going() != nil {
		os.Exit(130)
	}
	errs = append(errs, r.end())
	if errors.Join(errs...) != nil {
		os.Exit(1)
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
