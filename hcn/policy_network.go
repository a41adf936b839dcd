// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

//lint:file-ignore SA5008 the tags are those of the package for Windows

// SourceMacAddressNetworkPolicySetting is the MAC used on the uplink.
type SourceMacAddressNetworkPolicySetting struct {
	SourceMacAddress string `json:",omitempty"`
}

// NetAdapterNameNetworkPolicySetting binds a network to a host interface.
type NetAdapterNameNetworkPolicySetting struct {
	NetworkAdapterName string `json:",omitempty"`
}

// VSwitchExtensionNetworkPolicySetting is stored without effect.
type VSwitchExtensionNetworkPolicySetting struct {
	ExtensionID string `json:",omitempty"`
	Enable      bool   `json:",omitempty"`
}

// DrMacAddressNetworkPolicySetting is the MAC of this host's distributed router.
type DrMacAddressNetworkPolicySetting struct {
	Address string `json:",omitempty"`
}

// AutomaticDNSNetworkPolicySetting gives endpoints the host's resolvers.
type AutomaticDNSNetworkPolicySetting struct {
	Enable bool `json:",omitempty"`
}

// LayerConstraintNetworkPolicySetting binds to an uplink layer.
type LayerConstraintNetworkPolicySetting struct {
	LayerId string `json:",omitempty"`
}

// RemoteSubnetRoutePolicySetting sends a prefix to another host of an overlay.
type RemoteSubnetRoutePolicySetting struct {
	DestinationPrefix           string
	IsolationId                 uint16
	ProviderAddress             string
	DistributedRouterMacAddress string
}

// VxlanPortPolicySetting is the UDP port of this host's overlay.
type VxlanPortPolicySetting struct {
	Port uint16
}

// ProviderAddressNetworkPolicySetting is in the older package only.
type ProviderAddressNetworkPolicySetting struct {
	ProviderAddress string `json:",omitempty"`
}

// SetPolicyType says what the values of a set are.
type SetPolicyType string

// Set types.
const (
	SetPolicyTypeIpSet       SetPolicyType = "IPSET"       // addresses and prefixes
	SetPolicyTypeNestedIpSet SetPolicyType = "NESTEDIPSET" // ids of other sets
)

// SetPolicySetting is a named address set for ACLs.
type SetPolicySetting struct {
	Id     string
	Name   string
	Type   SetPolicyType `json:"PolicyType"`
	Values string
}

// L4ProxyPolicySetting sends new flows to a proxy.
type L4ProxyPolicySetting struct {
	IP          string       `json:",omitempty"`
	Port        string       `json:",omitempty"`
	Protocol    ProtocolType `json:",omitempty"`
	Exceptions  []string     `json:",omitempty"`
	Destination string
	OutboundNAT bool `json:",omitempty"`
}

// NetworkACLPolicySetting is an ACL on every endpoint of the network.
type NetworkACLPolicySetting struct {
	Protocols       string        `json:",omitempty"`
	Action          ActionType    `json:","`
	Direction       DirectionType `json:","`
	LocalAddresses  string        `json:",omitempty"`
	RemoteAddresses string        `json:",omitempty"`
	LocalPorts      string        `json:",omitempty"`
	RemotePorts     string        `json:",omitempty"`
	RuleType        RuleType      `json:",omitempty"`
	Priority        uint16        `json:",omitempty"`
}

// VlanPolicySetting tags a subnet's frames on the uplink, 1 to 4094.
type VlanPolicySetting struct {
	IsolationId uint32 `json:","`
}

// VsidPolicySetting is a subnet's VXLAN network identifier.
type VsidPolicySetting struct {
	IsolationId uint32 `json:","`
}
