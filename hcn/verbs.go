// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// kind is what the verbs of one kind of document differ in.
type kind[T any] struct {
	path         string // below /hcn/v2
	noun, plural string // as the Windows calls spell them: hcnCreate + noun
	absent       ErrorCode
	notFound     func(id, name string) error
	fill         func(*T) // what an answer may lack; nil = nothing
}

var (
	networks = kind[HostComputeNetwork]{"networks", "Network", "Networks", HCN_E_NETWORK_NOT_FOUND,
		func(id, name string) error { return NetworkNotFoundError{NetworkID: id, NetworkName: name} },
		func(n *HostComputeNetwork) {
			if n.Type == "" {
				n.Type = NAT // the zero of the service's enum
			}
		}}
	endpoints = kind[HostComputeEndpoint]{"endpoints", "Endpoint", "Endpoints", HCN_E_ENDPOINT_NOT_FOUND,
		func(id, name string) error { return EndpointNotFoundError{EndpointID: id, EndpointName: name} }, nil}
	namespaces = kind[HostComputeNamespace]{"namespaces", "Namespace", "Namespaces", E_ELEMENT_NOT_FOUND,
		func(id, name string) error { return NamespaceNotFoundError{NamespaceID: id + name} }, nil}
	loadBalancers = kind[HostComputeLoadBalancer]{"loadbalancers", "LoadBalancer", "LoadBalancers", E_ELEMENT_NOT_FOUND,
		func(id, name string) error { return LoadBalancerNotFoundError{LoadBalancerId: id + name} }, nil}
	routes = kind[HostComputeRoute]{"sdnroutes", "Route", "Routes", E_ELEMENT_NOT_FOUND,
		func(id, name string) error { return RouteNotFoundError{RouteId: id + name} }, nil}
)

func (k kind[T]) item(id string) string { return "/" + k.path + "/" + url.PathEscape(id) }

func (k kind[T]) list(ctx context.Context, c *Client, q HostComputeQuery) ([]T, error) {
	path := "/" + k.path
	if q != (HostComputeQuery{}) {
		raw, err := encode(q)
		if err != nil {
			return nil, err
		}
		path += "?query=" + url.QueryEscape(string(raw))
	}
	var out []T
	if err := c.Call(ctx, "hcnEnumerate"+k.plural, "GET", path, nil, &out); err != nil || len(out) == 0 {
		return nil, err
	}
	for i := range out {
		k.filled(&out[i])
	}
	return out, nil
}

func (k kind[T]) filled(doc *T) *T {
	if k.fill != nil {
		k.fill(doc)
	}
	return doc
}

// get returns one document by its id, or by "name:" and its name.
func (k kind[T]) get(ctx context.Context, c *Client, id string) (*T, error) {
	if id == "" {
		return nil, k.notFound("", "")
	}
	var out T
	err := c.Call(ctx, "hcnQuery"+k.noun+"Properties", "GET", k.item(id), nil, &out)
	var e *HcnError
	switch {
	case errors.As(err, &e) && e.HTTPStatus() == http.StatusNotFound:
		if name, ok := strings.CutPrefix(id, "name:"); ok {
			return nil, k.notFound("", name)
		}
		return nil, k.notFound(id, "")
	case err != nil:
		return nil, err
	}
	return k.filled(&out), nil
}

// find returns the first document whose member has that value.
func (k kind[T]) find(ctx context.Context, c *Client, member, value string) (*T, error) {
	filter, err := encode(map[string]string{member: value})
	if err != nil {
		return nil, err
	}
	found, err := k.list(ctx, c, HostComputeQuery{SchemaVersion: V2SchemaVersion(), Filter: string(filter)})
	switch {
	case err != nil:
		return nil, err
	case len(found) > 0:
		return &found[0], nil
	case member == "Name":
		return nil, k.notFound("", value)
	}
	return nil, k.notFound(value, "")
}

func (k kind[T]) create(ctx context.Context, c *Client, doc *T) (*T, error) {
	body, err := c.owned(doc)
	if err != nil {
		return nil, err
	}
	var out T
	if err := c.Call(ctx, "hcnCreate"+k.noun, "POST", "/"+k.path, body, &out); err != nil {
		return nil, err
	}
	return k.filled(&out), nil
}

// change sends a modify request, or with PUT a whole document.
func (k kind[T]) change(ctx context.Context, c *Client, method, id string, body any) (*T, error) {
	path := k.item(id)
	if method == http.MethodPost {
		path += "/modify"
	}
	var out T
	if err := c.Call(ctx, "hcnModify"+k.noun, method, path, body, &out); err != nil {
		return nil, opening(err, k.absent, k.noun)
	}
	return k.filled(&out), nil
}

func (k kind[T]) delete(ctx context.Context, c *Client, id string) error {
	return c.Call(ctx, "hcnDelete"+k.noun, "DELETE", k.item(id), nil, nil)
}

// opening names the call that would have failed on Windows: a verb there first opens
// its object.
func opening(err error, absent ErrorCode, noun string) error {
	var e *HcnError
	if errors.As(err, &e) && ErrorCode(e.record.ErrorCode) == absent {
		e.title = "hcnOpen" + noun
	}
	return err
}

// ListNetworks returns what the query selects; the zero query selects all.
func (c *Client) ListNetworks(ctx context.Context, q HostComputeQuery) ([]HostComputeNetwork, error) {
	return networks.list(ctx, c, q)
}

// Network returns the network with that id, or "name:" and a name; a
// NetworkNotFoundError if there is none.
func (c *Client) Network(ctx context.Context, id string) (*HostComputeNetwork, error) {
	return networks.get(ctx, c, id)
}

// CreateNetwork makes a network and returns it as stored.
func (c *Client) CreateNetwork(ctx context.Context, n *HostComputeNetwork) (*HostComputeNetwork, error) {
	return networks.create(ctx, c, n)
}

// ModifyNetwork changes a network and returns it as stored.
func (c *Client) ModifyNetwork(ctx context.Context, id string, r *ModifyNetworkSettingRequest) (*HostComputeNetwork, error) {
	return networks.change(ctx, c, "POST", id, r)
}

// DeleteNetwork deletes a network with its endpoints.
func (c *Client) DeleteNetwork(ctx context.Context, id string) error {
	return networks.delete(ctx, c, id)
}

// ListEndpoints returns what the query selects; the zero query selects all.
func (c *Client) ListEndpoints(ctx context.Context, q HostComputeQuery) ([]HostComputeEndpoint, error) {
	return endpoints.list(ctx, c, q)
}

// Endpoint returns the endpoint with that id, or "name:" and a name; an
// EndpointNotFoundError if there is none.
func (c *Client) Endpoint(ctx context.Context, id string) (*HostComputeEndpoint, error) {
	return endpoints.get(ctx, c, id)
}

// CreateEndpoint makes an endpoint on its HostComputeNetwork.
func (c *Client) CreateEndpoint(ctx context.Context, e *HostComputeEndpoint) (*HostComputeEndpoint, error) {
	out, err := endpoints.create(ctx, c, e)
	return out, opening(err, networks.absent, networks.noun)
}

// ModifyEndpoint changes an endpoint and returns it as stored.
func (c *Client) ModifyEndpoint(ctx context.Context, id string, r *ModifyEndpointSettingRequest) (*HostComputeEndpoint, error) {
	return endpoints.change(ctx, c, "POST", id, r)
}

// DeleteEndpoint detaches and deletes an endpoint.
func (c *Client) DeleteEndpoint(ctx context.Context, id string) error {
	return endpoints.delete(ctx, c, id)
}

// ListNamespaces returns what the query selects; the zero query selects all.
func (c *Client) ListNamespaces(ctx context.Context, q HostComputeQuery) ([]HostComputeNamespace, error) {
	return namespaces.list(ctx, c, q)
}

// Namespace returns the namespace with that id, or a NamespaceNotFoundError.
func (c *Client) Namespace(ctx context.Context, id string) (*HostComputeNamespace, error) {
	return namespaces.get(ctx, c, id)
}

// CreateNamespace makes a namespace.
func (c *Client) CreateNamespace(ctx context.Context, n *HostComputeNamespace) (*HostComputeNamespace, error) {
	return namespaces.create(ctx, c, n)
}

// ModifyNamespace attaches and detaches, and returns the namespace as stored.
func (c *Client) ModifyNamespace(ctx context.Context, id string, r *ModifyNamespaceSettingRequest) (*HostComputeNamespace, error) {
	return namespaces.change(ctx, c, "POST", id, r)
}

// DeleteNamespace detaches the namespace's endpoints and deletes it.
func (c *Client) DeleteNamespace(ctx context.Context, id string) error {
	return namespaces.delete(ctx, c, id)
}

// Attach puts an endpoint into a namespace.
func (c *Client) Attach(ctx context.Context, namespaceID, endpointID string) (*HostComputeNamespace, error) {
	return c.endpointOf(ctx, namespaceID, endpointID, RequestTypeAdd)
}

// Detach takes an endpoint out of a namespace.
func (c *Client) Detach(ctx context.Context, namespaceID, endpointID string) (*HostComputeNamespace, error) {
	return c.endpointOf(ctx, namespaceID, endpointID, RequestTypeRemove)
}

func (c *Client) endpointOf(ctx context.Context, ns, ep string, verb RequestType) (*HostComputeNamespace, error) {
	settings, err := encode(struct{ EndpointId string }{ep})
	if err != nil {
		return nil, err
	}
	return c.ModifyNamespace(ctx, ns, &ModifyNamespaceSettingRequest{
		ResourceType: NamespaceResourceTypeEndpoint, RequestType: verb, Settings: settings,
	})
}

// ListLoadBalancers returns what the query selects; the zero query selects all.
func (c *Client) ListLoadBalancers(ctx context.Context, q HostComputeQuery) ([]HostComputeLoadBalancer, error) {
	return loadBalancers.list(ctx, c, q)
}

// LoadBalancer returns the load balancer with that id, or a LoadBalancerNotFoundError.
func (c *Client) LoadBalancer(ctx context.Context, id string) (*HostComputeLoadBalancer, error) {
	return loadBalancers.get(ctx, c, id)
}

// CreateLoadBalancer makes a load balancer and returns it as stored.
func (c *Client) CreateLoadBalancer(ctx context.Context, lb *HostComputeLoadBalancer) (*HostComputeLoadBalancer, error) {
	return loadBalancers.create(ctx, c, lb)
}

// UpdateLoadBalancer replaces a load balancer whole, in one step: what the document
// does not say is no more. Conversations with backends that stay go on.
func (c *Client) UpdateLoadBalancer(ctx context.Context, id string, lb *HostComputeLoadBalancer) (*HostComputeLoadBalancer, error) {
	return loadBalancers.change(ctx, c, "PUT", id, lb)
}

// DeleteLoadBalancer deletes a load balancer.
func (c *Client) DeleteLoadBalancer(ctx context.Context, id string) error {
	return loadBalancers.delete(ctx, c, id)
}

// ListRoutes returns what the query selects; the zero query selects all.
func (c *Client) ListRoutes(ctx context.Context, q HostComputeQuery) ([]HostComputeRoute, error) {
	return routes.list(ctx, c, q)
}

// Route returns the SDN route with that id, or a RouteNotFoundError.
func (c *Client) Route(ctx context.Context, id string) (*HostComputeRoute, error) {
	return routes.get(ctx, c, id)
}

// CreateRoute makes an SDN route and returns it as stored.
func (c *Client) CreateRoute(ctx context.Context, r *HostComputeRoute) (*HostComputeRoute, error) {
	return routes.create(ctx, c, r)
}

// UpdateRoute replaces an SDN route whole.
func (c *Client) UpdateRoute(ctx context.Context, id string, r *HostComputeRoute) (*HostComputeRoute, error) {
	return routes.change(ctx, c, "PUT", id, r)
}

// DeleteRoute deletes an SDN route.
func (c *Client) DeleteRoute(ctx context.Context, id string) error { return routes.delete(ctx, c, id) }
