// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"encoding/json"

	"github.com/Microsoft/go-winio/pkg/guid"
)

// IpConfig is one address of an endpoint. PrefixLength 0 is taken from the subnet.
type IpConfig struct {
	IpAddress    string `json:",omitempty"`
	PrefixLength uint8  `json:",omitempty"`
}

// EndpointFlags modify an endpoint.
type EndpointFlags uint32

var (
	// EndpointFlagsNone is a local endpoint.
	EndpointFlagsNone EndpointFlags
	// EndpointFlagsRemoteEndpoint stands for something on another host.
	EndpointFlagsRemoteEndpoint EndpointFlags = 1
)

// HostComputeEndpoint is the address set of one vNIC on one network.
type HostComputeEndpoint struct {
	Id                   string           `json:"ID,omitempty"`
	Name                 string           `json:",omitempty"` // need not be unique
	HostComputeNetwork   string           `json:",omitempty"` // GUID
	HostComputeNamespace string           `json:",omitempty"` // GUID; where it is attached
	Policies             []EndpointPolicy `json:",omitempty"`
	IpConfigurations     []IpConfig       `json:",omitempty"` // empty = one per subnet family from the pool
	Dns                  Dns              `json:",omitempty"`
	Routes               []Route          `json:",omitempty"` // empty = the subnets' default routes
	MacAddress           string           `json:",omitempty"` // empty = next of the pool
	Flags                EndpointFlags    `json:",omitempty"`
	Health               Health           `json:",omitempty"`
	SchemaVersion        SchemaVersion    `json:",omitempty"`
}

// EndpointResourceType names what an endpoint modify request is about.
type EndpointResourceType string

var (
	// EndpointResourceTypePolicy is for the endpoint's policies.
	EndpointResourceTypePolicy EndpointResourceType = "Policy"
	// EndpointResourceTypePort is for its port on a virtual machine.
	EndpointResourceTypePort EndpointResourceType = "Port"
)

// ModifyEndpointSettingRequest is the body of an endpoint modify.
type ModifyEndpointSettingRequest struct {
	ResourceType EndpointResourceType `json:",omitempty"`
	RequestType  RequestType          `json:",omitempty"`
	Settings     json.RawMessage      `json:",omitempty"`
}

// VmEndpointRequest is the Settings of an endpoint modify of type Port.
type VmEndpointRequest struct {
	PortId           guid.GUID `json:",omitempty"`
	VirtualNicName   string    `json:",omitempty"`
	VirtualMachineId guid.GUID `json:",omitempty"`
}

// PolicyEndpointRequest is the Settings of an endpoint modify of type Policy.
type PolicyEndpointRequest struct {
	Policies []EndpointPolicy `json:",omitempty"`
}
