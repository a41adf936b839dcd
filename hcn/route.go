// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"errors"
)

// HostComputeRoute gives each listed endpoint each Setting as an SDNRoute policy.
type HostComputeRoute struct {
	ID                   string                  `json:"ID,omitempty"`
	HostComputeEndpoints []string                `json:",omitempty"`
	Setting              []SDNRoutePolicySetting `json:",omitempty"`
	SchemaVersion        SchemaVersion           `json:",omitempty"`
}

// ListRoutes returns all SDN routes.
func ListRoutes() ([]HostComputeRoute, error) {
	return ListRoutesQuery(HostComputeQuery{SchemaVersion: V2SchemaVersion()})
}

// ListRoutesQuery returns what the query selects.
func ListRoutesQuery(query HostComputeQuery) ([]HostComputeRoute, error) {
	return DefaultClient.ListRoutes(context.Background(), query)
}

// GetRouteByID returns the SDN route with that id, or a RouteNotFoundError.
func GetRouteByID(routeID string) (*HostComputeRoute, error) {
	return routes.find(context.Background(), DefaultClient, "ID", routeID)
}

// Create makes the SDN route.
func (route *HostComputeRoute) Create() (*HostComputeRoute, error) {
	return DefaultClient.CreateRoute(context.Background(), route)
}

// Delete deletes the SDN route. One that cannot be found is deleted.
func (route *HostComputeRoute) Delete() error {
	if _, err := GetRouteByID(route.ID); err != nil {
		return nil
	}
	return DefaultClient.DeleteRoute(context.Background(), route.ID)
}

// AddEndpoint adds an endpoint to the document and has the route be what the document
// then says, under the same id. A route that is not there is made.
func (route *HostComputeRoute) AddEndpoint(endpoint *HostComputeEndpoint) (*HostComputeRoute, error) {
	return route.with(plus(route.HostComputeEndpoints, endpoint.Id))
}

// RemoveEndpoint removes an endpoint in the same way.
func (route *HostComputeRoute) RemoveEndpoint(endpoint *HostComputeEndpoint) (*HostComputeRoute, error) {
	return route.with(minus(route.HostComputeEndpoints, endpoint.Id))
}

func (route *HostComputeRoute) with(endpoints []string) (out *HostComputeRoute, err error) {
	if route.ID != "" && !isGUID(route.ID) {
		return nil, errRouteID
	}
	next := *route
	next.HostComputeEndpoints = endpoints
	if route.ID != "" {
		out, err = DefaultClient.UpdateRoute(context.Background(), route.ID, &next)
	}
	if route.ID == "" || IsElementNotFoundError(err) {
		out, err = next.Create()
	}
	if err == nil {
		route.HostComputeEndpoints = endpoints
	}
	return out, err
}

// AddRoute makes an SDN route for endpoints.
func AddRoute(endpoints []HostComputeEndpoint, destinationPrefix string, nextHop string, needEncapsulation bool) (*HostComputeRoute, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("missing endpoints")
	}
	return (&HostComputeRoute{
		HostComputeEndpoints: idsOf(endpoints),
		Setting: []SDNRoutePolicySetting{{
			DestinationPrefix: destinationPrefix, NextHop: nextHop, NeedEncap: needEncapsulation,
		}},
		SchemaVersion: V2SchemaVersion(),
	}).Create()
}
