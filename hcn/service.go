// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"net/http"
)

// ServiceType says who reaches a Service, and how.
type ServiceType string

// Types of services.
const (
	// ServiceClusterIP has addresses that endpoints and processes of the host ask.
	ServiceClusterIP ServiceType = "ClusterIP"
	// ServiceNodePort is asked at ports of the host's addresses, too.
	ServiceNodePort ServiceType = "NodePort"
	// ServiceLoadBalancer has addresses besides that neighbours of the host ask.
	ServiceLoadBalancer ServiceType = "LoadBalancer"
	// ServiceExternalName is another name for a name outside.
	ServiceExternalName ServiceType = "ExternalName"
)

// TrafficPolicy says which backends a client gets.
type TrafficPolicy string

// Policies.
const (
	TrafficCluster TrafficPolicy = "Cluster" // any; the default
	TrafficLocal   TrafficPolicy = "Local"   // those of this host
)

// Headless stands alone in ClusterIPs of a service that has no address: its name
// resolves to its backends.
const Headless = "None"

// Service is a name with addresses that spreads what it is asked over backends. It
// is not of the schema of Windows.
type Service struct {
	ID    string `json:",omitempty"`
	Name  string // a DNS name; no two services have the same
	Owner string `json:",omitempty"`
	Type  ServiceType
	// ClusterIPs: one of each family at most; none = chosen. [Headless] = none at all.
	ClusterIPs []string `json:",omitempty"`
	// LoadBalancerIPs: one of each family at most; none = chosen.
	LoadBalancerIPs []string `json:",omitempty"`
	// NodeAddresses of the host at which node ports are asked; none = all.
	NodeAddresses []string      `json:",omitempty"`
	ExternalName  string        `json:",omitempty"`
	Ports         []ServicePort `json:",omitempty"`
	// Backends are endpoints by id, or by name: who bears it now or later, a
	// container among them.
	Backends []string `json:",omitempty"`
	// Draining are those of Backends that keep their TCP connections and get nothing new.
	Draining []string `json:",omitempty"`
	// AffinitySeconds that a client stays with its backend; 0 = not at all.
	AffinitySeconds uint32 `json:",omitempty"`
	// ExternalPolicy is for clients outside, InternalPolicy for endpoints and the host.
	ExternalPolicy TrafficPolicy `json:",omitempty"`
	InternalPolicy TrafficPolicy `json:",omitempty"`
	Version        uint64        `json:",omitempty"`
	// Endpoints are the backends of the moment; set by the service only.
	Endpoints []ServiceEndpoint `json:",omitempty"`
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name       string `json:",omitempty"` // no two alike
	Protocol   string `json:",omitempty"` // TCP, which is the default, UDP or SCTP
	Port       uint16
	TargetPort uint16 `json:",omitempty"` // of the backends; 0 = Port
	NodePort   uint16 `json:",omitempty"` // of the host; 0 = chosen where the type has one
}

// ServiceEndpoint is a backend of the moment.
type ServiceEndpoint struct {
	ID        string
	Name      string   `json:",omitempty"`
	Addresses []string `json:",omitempty"`
	State     string   // "Active", "Draining", "NotAttached": it is plugged in nowhere and gets nothing
}

var services = kind[Service]{"services", "Service", "Services", E_ELEMENT_NOT_FOUND,
	func(id, name string) error { return ServiceNotFoundError{Service: id + name} }, nil}

// ServiceNotFoundError is the answer where there is no such service.
type ServiceNotFoundError struct{ Service string }

func (e ServiceNotFoundError) Error() string {
	return "service " + e.Service + " was not found; list with: gatehouse service ls"
}

// ListServices returns what the query selects; the zero query selects all.
func (c *Client) ListServices(ctx context.Context, q HostComputeQuery) ([]Service, error) {
	return services.list(ctx, c, q)
}

// Service returns the service with that id, or "name:" and a name, or a ServiceNotFoundError.
func (c *Client) Service(ctx context.Context, id string) (*Service, error) {
	return services.get(ctx, c, id)
}

// CreateService makes a service and returns it with what was chosen. Addresses and
// ports that somebody has are refused with HCN_E_PORT_ALREADY_EXISTS and his name.
func (c *Client) CreateService(ctx context.Context, s *Service) (*Service, error) {
	return services.create(ctx, c, s)
}

// UpdateService replaces a service, which keeps what the document leaves to be chosen.
func (c *Client) UpdateService(ctx context.Context, id string, s *Service) (*Service, error) {
	var out Service
	if err := c.Call(ctx, "hcnModifyService", http.MethodPut, services.item(id), s, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// ChangeBackends adds backends to a service (RequestTypeAdd) or removes them: then
// they get nothing more and their conversations end.
func (c *Client) ChangeBackends(ctx context.Context, id string, t RequestType, backends ...string) (*Service, error) {
	return c.changeService(ctx, id, t, Service{Backends: backends})
}

// DrainBackends lets backends of a service keep their TCP connections and get nothing
// new, until ChangeBackends adds them again.
func (c *Client) DrainBackends(ctx context.Context, id string, backends ...string) (*Service, error) {
	return c.changeService(ctx, id, RequestTypeAdd, Service{Draining: backends})
}

func (c *Client) changeService(ctx context.Context, id string, t RequestType, change Service) (*Service, error) {
	var out Service
	body := struct {
		RequestType RequestType
		Settings    Service
	}{t, change}
	if err := c.Call(ctx, "hcnModifyService", http.MethodPost, services.item(id)+"/modify", body, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// DeleteService removes a service.
func (c *Client) DeleteService(ctx context.Context, id string) error {
	return services.delete(ctx, c, id)
}
