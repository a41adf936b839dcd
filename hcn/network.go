// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "encoding/json"

// Route is associated with a subnet or an endpoint.
type Route struct {
	NextHop           string `json:",omitempty"` // empty on an on-link route
	DestinationPrefix string `json:",omitempty"` // CIDR; host bits are allowed and masked
	Metric            uint16 `json:",omitempty"` // 0 = automatic
}

// Subnet is an address range of a network. An empty prefix lets the service
// choose (NAT, Internal, ICS only).
type Subnet struct {
	IpAddressPrefix string            `json:",omitempty"`
	Policies        []json.RawMessage `json:",omitempty"` // each a SubnetPolicy
	Routes          []Route           `json:",omitempty"` // the default route's NextHop is the gateway
	Flags           SubnetFlags       `json:",omitempty"`
}

// Ipam is a set of subnets and how addresses are given out: Static (default) or Dhcp.
type Ipam struct {
	Type    string   `json:",omitempty"`
	Subnets []Subnet `json:",omitempty"`
}

// MacRange is inclusive at both ends, within one vendor prefix.
type MacRange struct {
	StartMacAddress string `json:",omitempty"`
	EndMacAddress   string `json:",omitempty"`
}

// MacPool is what MAC addresses of endpoints come from.
type MacPool struct {
	Ranges []MacRange `json:",omitempty"`
}

// Dns (Domain Name System) settings of a network or an endpoint.
type Dns struct {
	Domain     string   `json:",omitempty"`
	Search     []string `json:",omitempty"`
	ServerList []string `json:",omitempty"`
	Options    []string `json:",omitempty"`
}

// NetworkType says what a network connects.
type NetworkType string

// Network types.
const (
	NAT         NetworkType = "NAT"
	Transparent NetworkType = "Transparent"
	L2Bridge    NetworkType = "L2Bridge"
	L2Tunnel    NetworkType = "L2Tunnel"
	ICS         NetworkType = "ICS"
	Private     NetworkType = "Private"
	Overlay     NetworkType = "Overlay"
)

// Internal is in the schema, not in the Windows Go package: as NAT, without a way out.
const Internal NetworkType = "Internal"

// NetworkFlags modify a network.
type NetworkFlags uint32

// Network flags that have Go names on Windows.
const (
	None                NetworkFlags = 0
	EnableNonPersistent NetworkFlags = 8
	DisableHostPort     NetworkFlags = 1024
	EnableIov           NetworkFlags = 8192
)

// SubnetFlags modify a subnet.
type SubnetFlags uint32

// Subnet flags.
const (
	SubnetFlagsNone                       SubnetFlags = 0
	SubnetFlagsDoNotReserveGatewayAddress SubnetFlags = 1
)

// HostComputeNetwork is an address space and its switch.
type HostComputeNetwork struct {
	Id            string          `json:"ID,omitempty"`
	Name          string          `json:",omitempty"` // unique among networks; may be empty
	Type          NetworkType     `json:",omitempty"` // empty = NAT
	Policies      []NetworkPolicy `json:",omitempty"`
	MacPool       MacPool         `json:",omitempty"`
	Dns           Dns             `json:",omitempty"` // inherited by endpoints without their own
	Ipams         []Ipam          `json:",omitempty"`
	Flags         NetworkFlags    `json:",omitempty"`
	Health        Health          `json:",omitempty"`
	SchemaVersion SchemaVersion   `json:",omitempty"`
}

// NetworkResourceType names what a network modify request is about.
type NetworkResourceType string

var (
	// NetworkResourceTypePolicy is for the network's policies.
	NetworkResourceTypePolicy NetworkResourceType = "Policy"
	// NetworkResourceTypeDNS is for its Dns document.
	NetworkResourceTypeDNS NetworkResourceType = "DNS"
	// NetworkResourceTypeExtension is for its switch extensions.
	NetworkResourceTypeExtension NetworkResourceType = "Extension"
)

// ModifyNetworkSettingRequest is the body of a network modify.
type ModifyNetworkSettingRequest struct {
	ResourceType NetworkResourceType `json:",omitempty"`
	RequestType  RequestType         `json:",omitempty"`
	Settings     json.RawMessage     `json:",omitempty"`
}

// PolicyNetworkRequest is the Settings of a network modify of type Policy.
type PolicyNetworkRequest struct {
	Policies []NetworkPolicy `json:",omitempty"`
}
