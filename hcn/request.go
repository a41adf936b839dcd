// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "encoding/json"

// RequestType is the verb of a modify request.
type RequestType string

var (
	// RequestTypeAdd appends.
	RequestTypeAdd RequestType = "Add"
	// RequestTypeRemove removes what matches.
	RequestTypeRemove RequestType = "Remove"
	// RequestTypeUpdate replaces.
	RequestTypeUpdate RequestType = "Update"
	// RequestTypeRefresh applies again what is stored.
	RequestTypeRefresh RequestType = "Refresh"
)

// HostComputeQueryFlags modify a query.
type HostComputeQueryFlags uint32

var (
	// HostComputeQueryFlagsNone is the default.
	HostComputeQueryFlagsNone HostComputeQueryFlags
	// HostComputeQueryFlagsDetailed adds health, counters and state.
	HostComputeQueryFlagsDetailed HostComputeQueryFlags = 1
)

// HostComputeQuery selects documents. Filter is a string that holds a JSON object
// of members and the values they must have.
type HostComputeQuery struct {
	SchemaVersion SchemaVersion         `json:""`
	Flags         HostComputeQueryFlags `json:",omitempty"`
	Filter        string                `json:",omitempty"`
}

// ExtraParams is what the service adds to Health.
type ExtraParams struct {
	Resources        json.RawMessage `json:",omitempty"`
	SharedContainers json.RawMessage `json:",omitempty"`
	LayeredOn        string          `json:",omitempty"`
	SwitchGuid       string          `json:",omitempty"`
	UtilityVM        string          `json:",omitempty"`
	VirtualMachine   string          `json:",omitempty"`
}

// Health of an object; set by the service only.
type Health struct {
	Data  interface{} `json:",omitempty"`
	Extra ExtraParams `json:",omitempty"`
}
