// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"slices"
	"strings"
)

// LoadBalancerPortMapping is one frontend of a load balancer.
type LoadBalancerPortMapping struct {
	Protocol         uint32                       `json:",omitempty"` // 6, 17, 132; 0 = TCP and UDP
	InternalPort     uint16                       `json:",omitempty"` // 0 = keep the destination port
	ExternalPort     uint16                       `json:",omitempty"`
	DistributionType LoadBalancerDistribution     `json:",omitempty"`
	Flags            LoadBalancerPortMappingFlags `json:",omitempty"`
}

// HostComputeLoadBalancer spreads connections to frontends over endpoints.
type HostComputeLoadBalancer struct {
	Id                   string                    `json:"ID,omitempty"`
	HostComputeEndpoints []string                  `json:",omitempty"`
	SourceVIP            string                    `json:",omitempty"`
	FrontendVIPs         []string                  `json:",omitempty"` // empty = every host address
	PortMappings         []LoadBalancerPortMapping `json:",omitempty"`
	SchemaVersion        SchemaVersion             `json:",omitempty"`
	Flags                LoadBalancerFlags         `json:",omitempty"`
}

// LoadBalancerFlags modify a load balancer.
type LoadBalancerFlags uint32

var (
	// LoadBalancerFlagsNone is the default.
	LoadBalancerFlagsNone LoadBalancerFlags
	// LoadBalancerFlagsDSR is direct server return.
	LoadBalancerFlagsDSR LoadBalancerFlags = 1
	// LoadBalancerFlagsIPv6 is a load balancer of family IPv6.
	LoadBalancerFlagsIPv6 LoadBalancerFlags = 2
)

// LoadBalancerPortMappingFlags modify a port mapping.
type LoadBalancerPortMappingFlags uint32

var (
	// LoadBalancerPortMappingFlagsNone is the default.
	LoadBalancerPortMappingFlagsNone LoadBalancerPortMappingFlags
	// LoadBalancerPortMappingFlagsILB serves clients on this host's endpoints only.
	LoadBalancerPortMappingFlagsILB LoadBalancerPortMappingFlags = 1
	// LoadBalancerPortMappingFlagsLocalRoutedVIP makes the VIP reachable from the host itself.
	LoadBalancerPortMappingFlagsLocalRoutedVIP LoadBalancerPortMappingFlags = 2
	// LoadBalancerPortMappingFlagsUseMux is DSR for a VIP that an outside mux forwards.
	LoadBalancerPortMappingFlagsUseMux LoadBalancerPortMappingFlags = 4
	// LoadBalancerPortMappingFlagsPreserveDIP keeps the VIP as destination at the backend.
	LoadBalancerPortMappingFlagsPreserveDIP LoadBalancerPortMappingFlags = 8
)

// LoadBalancerDistribution says what a backend is chosen by.
type LoadBalancerDistribution uint32

var (
	// LoadBalancerDistributionNone chooses by the five-tuple.
	LoadBalancerDistributionNone LoadBalancerDistribution
	// LoadBalancerDistributionSourceIPProtocol chooses by client address and protocol.
	LoadBalancerDistributionSourceIPProtocol LoadBalancerDistribution = 1
	// LoadBalancerDistributionSourceIP chooses by client address.
	LoadBalancerDistributionSourceIP LoadBalancerDistribution = 2
)

// ListLoadBalancers returns all load balancers.
func ListLoadBalancers() ([]HostComputeLoadBalancer, error) {
	return ListLoadBalancersQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion()})
}

// ListLoadBalancersQuery returns what the query selects.
func ListLoadBalancersQuery(query HostComputeQuery) ([]HostComputeLoadBalancer, error) {
	return DefaultClient.ListLoadBalancers(context.Background(), query)
}

// GetLoadBalancerByID returns the load balancer with that id, or a LoadBalancerNotFoundError.
func GetLoadBalancerByID(loadBalancerID string) (*HostComputeLoadBalancer, error) {
	return loadBalancers.find(context.Background(), DefaultClient, "ID", loadBalancerID)
}

// Create makes the load balancer.
func (loadBalancer *HostComputeLoadBalancer) Create() (*HostComputeLoadBalancer, error) {
	return DefaultClient.CreateLoadBalancer(context.Background(), loadBalancer)
}

// Update replaces the load balancer with that id by this document, whose own id does
// not matter.
func (loadBalancer *HostComputeLoadBalancer) Update(hnsLoadbalancerID string) (*HostComputeLoadBalancer, error) {
	if !isGUID(hnsLoadbalancerID) {
		return nil, errLoadBalancerID
	}
	return DefaultClient.UpdateLoadBalancer(context.Background(), hnsLoadbalancerID, loadBalancer)
}

// Delete deletes the load balancer.
func (loadBalancer *HostComputeLoadBalancer) Delete() error {
	if !isGUID(loadBalancer.Id) {
		return errLoadBalancerID
	}
	return DefaultClient.DeleteLoadBalancer(context.Background(), loadBalancer.Id)
}

// AddEndpoint adds a backend to the document and has the load balancer be what the
// document then says. It keeps its id and serves all the while.
func (loadBalancer *HostComputeLoadBalancer) AddEndpoint(endpoint *HostComputeEndpoint) (*HostComputeLoadBalancer, error) {
	return loadBalancer.with(plus(loadBalancer.HostComputeEndpoints, endpoint.Id))
}

// RemoveEndpoint removes a backend in the same way.
func (loadBalancer *HostComputeLoadBalancer) RemoveEndpoint(endpoint *HostComputeEndpoint) (*HostComputeLoadBalancer, error) {
	return loadBalancer.with(minus(loadBalancer.HostComputeEndpoints, endpoint.Id))
}

func (loadBalancer *HostComputeLoadBalancer) with(endpoints []string) (*HostComputeLoadBalancer, error) {
	next := *loadBalancer
	next.HostComputeEndpoints = endpoints
	out, err := next.Update(next.Id)
	if err == nil {
		loadBalancer.HostComputeEndpoints = endpoints
	}
	return out, err
}

// plus returns a list with an id, minus one without it; the service writes ids of
// backends in capitals and all others small.
func plus(ids []string, id string) []string { return append(minus(ids, id), id) }

func minus(ids []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(s string) bool { return strings.EqualFold(s, id) })
}

// AddLoadBalancer makes a load balancer with one port mapping.
func AddLoadBalancer(endpoints []HostComputeEndpoint, flags LoadBalancerFlags, portMappingFlags LoadBalancerPortMappingFlags, sourceVIP string, frontendVIPs []string, protocol uint16, internalPort uint16, externalPort uint16) (*HostComputeLoadBalancer, error) {
	return (&HostComputeLoadBalancer{
		HostComputeEndpoints: idsOf(endpoints),
		SourceVIP:            sourceVIP,
		FrontendVIPs:         frontendVIPs,
		PortMappings: []LoadBalancerPortMapping{{
			Protocol: uint32(protocol), InternalPort: internalPort, ExternalPort: externalPort, Flags: portMappingFlags,
		}},
		SchemaVersion: V2SchemaVersion(),
		Flags:         flags,
	}).Create()
}

func idsOf(endpoints []HostComputeEndpoint) []string {
	var ids []string
	for _, e := range endpoints {
		ids = append(ids, e.Id)
	}
	return ids
}
