// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "encoding/json"

// NamespaceResourceEndpoint is the Data of an attached endpoint.
type NamespaceResourceEndpoint struct {
	//lint:ignore SA5008 the tag is that of the Windows package
	Id string `json:"ID,"`
}

// NamespaceResourceContainer is the Data of an attached container.
type NamespaceResourceContainer struct {
	//lint:ignore SA5008 the tag is that of the Windows package
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
	Type NamespaceResourceType
	Data json.RawMessage
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
