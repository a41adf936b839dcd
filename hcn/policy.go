// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "encoding/json"

// EndpointPolicyType names a policy of an endpoint.
type EndpointPolicyType string

// Policies of endpoints.
const (
	PortMapping                EndpointPolicyType = "PortMapping"
	ACL                        EndpointPolicyType = "ACL"
	QOS                        EndpointPolicyType = "QOS"
	L2Driver                   EndpointPolicyType = "L2Driver"
	OutBoundNAT                EndpointPolicyType = "OutBoundNAT"
	SDNRoute                   EndpointPolicyType = "SDNRoute"
	L4Proxy                    EndpointPolicyType = "L4Proxy"
	L4WFPPROXY                 EndpointPolicyType = "L4WFPPROXY"
	PortName                   EndpointPolicyType = "PortName"
	EncapOverhead              EndpointPolicyType = "EncapOverhead"
	IOV                        EndpointPolicyType = "Iov"
	NetworkProviderAddress     EndpointPolicyType = "ProviderAddress"
	NetworkInterfaceConstraint EndpointPolicyType = "InterfaceConstraint"
	TierAcl                    EndpointPolicyType = "TierAcl"
)

// EndpointPolicy is one policy of an endpoint.
type EndpointPolicy struct {
	Type     EndpointPolicyType `json:""`
	Settings json.RawMessage    `json:",omitempty"`
}

// NetworkPolicyType names a policy of a network.
type NetworkPolicyType string

// Policies of networks.
const (
	SourceMacAddress    NetworkPolicyType = "SourceMacAddress"
	NetAdapterName      NetworkPolicyType = "NetAdapterName"
	VSwitchExtension    NetworkPolicyType = "VSwitchExtension"
	DrMacAddress        NetworkPolicyType = "DrMacAddress"
	AutomaticDNS        NetworkPolicyType = "AutomaticDNS"
	InterfaceConstraint NetworkPolicyType = "InterfaceConstraint"
	ProviderAddress     NetworkPolicyType = "ProviderAddress"
	RemoteSubnetRoute   NetworkPolicyType = "RemoteSubnetRoute"
	VxlanPort           NetworkPolicyType = "VxlanPort"
	HostRoute           NetworkPolicyType = "HostRoute"
	SetPolicy           NetworkPolicyType = "SetPolicy"
	NetworkL4Proxy      NetworkPolicyType = "L4Proxy"
	LayerConstraint     NetworkPolicyType = "LayerConstraint"
	NetworkACL          NetworkPolicyType = "NetworkACL"
)

// NetworkPolicy is one policy of a network.
type NetworkPolicy struct {
	Type     NetworkPolicyType `json:""`
	Settings json.RawMessage   `json:",omitempty"`
}

// SubnetPolicyType names a policy of a subnet.
type SubnetPolicyType string

// Policies of subnets.
const (
	VLAN SubnetPolicyType = "VLAN"
	VSID SubnetPolicyType = "VSID"
)

// SubnetPolicy is one policy of a subnet.
type SubnetPolicy struct {
	Type     SubnetPolicyType `json:""`
	Settings json.RawMessage  `json:",omitempty"`
}

// NatFlags modify a PortMapping or OutBoundNAT policy.
type NatFlags uint32

// NAT flags. PowerShell also has 4, ExternalPortReserved.
const (
	NatFlagsNone           NatFlags = 0
	NatFlagsLocalRoutedVip NatFlags = 1
	NatFlagsIPv6           NatFlags = 2
)

// ActionType is what a rule does with a packet.
type ActionType string

// Actions.
const (
	ActionTypeAllow ActionType = "Allow"
	ActionTypeBlock ActionType = "Block"
	ActionTypePass  ActionType = "Pass" // the next tier decides
)

// DirectionType is seen from the endpoint.
type DirectionType string

// Directions.
const (
	DirectionTypeIn  DirectionType = "In"
	DirectionTypeOut DirectionType = "Out"
)

// RuleType says where a rule is evaluated.
type RuleType string

// Rule types.
const (
	RuleTypeHost   RuleType = "Host"   // in the receiving stack
	RuleTypeSwitch RuleType = "Switch" // at the port of the vSwitch
)

// ProtocolType is an IP protocol number.
type ProtocolType uint32

// Protocols that have names. IANA "Assigned Internet Protocol Numbers".
const (
	ProtocolTypeUnknown ProtocolType = 0
	ProtocolTypeICMPv4  ProtocolType = 1
	ProtocolTypeIGMP    ProtocolType = 2
	ProtocolTypeTCP     ProtocolType = 6
	ProtocolTypeUDP     ProtocolType = 17
	ProtocolTypeICMPv6  ProtocolType = 58
)
