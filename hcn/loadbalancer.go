// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

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
