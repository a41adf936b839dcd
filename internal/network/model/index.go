// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/network/ipam"
)

func addrKey(network string, a netip.Addr) string { return network + "/" + string(a.AsSlice()) }
func macKey(network string, m ipam.MAC) string    { return network + "/" + string(m[:]) }
func nameKey(e *Endpoint) string                  { return strings.ToLower(e.Doc.Name) + "\x00" + e.Doc.Id }
func memberKey(e *Endpoint) string {
	return fmt.Sprintf("%s/%016x", e.Doc.HostComputeNetwork, e.Sequence)
}

func (w *World) putNetwork(n *Network) {
	id := n.Doc.Id
	old, ok := w.networks.get(id)
	if ok {
		w.unindexNetwork(old)
	}
	n.compiled = compileNetwork(n, w.inst)
	w.networks = w.networks.set(id, n)
	if ok && (!slices.Equal(old.compiled.network.Routes, n.compiled.network.Routes) || !slices.Equal(old.compiled.network.Subnets, n.compiled.network.Subnets)) {
		w.rebalanceNetwork(id)
	}
	if n.Doc.Name != "" {
		w.byName = w.byName.set(n.Doc.Name, id)
	}
	for _, v := range n.Numbers() {
		w.use(networkNumbers, uint32(v))
	}
	if n.HostPort != 0 {
		w.use(portNumbers, uint32(n.HostPort))
	}
	if n.Tunnel != 0 {
		w.use(portNumbers, uint32(n.Tunnel))
	}
	if ok && n.isOverlay() && old.provider() != n.provider() {
		w.followProvider(n)
	}
	w.changed(Networks, id, n)
}

func (w *World) unindexNetwork(n *Network) {
	if n.Doc.Name != "" {
		w.byName = w.byName.del(n.Doc.Name)
	}
}

func (w *World) dropNetwork(n *Network) {
	w.unindexNetwork(n)
	w.networks = w.networks.del(n.Doc.Id)
	w.lastMAC = w.lastMAC.del(n.Doc.Id)
	for k := range w.released.prefixed(n.Doc.Id + "/") {
		w.released = w.released.del(k)
	}
	for _, v := range n.Numbers() {
		shared := false
		for o := range w.beside(n) {
			shared = shared || slices.Contains(o.Numbers(), v)
		}
		if !shared {
			w.free(networkNumbers, uint32(v))
		}
	}
	if n.HostPort != 0 {
		w.free(portNumbers, uint32(n.HostPort))
	}
	if n.Tunnel != 0 && !w.sharesTunnel(n) {
		w.free(portNumbers, uint32(n.Tunnel))
	}
	w.changed(Networks, n.Doc.Id, nil)
}

// refer gives e, which is not in the World yet, what its policies share with those of
// others.
func (w *World) refer(e *Endpoint, n *Network) error {
	if err := w.refACLs(e, n); err != nil {
		return err
	}
	return w.refNATPools(e, n)
}

func (w *World) putEndpoint(e *Endpoint) {
	id, net := e.Doc.Id, e.Doc.HostComputeNetwork
	old, ok := w.endpoints.get(id)
	if ok {
		w.unindexEndpoint(old)
	}
	w.compileEndpointOf(e)
	w.endpoints = w.endpoints.set(id, e)
	w.members = w.members.set(memberKey(e), id)
	w.countHops(net, e.ways, 1)
	if e.IsRemote() {
		for _, a := range e.addrs {
			w.remotes = w.remotes.set(remoteKey(net, a.Addr(), e.Sequence), id)
		}
	} else {
		for _, a := range e.addrs {
			w.addrs = w.addrs.set(addrKey(net, a.Addr()), id)
			w.released = w.released.del(addrKey(net, a.Addr()))
		}
		w.macs = w.macs.set(macKey(net, e.mac), id)
		w.lastMAC = w.lastMAC.set(net, e.mac)
		w.use(portNumbers, uint32(e.Port))
	}
	w.settleRemotes(e)
	w.publishAll(e.claims())
	if e.Doc.Name != "" {
		w.named = w.named.set(nameKey(e), id)
	}
	moved := ok && (old.compiled.attached != e.compiled.attached || !slices.Equal(old.addrs, e.addrs) || old.provider != e.provider)
	if moved {
		w.rebalance(id)
	}
	if ok && old.Doc.Name != e.Doc.Name {
		w.reserve(old)
	}
	if !ok || moved || old.Doc.Name != e.Doc.Name {
		w.reserve(e)
	}
	w.replug(id)
	w.changed(Endpoints, id, e)
}

// compileEndpointOf compiles an endpoint with what the World holds around it.
func (w *World) compileEndpointOf(e *Endpoint) {
	n, _ := w.networks.get(e.Doc.HostComputeNetwork)
	var ns *Namespace
	if e.Doc.HostComputeNamespace != "" {
		ns, _ = w.namespaces.get(e.Doc.HostComputeNamespace)
	}
	e.compiled = compileEndpoint(e, n, ns, w.inst)
	port := &e.compiled.port
	port.Routes = slices.Concat(port.Routes, e.ways, w.sdnRoutesOf(e.Doc.Id))
	port.Routes = withoutHost(n, port.Routes)
}

func (w *World) unindexEndpoint(e *Endpoint) {
	net := e.Doc.HostComputeNetwork
	w.members = w.members.del(memberKey(e))
	w.named = w.named.del(nameKey(e))
	w.countHops(net, e.ways, -1)
	if e.IsRemote() {
		for _, a := range e.addrs {
			w.remotes = w.remotes.del(remoteKey(net, a.Addr(), e.Sequence))
		}
	} else {
		for _, a := range e.addrs {
			w.addrs = w.addrs.del(addrKey(net, a.Addr()))
		}
		w.macs = w.macs.del(macKey(net, e.mac))
	}
	w.settleRemotes(e)
	w.unpublishAll(e.claims())
}

func (w *World) dropEndpoint(e *Endpoint, now time.Time) {
	w.unindexEndpoint(e)
	w.endpoints = w.endpoints.del(e.Doc.Id)
	w.replug(e.Doc.Id)
	w.reserve(e)
	for _, r := range e.ACLs {
		w.unrefACL(r)
	}
	for _, r := range e.NATPools {
		w.unrefNATPool(r)
	}
	if !e.IsRemote() {
		w.free(portNumbers, uint32(e.Port))
		w.sweep(now)
		for _, a := range e.addrs {
			w.released = w.released.set(addrKey(e.Doc.HostComputeNetwork, a.Addr()), now)
		}
	}
	w.changed(Endpoints, e.Doc.Id, nil)
}

// sweep forgets who left the quarantine, at most once in its length.
func (w *World) sweep(now time.Time) {
	if now.Before(w.sweepAt) {
		return
	}
	w.sweepAt = now.Add(ipam.Quarantine)
	for k, at := range w.released.all {
		if now.Sub(at) >= ipam.Quarantine {
			w.released = w.released.del(k)
		}
	}
}
