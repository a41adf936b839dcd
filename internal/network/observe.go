// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// EndpointStats returns the counters of a local endpoint, seen from the endpoint.
func (h *HNS) EndpointStats(_ context.Context, ref string) (hcn.EndpointStats, error) {
	e, err := h.World().ResolveEndpoint(ref)
	if err != nil {
		return hcn.EndpointStats{}, wrap("endpoint statistics", err)
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
