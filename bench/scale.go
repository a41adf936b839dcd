// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcn"
)

// atOnce is how many clients of the API make what is to be there.
const atOnce = 16

// manyEndpoints is how many endpoints one network gets.
const manyEndpoints = 2000

// colMemory is the daemon's proportional memory.
const colMemory = "daemon MiB"

func (h *ghHost) mib() float64 { return float64(pssOf(fmt.Sprint("/proc/", h.pid))) / (1 << 20) }

// plugged is a namespace with one endpoint.
type plugged struct{ space, endpoint, path string }

// plug makes a namespace and an endpoint in it, in two verbs.
func (h *ghHost) plug(ctx context.Context, c *hcn.Client, network, name string) (p plugged, err error) {
	ns, err := c.CreateNamespace(ctx, &hcn.HostComputeNamespace{Type: hcn.NamespaceTypeHost})
	if err != nil {
		return p, err
	}
	ep, err := c.CreateEndpoint(ctx, &hcn.HostComputeEndpoint{Name: name, HostComputeNetwork: network, HostComputeNamespace: ns.Id})
	if err != nil {
		return p, err
	}
	return plugged{ns.Id, ep.Id, filepath.Join(h.root, "run", "netns", ns.Id)}, nil
}

func unplug(ctx context.Context, c *hcn.Client, p plugged) error {
	return errors.Join(c.DeleteEndpoint(ctx, p.endpoint), c.DeleteNamespace(ctx, p.space))
}

// benchEndpoints: what an endpoint more costs when there are many.
func benchEndpoints(b *bench, r *report, rounds int) error {
	const sample = 100
	n := manyEndpoints
	if rounds > 0 {
		n = max(rounds, 3*sample)
	}
	h, err := b.startGatehouse("scale")
	if err != nil {
		return err
	}
	c, ctx := h.client(), context.Background()
	nets, err := c.ListNetworks(ctx, hcn.HostComputeQuery{})
	if err != nil || len(nets) == 0 {
		return fmt.Errorf("default network: %w", errors.Join(err, b.going()))
	}
	empty := h.mib()
	var rows []string
	all := make([]plugged, 0, n)
	var took series
	var before float64
	for i := range n {
		if i == 0 || i == n/2-sample || i == n-sample {
			before = cpuOf(h.pid)
		}
		if err := b.going(); err != nil {
			return err
		}
		t0 := time.Now()
		p, err := h.plug(ctx, c, nets[0].Id, fmt.Sprintf("e%d", i))
		if err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
		took = append(took, ms(time.Since(t0)))
		all = append(all, p)
		if done := i + 1; done == sample || done == n/2 || done == n {
			last := took[len(took)-sample:]
			rows = append(rows, fmt.Sprintf("the %d up to %d | %.2f | %.2f | %.2f | %.0f", sample, done, last.median(), last.q(0.99),
				1000*(cpuOf(h.pid)-before)/sample, h.mib()))
		}
	}
	var gone series
	for i := range sample {
		t0 := time.Now()
		if err := unplug(ctx, c, all[i]); err != nil {
			return err
		}
		gone = append(gone, ms(time.Since(t0)))
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, p := range all[sample:] {
		g.Go(func() error { return unplug(ctx, c, p) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.title("%d endpoints on one network, each in a namespace of its own", n)
	r.table("which | create p50 ms | p99 ms | daemon CPU ms | "+colMemory, rows...)
	r.note("Two verbs each, namespace and endpoint with its attachment, one after the other; each is synced to disk: %.2f ms for one sync there.", syncTime(b.dir))
	r.note("The daemon alone has %.0f MiB. Removing one of %d takes %.2f ms, p99 %.2f (two verbs).", empty, n, gone.median(), gone.q(0.99))
	return nil
}

// syncTime is how long the disk takes for one fdatasync of a page, in ms. A commit of
// the store needs two.
func syncTime(dir string) float64 {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var all series
	for range 50 {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0
		}
		t0 := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0
		}
		all = append(all, ms(time.Since(t0)))
	}
	return all.median()
}

// balancer is the document of load balancer i of n over the first so many endpoints.
func balancer(i, n int, endpoints []string) *hcn.HostComputeLoadBalancer {
	lb := &hcn.HostComputeLoadBalancer{
		HostComputeEndpoints: endpoints, FrontendVIPs: []string{vip(4, i)}, SchemaVersion: hcn.V2SchemaVersion(),
	}
	for _, proto := range serviceProtocols(i, n) {
		number := map[string]uint32{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[proto]
		lb.PortMappings = append(lb.PortMappings, hcn.LoadBalancerPortMapping{Protocol: number, InternalPort: trafficPort, ExternalPort: trafficPort})
	}
	return lb
}

// daemonBalancers is a way to a load balancer of n, all made through the API of a
// daemon of their own.
func (s *scope) daemonBalancers(n int) *path {
	if s.err != nil {
		return &path{}
	}
	h, err := s.b.startGatehouse(fmt.Sprintf("lb%d", n))
	if err != nil {
		s.fail(err)
		return &path{}
	}
	c, ctx := h.client(), context.Background()
	nets, err := c.ListNetworks(ctx, hcn.HostComputeQuery{})
	if err != nil || len(nets) == 0 {
		s.fail(fmt.Errorf("default network: %w", errors.Join(err, s.b.going())))
		return &path{}
	}
	var nodes []*node
	var ends []string
	for i := range serviceBackends + 1 {
		p, err := h.plug(ctx, c, nets[0].Id, fmt.Sprintf("b%d", i))
		if err != nil {
			s.fail(err)
			return &path{}
		}
		nodes = append(nodes, s.given(p.path))
		ends = append(ends, p.endpoint)
	}
	client, servers, ends := nodes[0], nodes[1:], ends[1:]
	var g errgroup.Group
	g.SetLimit(atOnce)
	made := make([]string, n)
	t0 := time.Now()
	for i := range n {
		g.Go(func() error {
			if err := s.b.going(); err != nil {
				return err
			}
			lb, err := c.CreateLoadBalancer(ctx, balancer(i, n, ends))
			if err == nil {
				made[i] = lb.Id
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.fail(fmt.Errorf("%d load balancers: %w", n, err))
		return &path{}
	}
	once := map[string]float64{colSync: ms(time.Since(t0))}
	var change series
	for i := range 40 {
		t0 := time.Now()
		if _, err := c.UpdateLoadBalancer(ctx, made[measured(n)], balancer(measured(n), n, ends[:len(ends)-1+i%2])); err != nil {
			s.fail(err)
			return &path{}
		}
		change = append(change, ms(time.Since(t0)))
	}
	once[colChange], once[colMemory] = change.median(), h.mib()
	return s.withOnce(&path{name: fmt.Sprintf("%s, %d load balancers", ours, n), client: client, server: servers[0], others: servers[1:], dev: "eth0",
		addr4: vip(4, measured(n))}, once)
}

// benchBalancers: load balancers as documents of a daemon, beside what kube-proxy
// writes for as many services.
func benchBalancers(b *bench, r *report, rounds int) error {
	if rounds == 0 {
		rounds = defaultRounds
	}
	mark := b.mark()
	defer b.release(mark)
	s := &scope{b: b}
	c := &contest{
		title: "Load balancers through the daemon", family: 4, metrics: []metric{metricCRR, metricFlows},
		notes: []string{
			fmt.Sprintf("Sync: all of them made, one request each, %d clients at once; of nftables and iptables, all rules loaded at once. Change: one backend more or less, one request.", atOnce),
			fmt.Sprintf("Each of our verbs is synced to disk twice: %.2f ms for one sync there.", syncTime(b.dir)),
			fmt.Sprintf("Every one has %d backends; with nftables and 10000 one, since loading more takes minutes.", serviceBackends),
		},
	}
	name := func(n int) string { return fmt.Sprintf("%s, %d load balancers", ours, n) }
	for _, n := range serviceCounts {
		c.paths = append(c.paths, s.daemonBalancers(n))
	}
	for _, n := range serviceCounts {
		backends := serviceBackends
		if n > 1000 {
			backends = 1
		}
		c.paths = append(c.paths, s.nftServicePath(4, n, backends))
	}
	for _, n := range serviceCounts {
		c.paths = append(c.paths, s.iptablesServicePath(4, n, serviceBackends))
	}
	if s.err != nil {
		return s.err
	}
	last := serviceCounts[len(serviceCounts)-1]
	c.goals = []goal{
		{colCRR, name(last), fmt.Sprintf("nftables, %d services", last), 1.08},
		{colCRR, name(last), fmt.Sprintf("iptables, %d services", last), 1.08},
		{colFlows, name(100), name(1), 0.95},
		{colFlows, name(last), name(1), 0.95},
	}
	c.limits = []limit{{name(last), colChange, 2}}
	return c.run(r, rounds)
}
