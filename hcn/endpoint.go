// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"encoding/json"
	"errors"

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

// ListEndpoints returns all endpoints.
func ListEndpoints() ([]HostComputeEndpoint, error) {
	return ListEndpointsQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion()})
}

// ListEndpointsQuery returns what the query selects.
func ListEndpointsQuery(query HostComputeQuery) ([]HostComputeEndpoint, error) {
	return DefaultClient.ListEndpoints(context.Background(), query)
}

// ListEndpointsOfNetwork returns the endpoints of a network.
func ListEndpointsOfNetwork(networkID string) ([]HostComputeEndpoint, error) {
	filter, err := encode(map[string]string{"VirtualNetwork": networkID}) // the member's older name
	if err != nil {
		return nil, err
	}
	return ListEndpointsQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion(), Filter: string(filter)})
}

// GetEndpointByID returns the endpoint with that id, or an EndpointNotFoundError.
func GetEndpointByID(endpointID string) (*HostComputeEndpoint, error) {
	return endpoints.find(context.Background(), DefaultClient, "ID", endpointID)
}

// GetEndpointByName returns the first endpoint of that name, or an EndpointNotFoundError.
func GetEndpointByName(endpointName string) (*HostComputeEndpoint, error) {
	return endpoints.find(context.Background(), DefaultClient, "Name", endpointName)
}

// Create makes the endpoint on its HostComputeNetwork.
func (endpoint *HostComputeEndpoint) Create() (*HostComputeEndpoint, error) {
	if endpoint.HostComputeNamespace != "" {
		return nil, errors.New("endpoint create error, endpoint json HostComputeNamespace is read only and should not be set")
	}
	return endpoint.createOnNetwork()
}

func (endpoint *HostComputeEndpoint) createOnNetwork() (*HostComputeEndpoint, error) {
	if !isGUID(endpoint.HostComputeNetwork) {
		return nil, errNetworkID
	}
	return DefaultClient.CreateEndpoint(context.Background(), endpoint)
}

// Delete detaches and deletes the endpoint.
func (endpoint *HostComputeEndpoint) Delete() error {
	if !isGUID(endpoint.Id) {
		return errEndpointID
	}
	return DefaultClient.DeleteEndpoint(context.Background(), endpoint.Id)
}

// ModifyEndpointSettings changes an endpoint's policies or its port.
func ModifyEndpointSettings(endpointID string, request *ModifyEndpointSettingRequest) error {
	if !isGUID(endpointID) {
		return errEndpointID
	}
	_, err := DefaultClient.ModifyEndpoint(context.Background(), endpointID, request)
	return err
}

// ApplyPolicy adds, removes or updates policies of the endpoint.
func (endpoint *HostComputeEndpoint) ApplyPolicy(requestType RequestType, endpointPolicy PolicyEndpointRequest) error {
	settings, err := encode(endpointPolicy)
	if err != nil {
		return err
	}
	return ModifyEndpointSettings(endpoint.Id, &ModifyEndpointSettingRequest{
		ResourceType: EndpointResourceTypePolicy, RequestType: requestType, Settings: settings,
	})
}

// NamespaceAttach puts the endpoint into a namespace.
func (endpoint *HostComputeEndpoint) NamespaceAttach(namespaceID string) error {
	return AddNamespaceEndpoint(namespaceID, endpoint.Id)
}

// NamespaceDetach takes the endpoint out of a namespace.
func (endpoint *HostComputeEndpoint) NamespaceDetach(namespaceID string) error {
	return RemoveNamespaceEndpoint(namespaceID, endpoint.Id)
}

// isGUID is what a method asks of a document's id before it asks the service.
func isGUID(s string) bool {
	_, err := guid.FromString(s)
	return err == nil
}
