// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

// HostComputeRoute gives each listed endpoint each Setting as an SDNRoute policy.
type HostComputeRoute struct {
	ID                   string                  `json:"ID,omitempty"`
	HostComputeEndpoints []string                `json:",omitempty"`
	Setting              []SDNRoutePolicySetting `json:",omitempty"`
	SchemaVersion        SchemaVersion           `json:",omitempty"`
}
