// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// EndpointStats are the counters of one endpoint, seen from the endpoint. They
// survive a restart of the daemon and start at 0 with each new InstanceId.
type EndpointStats struct {
	EndpointId             string
	InstanceId             string
	BytesReceived          uint64
	BytesSent              uint64
	PacketsReceived        uint64
	PacketsSent            uint64
	DroppedPacketsIncoming uint64
	DroppedPacketsOutgoing uint64
}

// Graph is what a drawing of the host's networks shows.
type Graph struct {
	Revision uint64
	Uplinks  []GraphUplink  `json:",omitempty"`
	Networks []GraphNetwork `json:",omitempty"`
	// Services are services and load balancers.
	Services []GraphService     `json:",omitempty"`
	Reserved []GraphReservation `json:",omitempty"`
}

// GraphService is a service or a load balancer with what is behind it.
type GraphService struct {
	Kind      string // "services", "loadbalancers"
	ID        string
	Name      string   `json:",omitempty"`
	Type      string   `json:",omitempty"` // of a service
	Frontends []string `json:",omitempty"` // address:port/protocol
	Backends  []string `json:",omitempty"` // endpoints by name, else by id
	External  string   `json:",omitempty"` // name that an ExternalName stands for
}

// GraphReservation is a range of ports of the host that is kept.
type GraphReservation struct {
	ID           string
	Name         string `json:",omitempty"`
	Owner        string `json:",omitempty"`
	Protocol     uint32 // 1 TCP, 2 UDP, 3 both
	StartingPort uint16
	EndingPort   uint16
}

// GraphUplink is a host interface that traffic may leave by.
type GraphUplink struct {
	Name      string
	Addresses []string `json:",omitempty"`
}

// GraphNetwork is one network, its switch and its ports.
type GraphNetwork struct {
	ID        string
	Name      string
	Type      NetworkType
	Owner     string          `json:",omitempty"`
	Subnets   []GraphSubnet   `json:",omitempty"`
	HostNIC   string          `json:",omitempty"` // device that carries the gateway addresses
	HostPort  uint16          `json:",omitempty"` // its port on the switch
	Outbound  bool            // traffic may leave by the uplinks, source-NATed
	Uplink    string          `json:",omitempty"` // interface of the host that it is bound to
	VXLANPort uint16          `json:",omitempty"` // of an overlay: its UDP port
	Endpoints []GraphEndpoint `json:",omitempty"`
}

// GraphSubnet is one prefix with its gateway and how full it is.
type GraphSubnet struct {
	Prefix  string
	Gateway string `json:",omitempty"`
	VSID    uint32 `json:",omitempty"` // of an overlay
	Used    int
}

// GraphEndpoint is what is plugged into one port.
type GraphEndpoint struct {
	ID        string
	Name      string   `json:",omitempty"`
	Namespace string   `json:",omitempty"`
	Container []string `json:",omitempty"` // ids of compute systems in the namespace
	Port      uint16
	Device    string   `json:",omitempty"` // host side
	Interface string   `json:",omitempty"` // inside the namespace
	MAC       string   `json:",omitempty"`
	Addresses []string `json:",omitempty"`
	State     uint16
	Published []GraphPublished `json:",omitempty"`
}

// GraphPublished is one published port.
type GraphPublished struct {
	Protocol uint32 // 6, 17, 132
	Address  string `json:",omitempty"` // empty = every host address
	Port     uint16
	To       uint16
}

// Holder says who has an address, a MAC or a port.
type Holder struct {
	What     string // "address", "gateway", "mac", "nat address", "port", "subnet"
	Value    string
	Kind     string // networks, endpoints, loadbalancers, ports, services
	ID       string
	Name     string `json:",omitempty"`
	Network  string `json:",omitempty"` // name or GUID
	Owner    string `json:",omitempty"`
	Since    time.Time
	Attached string `json:",omitempty"` // namespace GUID
}

// PortHolder is one published or reserved port of the host.
type PortHolder struct {
	ID       string // endpoint GUID
	Name     string `json:",omitempty"`
	Protocol uint8
	Address  string `json:",omitempty"` // empty = every host address
	Port     uint16
	Target   string // address:port inside
}

// Stats returns the counters of a local endpoint, seen from the endpoint.
func (c *Client) Stats(ctx context.Context, endpointID string) (EndpointStats, error) {
	var out EndpointStats
	return out, c.Call(ctx, "hcnQueryEndpointStats", "GET", endpoints.item(endpointID)+"/stats", nil, &out)
}

// Graph returns the host's networks with what hangs on them.
func (c *Client) Graph(ctx context.Context) (Graph, error) {
	var out Graph
	return out, c.Call(ctx, "hcnQueryGraph", "GET", "/host/v1/graph", nil, &out)
}

// Who returns the holders of an address, a MAC or a published port ("8080", "8080/udp").
func (c *Client) Who(ctx context.Context, query string) ([]Holder, error) {
	var out []Holder
	return out, c.Call(ctx, "hcnQueryWho", "GET", "/host/v1/who?q="+url.QueryEscape(query), nil, &out)
}

// Ports returns every published and reserved port of the host.
func (c *Client) Ports(ctx context.Context) ([]PortHolder, error) {
	var out []PortHolder
	return out, c.Call(ctx, "hcnQueryPorts", "GET", "/host/v1/ports", nil, &out)
}

// Revision of the store: Events since it miss nothing that a list taken afterwards
// lacks.
func (c *Client) Revision(ctx context.Context) (uint64, error) {
	resp, err := c.do(ctx, "hcnQueryRevision", http.MethodGet, "/globals/version", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return strconv.ParseUint(resp.Header.Get("Gatehouse-Revision"), 10, 64)
}
