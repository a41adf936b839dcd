// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// EndpointStats returns the counters of a local endpoint, seen from the endpoint.
func (h *HNS) EndpointStats(_ context.Context, ref string) (hcn.EndpointStats, error) {
	e, err := h.World().ResolveEndpoint(ref)
	if err != nil {
		return hcn.EndpointStats{}, wrap("endpoint statistics", err)
	}
	if e.IsRemote() {
		return hcn.EndpointStats{}, wrap("endpoint statistics", &model.Error{Code: hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION,
			Text: fmt.Sprintf("endpoint %s is on another host, which counts for it", e.Doc.Id)})
	}
	s := hcn.EndpointStats{
		EndpointId: e.Doc.Id,
		InstanceId: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s %d", e.Doc.Id, e.Instance)).String(),
	}
	if h.o.Stats == nil || e.Doc.HostComputeNamespace == "" {
		return s, nil
	}
	c, err := h.o.Stats(e.Port)
	if err != nil {
		return s, wrap("endpoint statistics", &stepError{&model.Error{Code: hcn.HCN_E_PORT_NOT_FOUND, Text: err.Error()}, err})
	}
	s.BytesReceived, s.PacketsReceived, s.DroppedPacketsIncoming = c.RxBytes, c.RxPackets, c.RxDrops
	s.BytesSent, s.PacketsSent, s.DroppedPacketsOutgoing = c.TxBytes, c.TxPackets, c.TxDrops
	return s, nil
}

// PortName is what is plugged into a port of the switch.
type PortName struct {
	Kind       string // "endpoint", "host" (the vNIC of a network), "uplink", "resolver"
	ID         string // GUID of the endpoint or network
	Name       string // of the endpoint, network or device
	Network    string // "" of uplinks
	Containers []string
}

// String is "endpoint web", "host of nat", "uplink eth0".
func (p PortName) String() string {
	name := p.Name
	if name == "" {
		name = p.ID
	}
	if p.Kind == "host" {
		return "host of " + name
	}
	return p.Kind + " " + name
}

// PortNames are all ports of the moment.
func (h *HNS) PortNames() map[vswitch.PortID]PortName {
	w := h.World()
	names := map[vswitch.PortID]PortName{model.ResolverPort: {Kind: "resolver", Name: "dns"}}
	for _, n := range w.AllNetworks() {
		if n.HostPort != 0 {
			names[n.HostPort] = PortName{Kind: "host", ID: n.Doc.Id, Name: n.Doc.Name, Network: n.Doc.Name}
		}
	}
	for _, e := range w.AllEndpoints() {
		if !e.Attached() {
			continue
		}
		p := PortName{Kind: "endpoint", ID: e.Doc.Id, Name: e.Doc.Name}
		if n, ok := w.Network(e.Doc.HostComputeNetwork); ok {
			p.Network = n.Doc.Name
		}
		if ns, ok := w.Namespace(e.Doc.HostComputeNamespace); ok {
			p.Containers = ns.Containers
		}
		names[e.Port] = p
	}
	if t := h.tables.Load(); t != nil {
		for _, u := range t.Uplinks {
			names[u.Port] = PortName{Kind: "uplink", Name: u.Name}
		}
	}
	return names
}

// PortsOf are the ports of the endpoints meant by ref: an endpoint, an address, or
// a container. It is an error if none of them is attached.
func (h *HNS) PortsOf(ref string) ([]vswitch.PortID, error) {
	es, err := h.World().Speakers(ref)
	if err != nil {
		return nil, err
	}
	var ports []vswitch.PortID
	for _, e := range es {
		if e.Attached() {
			ports = append(ports, e.Port)
		}
	}
	if len(ports) == 0 {
		return nil, &model.Error{Code: hcn.HCN_E_ENDPOINT_NOT_ATTACHED, Text: fmt.Sprintf("endpoint %s is not attached to a namespace: nothing passes", ref)}
	}
	return ports, nil
}

// Graph is what a drawing of the host's networks shows.
func (h *HNS) Graph(context.Context) (hcn.Graph, error) {
	g := h.World().Graph()
	g.Revision = h.o.Store.Revision()
	for _, u := range h.Facts().Uplinks {
		gu := hcn.GraphUplink{Name: u.Name}
		for _, a := range u.Addrs {
			gu.Addresses = append(gu.Addresses, a.String())
		}
		g.Uplinks = append(g.Uplinks, gu)
	}
	return g, nil
}

// Who says who holds an address, a MAC or a published port.
func (h *HNS) Who(_ context.Context, query string) ([]hcn.Holder, error) {
	return h.World().Who(query)
}

// PublishedPorts lists published ports with their holders.
func (h *HNS) PublishedPorts(context.Context) ([]hcn.PortHolder, error) {
	return h.World().PublishedPorts(), nil
}
