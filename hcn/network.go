// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
)

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

// ListNetworks returns all networks.
func ListNetworks() ([]HostComputeNetwork, error) {
	return ListNetworksQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion()})
}

// ListNetworksQuery returns what the query selects.
func ListNetworksQuery(query HostComputeQuery) ([]HostComputeNetwork, error) {
	return DefaultClient.ListNetworks(context.Background(), query)
}

// GetNetworkByID returns the network with that id, or a NetworkNotFoundError.
func GetNetworkByID(networkID string) (*HostComputeNetwork, error) {
	return networks.find(context.Background(), DefaultClient, "ID", networkID)
}

// GetNetworkByName returns the network of that name, or a NetworkNotFoundError.
func GetNetworkByName(networkName string) (*HostComputeNetwork, error) {
	return networks.find(context.Background(), DefaultClient, "Name", networkName)
}

// Create makes the network. A subnet with a prefix must have a default route, and no
// route without a next hop; the service itself does not ask for that.
func (network *HostComputeNetwork) Create() (*HostComputeNetwork, error) {
	for _, p := range network.Ipams {
		for _, s := range p.Subnets {
			if s.IpAddressPrefix == "" {
				continue
			}
			if slices.ContainsFunc(s.Routes, func(r Route) bool { return r.NextHop == "" }) {
				return nil, errors.New("network create error, subnet has address prefix but no gateway specified")
			}
			if !slices.ContainsFunc(s.Routes, Route.isDefault) {
				return nil, errors.New("network create error, no default gateway")
			}
		}
	}
	return DefaultClient.CreateNetwork(context.Background(), network)
}

// isDefault compares the text: other spellings of the default route do not count.
func (r Route) isDefault() bool {
	return r.DestinationPrefix == "0.0.0.0/0" || r.DestinationPrefix == "::/0"
}

// Delete deletes the network with its endpoints.
func (network *HostComputeNetwork) Delete() error {
	if !isGUID(network.Id) {
		return errNetworkID
	}
	return DefaultClient.DeleteNetwork(context.Background(), network.Id)
}

// ModifyNetworkSettings changes the network's policies, DNS, subnets or extensions.
func (network *HostComputeNetwork) ModifyNetworkSettings(request *ModifyNetworkSettingRequest) error {
	if !isGUID(network.Id) {
		return errNetworkID
	}
	_, err := DefaultClient.ModifyNetwork(context.Background(), network.Id, request)
	return err
}

// AddPolicy adds policies to the network.
func (network *HostComputeNetwork) AddPolicy(networkPolicy PolicyNetworkRequest) error {
	return network.policy(RequestTypeAdd, networkPolicy)
}

// RemovePolicy removes policies from the network.
func (network *HostComputeNetwork) RemovePolicy(networkPolicy PolicyNetworkRequest) error {
	return network.policy(RequestTypeRemove, networkPolicy)
}

func (network *HostComputeNetwork) policy(verb RequestType, p PolicyNetworkRequest) error {
	settings, err := encode(p)
	if err != nil {
		return err
	}
	return network.ModifyNetworkSettings(&ModifyNetworkSettingRequest{
		ResourceType: NetworkResourceTypePolicy, RequestType: verb, Settings: settings,
	})
}

// CreateEndpoint makes an endpoint on the network, which it writes into the document.
// One with a HostComputeNamespace is attached in the same step.
func (network *HostComputeNetwork) CreateEndpoint(endpoint *HostComputeEndpoint) (*HostComputeEndpoint, error) {
	endpoint.HostComputeNetwork = network.Id
	return endpoint.createOnNetwork()
}

// CreateRemoteEndpoint makes an endpoint that stands for something on another host.
func (network *HostComputeNetwork) CreateRemoteEndpoint(endpoint *HostComputeEndpoint) (*HostComputeEndpoint, error) {
	endpoint.Flags |= EndpointFlagsRemoteEndpoint
	return network.CreateEndpoint(endpoint)
}
