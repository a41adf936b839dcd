// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package network

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/hostport"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// After how many verbs everything has to agree.
const (
	tortureEvery        = 100
	tortureEveryFailing = 20
)

// order is what a child is to do, on its standard input.
type tortureOrder struct {
	Dir     string
	Seed    uint64
	Verbs   int
	Failing bool // one in ten calls of the kernel fails, in every second verb
	Alone   bool // one verb at a time, each told on standard output
	// Revision and Sum are what a child that was killed told last; 0 = nothing.
	Revision uint64
	Sum      string
}

// TestTorture does random verbs, valid and invalid, to the real service over a real
// store and kernel, in a process and a network namespace of its own. After each
// hundred, store, World, tables and kernel must agree; then the same with the process
// killed at random moments, and with calls of the kernel failing. GATEHOUSE_TORTURE_VERBS is how
// many, GATEHOUSE_TORTURE_SEED which ones; make torture sets both.
func TestTorture(t *testing.T) {
	// The short form, for every change. Starts of the switch take most of the time, of
	// which there is one for each that is killed.
	verbs, few, seed := 300, 40, uint64(time.Now().UnixNano())
	if s := os.Getenv("GATEHOUSE_TORTURE_VERBS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		verbs, few = n, n
	}
	if s := os.Getenv("GATEHOUSE_TORTURE_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("GATEHOUSE_TORTURE_SEED=%d GATEHOUSE_TORTURE_VERBS=%d", seed, verbs)
	t.Run("whole", func(t *testing.T) {
		b := newTortureBench(t)
		b.run(tortureOrder{Seed: seed, Verbs: verbs}, 0)
	})
	t.Run("killed", func(t *testing.T) { killed(t, seed, few) })
	t.Run("failing kernel", func(t *testing.T) {
		b := newTortureBench(t)
		b.run(tortureOrder{Seed: seed, Verbs: verbs, Failing: true}, 0)
	})
}

// killed does verbs in one child after the other, each killed at a random moment.
func killed(t *testing.T, seed uint64, verbs int) {
	b := newTortureBench(t)
	r := rand.New(rand.NewPCG(seed, 2))
	o := tortureOrder{Alone: true}
	kills := 0
	for done := 0; done < verbs; kills++ {
		o.Seed, o.Verbs = r.Uint64(), verbs-done
		// Some die in their start, some after hundreds of verbs.
		told := b.run(o, time.Duration(1+r.ExpFloat64()*float64(1500*time.Millisecond)))
		done += told.verbs
		if told.revision != 0 {
			o.Revision, o.Sum = told.revision, told.sum
		}
	}
	b.run(tortureOrder{Alone: true, Revision: o.Revision, Sum: o.Sum}, 0)
	t.Logf("%d children", kills)
}

// tortureBench is a host with two uplinks, and a root for a daemon.
type tortureBench struct {
	t    *testing.T
	dir  string
	host *nettest.NS
}

func newTortureBench(t *testing.T) *tortureBench {
	nettest.RequireRoot(t)
	b := &tortureBench{t: t, dir: t.TempDir(), host: nettest.NewNS(t)}
	out := nettest.NewNS(t)
	nettest.Veth(t, b.host, "up0", out, "eth0", "198.51.100.1/24", "198.51.100.2/24", "2001:db8:1::1/64", "2001:db8:1::2/64")
	nettest.Veth(t, b.host, "up1", out, "eth1")
	b.host.DefaultRoute("198.51.100.2")
	b.host.DefaultRoute("2001:db8:1::2")
	inst, err := instance.New(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	nettest.CheckLeaks(t, nettest.LeakOptions{NS: b.host, Dirs: []string{inst.Pins, b.dir + "/run"}})
	t.Cleanup(func() {
		err := b.host.Do(func() error {
			return errors.Join(datapath.Destroy(datapath.Options{Pins: inst.Pins, Block: inst.Block}), compartment.Destroy(context.Background(), inst))
		})
		if err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(filepath.Join(b.dir, "run"))
	})
	return b
}

// told is what a child said before it ended.
type told struct {
	verbs    int
	revision uint64
	sum      string
}

// run lets a child work, and kills it after life; 0 = it ends by itself.
func (b *tortureBench) run(o tortureOrder, life time.Duration) told {
	b.t.Helper()
	o.Dir = b.dir
	raw, _ := json.Marshal(o)
	cmd := b.host.Command(os.Args[0], "-test.run=^TestTortureChild$", "-test.timeout=12h", "-test.v")
	cmd.Env = append(os.Environ(), "GATEHOUSE_TORTURE_CHILD="+string(raw), "GATEHOUSE_FAILPOINT_SEED="+strconv.FormatUint(o.Seed, 10))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	if life != 0 {
		killer := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
		defer killer.Stop()
	}
	var out told
	var said []string
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		line := lines.Text()
		if n, err := fmt.Sscanf(line, "verb %d %s", &out.revision, &out.sum); n == 2 && err == nil {
			out.verbs++
			continue
		}
		said = append(said, line)
	}
	err = cmd.Wait()
	var x *exec.ExitError
	if life != 0 && errors.As(err, &x) && x.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return out
	}
	if err != nil {
		b.t.Fatalf("order %s: %v\n%s\n%s", raw, err, strings.Join(said, "\n"), errs.String())
	}
	for _, s := range said {
		if strings.Contains(s, "verbs:") {
			b.t.Log(strings.TrimSpace(s))
		}
	}
	return out
}

// tortured is a daemon's networking, without its doors.
type tortured struct {
	t     *testing.T
	o     tortureOrder
	inst  instance.Instance
	db    *store.DB
	comps *compartment.Host
	dp    *datapath.Datapath
	ports *hostport.Holder
	h     *HNS
	g     *gen
	// counts of what the verbs came to
	good, refused, failed, repaired int
}

// TestTortureChild is the child of TestTorture.
func TestTortureChild(t *testing.T) {
	raw := os.Getenv("GATEHOUSE_TORTURE_CHILD")
	if raw == "" {
		t.Skip("a part of TestTorture")
	}
	d := &tortured{t: t}
	if err := json.Unmarshal([]byte(raw), &d.o); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	d.start(ctx)
	if err := settled(func() error { return d.agree(ctx) }); err != nil {
		t.Fatalf("after the start: %v", err)
	}
	began := map[string]int{}
	goroutines, checked, every := 0, 0, tortureEvery
	if d.o.Failing {
		every = tortureEveryFailing
	}
	for done := 0; done < d.o.Verbs; {
		if d.o.Alone || d.g.r.IntN(20) > 0 {
			d.one(ctx)
			done++
		} else {
			done += d.several(ctx)
		}
		if done < checked+every && done < d.o.Verbs {
			continue
		}
		checked = done
		d.repair(ctx)
		if err := settled(func() error { return d.agree(ctx) }); err != nil {
			t.Fatalf("after %d verbs: %v", done, err)
		}
		if len(began) == 0 {
			began, goroutines = descriptors(), runtime.NumGoroutine()
		}
	}
	for kind, n := range descriptors() {
		// Ports held and namespaces kept ready come and go.
		if is := n - began[kind]; len(began) > 0 && is > 64 {
			t.Errorf("descriptors of kind %s: %d more than after the first hundred verbs", kind, is)
		}
	}
	if n := runtime.NumGoroutine(); goroutines > 0 && n > goroutines+16 {
		t.Errorf("%d goroutines, %d after the first hundred verbs", n, goroutines)
	}
	t.Logf("verbs: %d done, %d refused, %d failed, %d repairs", d.good, d.refused, d.failed, d.repaired)
	d.stop(ctx)
}

func (d *tortured) start(ctx context.Context) {
	var err error
	fatal := func() {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	d.inst, err = instance.New(d.o.Dir)
	fatal()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	d.db, err = store.Open(d.inst.Store())
	fatal()
	d.dp, err = datapath.Open(datapath.Options{Pins: d.inst.Pins, Block: d.inst.Block, Log: log})
	fatal()
	d.comps, err = compartment.Open(compartment.Options{Instance: d.inst, Log: log})
	fatal()
	d.ports = &hostport.Holder{}
	d.h = New(Options{Instance: d.inst, Store: d.db, Compartments: d.comps, Datapath: d.dp, Ports: d.ports, Uplinks: d.comps.Candidates, Clients: &tortureLender{}, Log: log, Services: torturePools()})
	d.g = &gen{r: rand.New(rand.NewPCG(d.o.Seed, 4)), h: d.h}
	w, _, err := d.h.load()
	fatal()
	if d.o.Revision != 0 {
		// What was answered as done is there; of what was not, all or nothing.
		switch at := d.db.Revision(); {
		case at < d.o.Revision || at > d.o.Revision+2:
			d.t.Fatalf("the store is at revision %d, the last that was answered is %d", at, d.o.Revision)
		case at == d.o.Revision && sum(w) != d.o.Sum:
			d.t.Fatalf("revision %d is not what it was", at)
		}
	}
	err = d.h.Start(ctx)
	fatal()
	if why := d.h.Trouble(); why != "" {
		d.t.Fatalf("trouble after the start: %s", why)
	}
}

// torturePools are small, so that they run out.
func torturePools() model.ServicePools {
	return model.ServicePools{
		Cluster:      []netip.Prefix{netip.MustParsePrefix("10.97.0.0/28"), netip.MustParsePrefix("fd97::/124")},
		LoadBalancer: []netip.Prefix{netip.MustParsePrefix("198.51.100.16/29")},
		NodePorts:    [2]uint16{31000, 31007},
	}
}

func (d *tortured) stop(ctx context.Context) {
	d.h.Stop()
	if err := errors.Join(d.ports.Close(), d.comps.Settle(ctx), d.dp.Close(), d.comps.Close(), d.db.Close()); err != nil {
		d.t.Error(err)
	}
}

// one does the next verb and says what it came to.
func (d *tortured) one(ctx context.Context) {
	c := d.g.next()
	failing := d.o.Failing && d.g.r.IntN(2) == 0
	if failing {
		os.Setenv("GATEHOUSE_FAILPOINTS", "compartment.call=10%error;datapath.call=10%error")
	}
	before := d.db.Revision()
	err := c.do(ctx, d.h)
	if failing {
		os.Unsetenv("GATEHOUSE_FAILPOINTS")
	}
	d.judge(c, err)
	var se *stepError
	if err != nil && !errors.As(err, &se) && d.db.Revision() != before {
		d.t.Fatalf("%s: refused (%v), and the store has changed", c, err)
	}
	if d.o.Alone {
		fmt.Printf("verb %d %s\n", d.db.Revision(), sum(d.h.World()))
	}
}

// several does verbs at once, which the service takes together.
func (d *tortured) several(ctx context.Context) int {
	var wg sync.WaitGroup
	calls := make([]call, 4)
	errs := make([]error, len(calls))
	for i := range calls {
		calls[i] = d.g.next()
	}
	for i := range calls {
		wg.Go(func() { errs[i] = calls[i].do(ctx, d.h) })
	}
	wg.Wait()
	for i := range calls {
		d.judge(calls[i], errs[i])
	}
	return len(calls)
}

// judge: a verb is done, or refused with a code and a reason; only calls of the kernel
// that fail may break it.
func (d *tortured) judge(c call, err error) {
	var re resource.Error
	var se *stepError
	switch {
	case err == nil:
		d.good++
	case errors.As(err, &se):
		d.failed++
		if !d.o.Failing {
			d.t.Fatalf("%s: %v", c, err)
		}
	case !errors.As(err, &re) || re.HTTPStatus() < 400:
		d.t.Fatalf("%s: not an answer: %v", c, err)
	default:
		d.refused++
	}
}

// repair does what the daemon's watcher does while there is trouble.
func (d *tortured) repair(ctx context.Context) {
	if d.h.Trouble() == "" {
		return
	}
	d.repaired++
	if err := d.h.Recompile(ctx); err != nil || d.h.Trouble() != "" {
		d.t.Fatalf("not repaired: %v, %s", err, d.h.Trouble())
	}
}
