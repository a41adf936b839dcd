// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/dhcp"
	"gatehouse.dev/gatehouse/internal/dns"
	"gatehouse.dev/gatehouse/internal/door/hnsv1"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/hostport"
	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// openNetwork loads the switch, takes hold of the host's devices and starts the
// networking service over both.
func (d *daemon) openNetwork(ctx context.Context) (err error) {
	if d.dp, err = datapath.Open(d.datapathOptions()); err != nil {
		return err
	}
	if d.comp, err = compartment.Open(compartment.Options{Instance: d.inst, Users: d.cfg.Network.Users, Log: d.log}); err != nil {
		return errors.Join(err, d.dp.Close())
	}
	if c := checkNATPorts(); c.State != host.OK {
		d.log.Warn("ports of outbound NAT", "found", c.Found, "do", c.Do)
	}
	resolv, err := d.resolvConf()
	if err != nil {
		return errors.Join(err, d.comp.Close(), d.dp.Close())
	}
	d.dns = dns.New(dns.Options{Log: d.log, ResolvConf: resolv, Inside: func(f func() error) error {
		return compartment.Do(d.inst.NetNs(model.ResolverCompartment), f)
	}})
	d.dhcp, d.leases = dhcp.New(d.log), dhcp.NewClients(d.log)
	d.ports = &hostport.Holder{}
	body, err := defaultNetwork(d.cfg.Network)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		d.log.Warn("no boot id; networks that end with a boot do not", "error", err)
	}
	d.neighbours = &announcer{log: d.log}
	d.hns = network.New(network.Options{
		Instance: d.inst, Store: d.db, Compartments: compartmentHand{d.comp, d.cfg.Network.Uplinks}, Datapath: d.dp,
		ACLDefaultDeny: d.cfg.Network.ACLDefault == "deny", Outside: outsideACL(d.cfg.Publish), Names: d.dns, Leases: d.dhcp, Clients: d.leases, Ports: d.ports, BootID: strings.TrimSpace(string(boot)),
		NoDefaultNetwork: d.cfg.Network.Default == "none", DefaultNetwork: body, Log: d.log,
		Uplinks: func() ([]model.Uplink, error) { return candidates(d.comp, d.cfg.Network.Uplinks) },
		Sight:   sightHand{d.dp, d.log}, Services: model.ServicePools(d.cfg.Services.Pools()), Users: d.cfg.Network.Users, Announce: d.neighbours.Set,
		Stats: func(p vswitch.PortID) (network.PortCounters, error) {
			s, err := d.dp.Stats(p)
			return network.PortCounters(s), err
		},
	})
	d.later(d.neighbours.Close)
	d.later(d.closeNetwork)
	go d.followLeases()
	if err := d.hns.Start(ctx); err != nil {
		return err
	}
	if why := d.hns.Trouble(); why != "" {
		d.log.Warn("the network is not all as it should be", "why", why)
	}
	return nil
}

// closeNetwork lets go of the switch, which goes on; but when nothing is plugged
// into it, nothing is left of it: the next start makes it anew.
func (d *daemon) closeNetwork() error {
	d.hns.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	w := d.hns.World()
	empty := len(w.AllEndpoints()) == 0 && len(w.AllLoadBalancers()) == 0 && len(w.AllServices()) == 0 && !slices.ContainsFunc(w.AllNamespaces(), func(n *model.Namespace) bool { return n.Doc.NetNsPath != "" })
	errs := []error{d.dns.Close(), d.dhcp.Close(), d.leases.Close(), d.ports.Close(), d.comp.Settle(ctx), d.dp.Close()}
	if empty {
		errs = append(errs, datapath.Destroy(d.datapathOptions()), failpoint.Hit("daemon.closing"), d.comp.Destroy(ctx), worker.Sweep(ctx, d.inst))
	}
	errs = append(errs, d.comp.Close())
	return errors.Join(errs...)
}

// defaultNetwork is the document of the default network as configured; nil when
// nothing is.
func defaultNetwork(c config.Network) ([]byte, error) {
	if len(c.Subnets) == 0 {
		return nil, nil
	}
	n := hcn.HostComputeNetwork{Name: model.DefaultNetwork, Type: hcn.NAT, SchemaVersion: hcn.V2SchemaVersion(), Ipams: []hcn.Ipam{{Type: "Static"}}}
	for _, s := range c.Subnets {
		n.Ipams[0].Subnets = append(n.Ipams[0].Subnets, hcn.Subnet{IpAddressPrefix: s})
	}
	return json.Marshal(n)
}

// resolvConf is the file that names the upstream servers: the host's own, or one
// made of the configuration.
func (d *daemon) resolvConf() (string, error) {
	if len(d.cfg.DNS.Upstream) == 0 {
		return "", nil
	}
	var b strings.Builder
	for _, a := range d.cfg.DNS.Upstream {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	path := filepath.Join(d.inst.Run, "resolv.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return "", fmt.Errorf("dns.upstream: %w", err)
	}
	return path, nil
}

// compartmentHand hides the uplinks that the configuration leaves out.
type compartmentHand struct {
	*compartment.Host
	uplinks []string
}

func (h compartmentHand) Ensure(ctx context.Context, want model.Desired) (vswitch.Facts, error) {
	f, err := h.Host.Ensure(ctx, want)
	f.Uplinks = slices.DeleteFunc(f.Uplinks, func(u vswitch.Uplink) bool { return !used(h.uplinks, u.Name) })
	return f, err
}

// candidates are the interfaces that networks can be bound to, of those that the
// configuration names.
func candidates(c *compartment.Host, uplinks []string) ([]model.Uplink, error) {
	all, err := c.Candidates()
	return slices.DeleteFunc(all, func(u model.Uplink) bool { return !used(uplinks, u.Name) }), err
}

// used says whether an uplink is one of those that the configuration names.
func used(uplinks []string, name string) bool {
	return len(uplinks) == 0 || slices.ContainsFunc(uplinks, func(p string) bool { ok, _ := path.Match(p, name); return ok })
}

// networkHand is the networking service as the compute service asks for it.
type networkHand struct{ *network.HNS }

func (h networkHand) Plug(ctx context.Context, owner, namespaceID string, endpoints []json.RawMessage) (compute.Plugged, error) {
	p, err := h.HNS.Plug(ctx, owner, namespaceID, endpoints)
	return compute.Plugged(p), err
}

func (h networkHand) Look(ctx context.Context, namespaceID string) (compute.Plugged, error) {
	p, err := h.HNS.Look(ctx, namespaceID)
	return compute.Plugged(p), err
}

// v1 is the door for clients of the first API, over the same service.
func (d *daemon) v1() http.Handler {
	return hnsv1.New(hnsv1.Options{
		HCN: d.hns.Collections(), Version: network.Version(),
		Stats: func(ctx context.Context, id string) (any, error) { return d.hns.EndpointStats(ctx, id) },
		NamespaceOf: func(ctx context.Context, system string) string {
			p, err := d.hcs.Properties(ctx, system, hcs.PropertyQuery{})
			if err != nil {
				return ""
			}
			return p.Namespace
		},
		MACs: d.hns.ManagementMACs, SetMACs: d.hns.SetManagementMACs,
	})
}

// statsHand gives an endpoint's counters in the compute service's document.
type statsHand struct{ *network.HNS }

func (h statsHand) EndpointStats(ctx context.Context, id string) (hcs.NetworkStats, error) {
	s, err := h.HNS.EndpointStats(ctx, id)
	return hcs.NetworkStats(s), err
}

// What could not be applied is tried again soon, for most faults pass, and then
// ever more seldom, so that a lasting one does not fill the log. Our choice.
const (
	repairSoon  = 100 * time.Millisecond
	repairEvery = 10 * time.Second
)

// watch has the networking service follow the host: an uplink that comes or goes,
// an address, a device of ours that somebody removed, a switch in doubt. What could
// not be applied is tried again.
func (d *daemon) watch(ctx context.Context) {
	follow(d.comp.Watch(ctx), d.dp.Doubts(), func() bool { return d.hns.Trouble() != "" || d.dp.InDoubt() }, func() error {
		err := d.hns.Recompile(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("the switch could not follow the host; it is tried again", "error", err)
		}
		return err
	})
}

// followLeases has endpoints have what their DHCP clients are lent, until these are closed.
func (d *daemon) followLeases() {
	for n := range d.leases.News() {
		n.Took(d.hns.Lend(context.Background(), n.Endpoint, n.Lease))
	}
}

// follow calls repair for each value of the channels, again while it fails, and
// now and then when it is needed, until changed is closed.
func follow(changed, doubts <-chan struct{}, needed func() bool, repair func() error) {
	wait := repairSoon // after the next failure
	again := time.NewTimer(repairEvery)
	defer again.Stop()
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				return
			}
		case <-doubts:
		case <-again.C:
			if !needed() {
				again.Reset(repairEvery)
				continue
			}
		}
		if repair() == nil {
			again.Reset(repairEvery)
			wait = repairSoon
			continue
		}
		again.Reset(wait)
		wait = min(2*wait, repairEvery)
	}
}

// unplugOrphans removes the networks of systems that are gone.
func (d *daemon) unplugOrphans(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rows, err := systemRows(d.db)
	if err != nil {
		return err
	}
	var errs []error
	for ns, owner := range d.hns.Plugs() {
		if rows[owner].owns() {
			continue
		}
		d.log.Info("network of a system that is gone is removed", "namespace", ns, "runtime", owner)
		errs = append(errs, d.hns.Unplug(ctx, ns))
	}
	return errors.Join(errs...)
}
