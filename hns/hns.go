// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hns holds the documents of the first version of the Windows host
// networking API (HNS), which programs written before HCN still send, and a client
// for their paths below /hns/v1. What they make is the same that package hcn shows.
//
// It moves documents; package hcn is the interface to write new programs against.
//
// Be aware:
//   - policies are flat objects with Type inside; one that v1 has no form for is
//     written {"Type":…,"Settings":{…}} as in package hcn, and read so, too.
//   - a POST to an endpoint replaces its policies by the list given, and nothing else.
package hns

import (
	"encoding/json"
	"net/netip"
)

// Network is HNSNetwork.
type Network struct {
	Id                   string            `json:"ID,omitempty"`
	Name                 string            `json:",omitempty"`
	Type                 string            `json:",omitempty"` // as hcn.NetworkType, in any case
	NetworkAdapterName   string            `json:",omitempty"`
	SourceMac            string            `json:",omitempty"`
	Policies             []json.RawMessage `json:",omitempty"`
	MacPools             []MacPool         `json:",omitempty"`
	Subnets              []Subnet          `json:",omitempty"`
	DNSSuffix            string            `json:",omitempty"` // separated by commas
	DNSServerList        string            `json:",omitempty"` // separated by commas
	DNSServerCompartment uint32            `json:",omitempty"` // kept, without effect
	ManagementIP         string            `json:",omitempty"` // asks for the uplink that has it; answered always where there is one
	AutomaticDNS         bool              `json:",omitempty"`
	Flags                uint32            `json:",omitempty"` // as hcn.NetworkFlags
	Extensions           []Extension       `json:",omitempty"`
}

// Subnet of a network.
type Subnet struct {
	AddressPrefix  string            `json:",omitempty"`
	GatewayAddress string            `json:",omitempty"`
	Policies       []json.RawMessage `json:",omitempty"`
}

// MacPool is a range of addresses, both ends included.
type MacPool struct {
	StartMacAddress string `json:",omitempty"`
	EndMacAddress   string `json:",omitempty"`
}

// Extension of a network's switch; stored, without effect.
type Extension struct {
	Id        string `json:",omitempty"`
	IsEnabled bool
}

// Endpoint is HNSEndpoint.
type Endpoint struct {
	Id                 string            `json:"ID,omitempty"`
	Name               string            `json:",omitempty"`
	VirtualNetwork     string            `json:",omitempty"` // id
	VirtualNetworkName string            `json:",omitempty"`
	Policies           []json.RawMessage `json:",omitempty"`
	MacAddress         string            `json:",omitempty"`
	IPAddress          netip.Addr        `json:",omitzero"`
	PrefixLength       uint8             `json:",omitempty"`
	IPv6Address        netip.Addr        `json:",omitzero"`
	IPv6PrefixLength   uint8             `json:",omitempty"`
	DNSSuffix          string            `json:",omitempty"`
	DNSServerList      string            `json:",omitempty"`
	DNSDomain          string            `json:",omitempty"`
	GatewayAddress     string            `json:",omitempty"`
	GatewayAddressV6   string            `json:",omitempty"`
	EnableInternalDNS  bool              `json:",omitempty"` // the resolver on the gateway, which serves anyway
	DisableICC         bool              `json:",omitempty"` // no traffic with other endpoints of the network
	IsRemoteEndpoint   bool              `json:",omitempty"`
	EnableLowMetric    bool              `json:",omitempty"`
	EncapOverhead      uint16            `json:",omitempty"`
	Namespace          *Namespace        `json:",omitempty"`
	SharedContainers   []string          `json:",omitempty"`
	State              uint16            `json:",omitempty"` // 1 created, 2 attached, 3 shared, 4 detached, 5 degraded
}

// AttachRequest is the body of endpoints/ID/attach and detach.
type AttachRequest struct {
	ContainerId    string `json:",omitempty"`
	SystemType     string // Container, VirtualMachine or Host
	CompartmentId  uint16 `json:",omitempty"` // number of a namespace; 1 = the host's own
	VirtualNicName string `json:",omitempty"`
}

// PolicyList is a load balancer (its policies are ELB) or an SDN route (ROUTE).
type PolicyList struct {
	ID         string            `json:",omitempty"`
	References []string          `json:",omitempty"` // /endpoints/<id>
	Policies   []json.RawMessage `json:",omitempty"`
}

// Namespace is a compartment.
type Namespace struct {
	ID            string
	IsDefault     bool       `json:",omitempty"`
	ResourceList  []Resource `json:",omitempty"`
	CompartmentId uint32     `json:",omitempty"`
}

// Resource of a namespace, and the body of addresource and removeresource.
type Resource struct {
	Type string // Endpoint or Container
	Data ResourceData
}

// ResourceData names what is attached.
type ResourceData struct{ Id string }

// MacList is the document of accelnet.
type MacList struct{ MacAddressList []MacEntry }

// MacEntry is one address of a MacList.
type MacEntry struct{ MacAddress string }
