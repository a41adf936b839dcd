// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package daemon joins everything: it reads the configuration, opens the store,
// makes the hands, hands them to the services and the services to the API, in
// order, and takes them down in reverse. Containers and packets go on when it
// ends: workers hold the ones, pinned programs move the others.
//
// Be aware: nothing here decides about documents. What must be right after a
// crash is right because each service recovers itself at its start, before the
// socket is there.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/dhcp"
	"gatehouse.dev/gatehouse/internal/dns"
	"gatehouse.dev/gatehouse/internal/door/api"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/hostport"
	"gatehouse.dev/gatehouse/internal/image"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// Version of this build; stamped by the linker.
var Version = "dev"

// stopLimit is how long verbs may take to finish when the daemon stops.
const stopLimit = 10 * time.Second

// spareWorkers wait ready, so that a start need not wait for a process.
const spareWorkers = 2

// Options of Run.
type Options struct {
	Root   string // "" = the system's own places
	Socket string // "" = the configuration's, then the root's
	Config string // "" = the root's own file, if it is there
	Log    io.Writer
}

// daemon is what one Run has made. Parts are added in the order of start.
type daemon struct {
	inst    instance.Instance
	cfg     config.Config
	log     *slog.Logger
	started time.Time

	db       *store.DB
	dp       *datapath.Datapath
	comp     *compartment.Host
	ports    *hostport.Holder
	dns      *dns.Server
	dhcp     *dhcp.Server
	leases   *dhcp.Clients
	images   *image.Store
	workers  *worker.Spawner
	machines *machineHand
	hns      *network.HNS
	hcs      *compute.HCS
	api      *api.Server

	uplinks    tally // changes of uplinks
	neighbours *announcer

	undo []func() error // of what was made, in order
}

// Run is the daemon, from start to end: it returns when ctx ends and all is down,
// or when it cannot start.
func Run(ctx context.Context, o Options) (err error) {
	d := &daemon{started: time.Now()}
	if d.inst, err = instance.New(o.Root); err != nil {
		return err
	}
	path, named := o.Config, o.Config != ""
	if !named {
		path = d.inst.Config
	}
	if d.cfg, err = config.Load(path, named); err != nil {
		return err
	}
	switch {
	case o.Socket != "":
		d.inst.Socket = o.Socket
	case d.cfg.Socket != "":
		d.inst.Socket = d.cfg.Socket
	}
	if o.Log == nil {
		o.Log = os.Stderr
	}
	if d.log, err = logger(o.Log, d.cfg.Log); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the daemon needs root: sudo gatehouse serve")
	}
	defer func() { err = errors.Join(err, d.down()) }()
	if err := d.up(ctx); err != nil {
		return err
	}
	return d.serve(ctx)
}

// later registers how a part is taken down.
func (d *daemon) later(f func() error) { d.undo = append(d.undo, f) }

// down takes the parts down in reverse and goes on after an error.
func (d *daemon) down() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	return errors.Join(errs...)
}

// up makes every part and recovers it; the socket is not there yet.
func (d *daemon) up(ctx context.Context) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{d.inst.Lib, 0o711}, {d.inst.Run, 0o711}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make directories: %w", err)
		}
	}
	for _, f := range []func(context.Context) error{d.openStore, d.openNetwork, d.openCompute} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(ctx); err != nil {
			return err
		}
	}
	return failpoint.Hit("daemon.recovered")
}

func (d *daemon) pidFile() string { return filepath.Join(d.inst.Run, "gatehouse.pid") }

func (d *daemon) openStore(context.Context) (err error) {
	d.db, err = store.Open(d.inst.Store())
	if errors.Is(err, store.ErrLocked) {
		who := "another gatehouse daemon"
		if b, err := os.ReadFile(d.pidFile()); err == nil {
			who += " (pid " + strings.TrimSpace(string(b)) + ")"
		}
		root := d.inst.Root
		if root == "" {
			root = d.inst.Lib
		}
		return fmt.Errorf("%s uses %s; stop it or choose another --root", who, root)
	}
	if err != nil {
		return err
	}
	d.later(d.db.Close)
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := os.WriteFile(d.pidFile(), []byte(pid), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	d.later(func() error { return os.Remove(d.pidFile()) })
	return nil
}

func (d *daemon) datapathOptions() datapath.Options {
	return datapath.Options{Pins: d.inst.Pins, Block: d.inst.Block, Log: d.log}
}

func (d *daemon) openCompute(ctx context.Context) (err error) {
	d.images, err = image.Open(image.Options{Lib: d.inst.Lib, DB: d.db, Log: d.log,
		Builtin: image.Builtin()})
	if err != nil {
		return err
	}
	if err := d.images.Recover(ctx); err != nil {
		return fmt.Errorf("recover images: %w", err)
	}
	if err := d.images.EnsureHello(ctx); err != nil {
		d.log.Warn("image gatehouse/hello is not available", "error", err)
	}
	rt := d.cfg.Compute.Runtime
	if rt == "" {
		rt = "runc"
	}
	if path, err := exec.LookPath(rt); err != nil {
		d.log.Warn("OCI runtime not found; containers cannot start before it is installed (apt install runc)", "runtime", rt)
	} else if rt, err = filepath.Abs(path); err != nil {
		return err
	}
	d.workers = &worker.Spawner{Cgroup: worker.WorkerCgroup(d.inst), Spare: spareWorkers, Log: d.log}
	d.later(d.workers.Close)
	d.machines = newMachineHand(d.inst)
	d.hcs, err = compute.New(compute.Options{
		Instance: d.inst, Store: d.db, Images: imageHand{d.images}, Tracer: traceHand{}, Networks: networkHand{d.hns}, Workers: workerHand{d.workers},
		Machines: d.machines, Stats: statsHand{d.hns}, Policy: d.cfg.Compute.Policy, Runtime: rt, LibraryOS: d.cfg.Compute.LibraryOS, LibraryPlatform: d.cfg.Compute.LibraryOSPlatform, LogMaxBytes: d.cfg.Compute.LogMaxBytes, Log: d.log,
	})
	if err != nil {
		return err
	}
	if err := d.hcs.Recover(ctx); err != nil {
		return fmt.Errorf("recover compute systems: %w", err)
	}
	if err := d.unplugOrphans(ctx); err != nil {
		d.log.Warn("networks of systems that are gone are left over", "error", err)
	}
	live, err := systemRows(d.db)
	if err != nil {
		return err
	}
	if err := d.images.ReleaseExcept(ctx, func(rid string) bool { return live[rid].owns() }); err != nil {
		d.log.Warn("images of systems that are gone are still held", "error", err)
	}
	if err := d.workers.Warm(); err != nil {
		d.log.Warn("no spare workers; starts are slower", "error", err)
	}
	return nil
}

// serve opens the socket and runs what runs beside it until ctx ends.
func (d *daemon) serve(ctx context.Context) error {
	group := d.cfg.SocketGroup
	if group == "" {
		group = "gatehouse"
	}
	gid := api.GroupID(group)
	if gid < 0 && d.cfg.SocketGroup != "" {
		return fmt.Errorf("socket_group %q: no such group; make it with: groupadd --system %s", group, group)
	}
	d.api = api.New(api.Options{
		HCN: d.hns.Collections(), Globals: network.Version(), Features: hcn.FeaturesOf(network.Version()),
		EndpointStats: func(ctx context.Context, id string) (any, error) { return d.hns.EndpointStats(ctx, id) },
		Explain:       func(ctx context.Context, body json.RawMessage) (any, error) { return d.hns.Explain(ctx, body) },
		HNS:           d.v1(),
		HCS:           systems{d.hcs, d.inst.Socket}, Images: image.NewHandler(d.images), Events: d.db, Host: d.questions(), Streams: d.streams(), Metrics: d.metrics, Admits: d.hcs.Admits, GID: gid, Log: d.log,
	})
	l, err := api.Listen(d.inst.Socket, gid, d.hcs.OpenToUsers())
	if err != nil {
		return err
	}
	defer os.Remove(d.inst.Socket)

	// What runs beside the API gets the daemon's end only after the API is down,
	// because its verbs need them.
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return d.runDatapath(beside) })
	g.Go(func() error { d.watch(beside); return nil })
	g.Go(func() error { d.tellDamages(beside); return nil })
	g.Go(func() error { d.tellUplinks(beside); return nil })
	g.Go(func() error { return done(d.hcs.Run(beside)) })

	failed := make(chan error, 1)
	go func() { failed <- d.api.Serve(l) }()
	d.log.Info("gatehouse serves", "version", Version, "socket", d.inst.Socket, "root", d.inst.Root, "pid", os.Getpid(), "after", time.Since(d.started).Round(time.Millisecond))
	notify(d.log, "READY=1\nMAINPID="+strconv.Itoa(os.Getpid()))
	select {
	case <-ctx.Done():
		d.log.Info("gatehouse stops; containers and their network go on")
	case err = <-failed:
	}
	notify(d.log, "STOPPING=1")
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if serr := d.api.Shutdown(limit); serr != nil {
		d.log.Warn("some requests were cut off", "error", serr)
	}
	stop()
	return errors.Join(err, g.Wait())
}

// runDatapath runs what the data plane needs beside it: the sweep, repairs, the
// reader of events. Without them the switch goes on, but nobody would notice, so
// one that ends early is told of and begun again.
func (d *daemon) runDatapath(ctx context.Context) error {
	for {
		err := done(d.dp.Run(ctx))
		if ctx.Err() != nil {
			return err
		}
		d.log.Error("sweeps, repairs and events of the switch ended; they begin again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// done drops the error that says no more than that the daemon stops.
func done(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (d *daemon) version() host.Version {
	kernel, _, _ := kernelRelease()
	return host.Version{Version: Version, Go: runtime.Version(), Kernel: kernel, Root: d.inst.Root, PID: os.Getpid(), Started: d.started, API: host.APILevel}
}
