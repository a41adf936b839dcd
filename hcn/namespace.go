// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

//lint:file-ignore SA5008 the tags are those of the package for Windows

import (
	"context"
	"encoding/json"
)

// NamespaceResourceEndpoint is the Data of an attached endpoint.
type NamespaceResourceEndpoint struct {
	Id string `json:"ID,"`
}

// NamespaceResourceContainer is the Data of an attached container.
type NamespaceResourceContainer struct {
	Id string `json:"ID,"`
}

// NamespaceResourceType says what a resource of a namespace is.
type NamespaceResourceType string

var (
	// NamespaceResourceTypeContainer is a container.
	NamespaceResourceTypeContainer NamespaceResourceType = "Container"
	// NamespaceResourceTypeEndpoint is an endpoint.
	NamespaceResourceTypeEndpoint NamespaceResourceType = "Endpoint"
)

// NamespaceResource is one thing attached to a namespace.
type NamespaceResource struct {
	Type NamespaceResourceType `json:","`
	Data json.RawMessage       `json:","`
}

// NamespaceType says where a namespace lives. Absent = Host.
type NamespaceType string

var (
	// NamespaceTypeHost is a compartment of containers on this host.
	NamespaceTypeHost NamespaceType = "Host"
	// NamespaceTypeHostDefault is the host's default compartment.
	NamespaceTypeHostDefault NamespaceType = "HostDefault"
	// NamespaceTypeGuest lives inside a utility VM.
	NamespaceTypeGuest NamespaceType = "Guest"
	// NamespaceTypeGuestDefault is the default compartment of a utility VM.
	NamespaceTypeGuestDefault NamespaceType = "GuestDefault"
)

// HostComputeNamespace is a network compartment.
type HostComputeNamespace struct {
	Id            string              `json:"ID,omitempty"`
	NamespaceId   uint32              `json:",omitempty"` // compartment number; 0 = next free
	Type          NamespaceType       `json:",omitempty"`
	Resources     []NamespaceResource `json:",omitempty"` // in order of attachment
	SchemaVersion SchemaVersion       `json:",omitempty"`
}

// ModifyNamespaceSettingRequest is the body of a namespace modify.
type ModifyNamespaceSettingRequest struct {
	ResourceType NamespaceResourceType `json:",omitempty"`
	RequestType  RequestType           `json:",omitempty"`
	Settings     json.RawMessage       `json:",omitempty"`
}

// ListNamespaces returns all namespaces.
func ListNamespaces() ([]HostComputeNamespace, error) {
	return ListNamespacesQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion()})
}

// ListNamespacesQuery returns what the query selects.
func ListNamespacesQuery(query HostComputeQuery) ([]HostComputeNamespace, error) {
	return DefaultClient.ListNamespaces(context.Background(), query)
}

// GetNamespaceByID returns the namespace with that id, or a NamespaceNotFoundError.
func GetNamespaceByID(namespaceID string) (*HostComputeNamespace, error) {
	return namespaces.find(context.Background(), DefaultClient, "ID", namespaceID)
}

// GetNamespaceEndpointIds returns the ids of the endpoints in a namespace.
func GetNamespaceEndpointIds(namespaceID string) ([]string, error) {
	return resourcesOf(namespaceID, NamespaceResourceTypeEndpoint)
}

// GetNamespaceContainerIds returns the ids of the containers in a namespace.
func GetNamespaceContainerIds(namespaceID string) ([]string, error) {
	return resourcesOf(namespaceID, NamespaceResourceTypeContainer)
}

func resourcesOf(namespaceID string, of NamespaceResourceType) ([]string, error) {
	ns, err := GetNamespaceByID(namespaceID)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range ns.Resources {
		if r.Type != of {
			continue
		}
		var data NamespaceResourceEndpoint // a container's has the same members
		if err := json.Unmarshal(r.Data, &data); err != nil {
			return nil, err
		}
		ids = append(ids, data.Id)
	}
	return ids, nil
}

// NewNamespace returns a document of that type, not yet created.
func NewNamespace(nsType NamespaceType) *HostComputeNamespace {
	return &HostComputeNamespace{Type: nsType, SchemaVersion: V2SchemaVersion()}
}

// Create makes the namespace.
func (namespace *HostComputeNamespace) Create() (*HostComputeNamespace, error) {
	return DefaultClient.CreateNamespace(context.Background(), namespace)
}

// Delete detaches the namespace's endpoints, which live on, and deletes it.
func (namespace *HostComputeNamespace) Delete() error {
	if !isGUID(namespace.Id) {
		return errNamespaceID
	}
	return DefaultClient.DeleteNamespace(context.Background(), namespace.Id)
}

// Sync has the endpoints of a namespace inside a utility VM plugged and unplugged
// there. A namespace that is not known, or not inside a VM, needs none.
func (namespace *HostComputeNamespace) Sync() error {
	if namespace.Type != NamespaceTypeGuest || !isGUID(namespace.Id) {
		return nil
	}
	err := ModifyNamespaceSettings(namespace.Id, &ModifyNamespaceSettingRequest{
		ResourceType: NamespaceResourceTypeEndpoint, RequestType: RequestTypeRefresh,
	})
	if IsElementNotFoundError(err) {
		return nil
	}
	return err
}

// ModifyNamespaceSettings puts endpoints or containers into a namespace, or takes them out.
func ModifyNamespaceSettings(namespaceID string, request *ModifyNamespaceSettingRequest) error {
	if !isGUID(namespaceID) {
		return errNamespaceID
	}
	_, err := DefaultClient.ModifyNamespace(context.Background(), namespaceID, request)
	return err
}

// AddNamespaceEndpoint puts an endpoint into a namespace.
func AddNamespaceEndpoint(namespaceID string, endpointID string) error {
	if !isGUID(namespaceID) {
		return errNamespaceID
	}
	_, err := DefaultClient.Attach(context.Background(), namespaceID, endpointID)
	return err
}

// RemoveNamespaceEndpoint takes an endpoint out of a namespace.
func RemoveNamespaceEndpoint(namespaceID string, endpointID string) error {
	if !isGUID(namespaceID) {
		return errNamespaceID
	}
	_, err := DefaultClient.Detach(context.Background(), namespaceID, endpointID)
	return err
}
