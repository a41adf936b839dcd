// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultSocket is where the service listens unless told otherwise.
const DefaultSocket = "/run/gatehouse/gatehouse.sock"

// SocketEnv names the environment variable that overrides DefaultSocket.
const SocketEnv = "GATEHOUSE_SOCKET"

// Client speaks to the service. The zero value is ready and uses the socket that
// SocketEnv names, else DefaultSocket. Safe for concurrent use; do not copy after
// first use.
type Client struct {
	// Socket is the path of the API socket.
	Socket string
	// Dial replaces the way to the socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// Transport replaces HTTP altogether, for doors inside the daemon.
	Transport http.RoundTripper
	// Owner is written into documents that are created without one.
	Owner string

	once sync.Once
	http *http.Client
}

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		t := c.Transport
		if t == nil {
			dial := c.Dial
			if dial == nil {
				path := c.SocketPath()
				dial = func(ctx context.Context) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", path)
				}
			}
			t = &http.Transport{
				DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				MaxIdleConnsPerHost: 16,
				IdleConnTimeout:     time.Minute,
				DisableCompression:  true,
			}
		}
		c.http = &http.Client{Transport: t}
	})
	return c.http
}

// SocketPath is the socket that the client uses.
func (c *Client) SocketPath() string {
	if c.Socket != "" {
		return c.Socket
	}
	if s := os.Getenv(SocketEnv); s != "" {
		return s
	}
	return DefaultSocket
}

// Call does one request below /hcn/v2, or to a whole path below /host/v1: in (nil, json.RawMessage, or anything that
// marshals) goes as the body, the answer is decoded into out (nil, or *json.RawMessage
// for the raw bytes). A refusal is an *HcnError whose text begins with op.
func (c *Client) Call(ctx context.Context, op, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := encode(in)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		body = bytes.NewReader(raw)
	}
	resp, err := c.do(ctx, op, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", op, err)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if m, ok := out.(*json.RawMessage); ok {
		*m = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: decode answer: %w", op, err)
	}
	return nil
}

// do returns a response with a success status; its body is the caller's to close.
func (c *Client) do(ctx context.Context, op, method, path string, body io.Reader) (*http.Response, error) {
	if !strings.HasPrefix(path, "/host/v1/") {
		path = "/hcn/v2" + path
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client().Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the made-up URL says nothing to the reader
		}
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var r Record
	if json.Unmarshal(raw, &r) != nil || r.ErrorCode == 0 {
		r = Record{Error: strings.TrimSpace(string(raw)), ErrorCode: uint32(E_FAIL)}
		if r.Error == "" {
			r.Error = resp.Status
		}
	}
	return nil, newError(op, r)
}

// encode keeps policy settings byte for byte: json.Marshal would escape <, > and &.
func encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

func listPath(kind string, q HostComputeQuery) string {
	v := url.Values{}
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if q.Flags&HostComputeQueryFlagsDetailed != 0 {
		v.Set("detailed", "true")
	}
	if len(v) == 0 {
		return "/" + kind
	}
	return "/" + kind + "?" + v.Encode()
}

func itemPath(kind, id string) string { return "/" + kind + "/" + url.PathEscape(id) }

// isMissing reports that the service does not know the object.
func isMissing(err error) bool {
	var e *HcnError
	return errors.As(err, &e) && e.HTTPStatus() == http.StatusNotFound
}

// ListNetworks returns what the query selects; the zero query selects all.
func (c *Client) ListNetworks(ctx context.Context, q HostComputeQuery) ([]HostComputeNetwork, error) {
	var out []HostComputeNetwork
	return out, c.Call(ctx, "hcnEnumerateNetworks", "GET", listPath("networks", q), nil, &out)
}

// Network returns the network with that id, or "name:" and a name; a
// NetworkNotFoundError if there is none.
func (c *Client) Network(ctx context.Context, id string) (*HostComputeNetwork, error) {
	out := &HostComputeNetwork{Type: NAT}
	if err := c.Call(ctx, "hcnQueryNetworkProperties", "GET", itemPath("networks", id), nil, out); err != nil {
		if isMissing(err) {
			if name, ok := strings.CutPrefix(id, "name:"); ok {
				return nil, NetworkNotFoundError{NetworkName: name}
			}
			return nil, NetworkNotFoundError{NetworkID: id}
		}
		return nil, err
	}
	return out, nil
}

// CreateNetwork makes a network and returns it as stored.
func (c *Client) CreateNetwork(ctx context.Context, n *HostComputeNetwork) (*HostComputeNetwork, error) {
	out := &HostComputeNetwork{Type: NAT}
	if err := c.Call(ctx, "hcnCreateNetwork", "POST", "/networks", c.owned(n), out); err != nil {
		return nil, err
	}
	return out, nil
}

// ModifyNetwork changes a network and returns it as stored.
func (c *Client) ModifyNetwork(ctx context.Context, id string, r *ModifyNetworkSettingRequest) (*HostComputeNetwork, error) {
	out := &HostComputeNetwork{Type: NAT}
	if err := c.Call(ctx, "hcnModifyNetwork", "POST", itemPath("networks", id)+"/modify", r, out); err != nil {
		return nil, err
	}
	return out, nil
}

// DeleteNetwork deletes a network with its endpoints.
func (c *Client) DeleteNetwork(ctx context.Context, id string) error {
	return c.Call(ctx, "hcnDeleteNetwork", "DELETE", itemPath("networks", id), nil, nil)
}

// ListEndpoints returns what the query selects; the zero query selects all.
func (c *Client) ListEndpoints(ctx context.Context, q HostComputeQuery) ([]HostComputeEndpoint, error) {
	var out []HostComputeEndpoint
	return out, c.Call(ctx, "hcnEnumerateEndpoints", "GET", listPath("endpoints", q), nil, &out)
}

// Endpoint returns the endpoint with that id, or "name:" and a name; an
// EndpointNotFoundError if there is none.
func (c *Client) Endpoint(ctx context.Context, id string) (*HostComputeEndpoint, error) {
	var out HostComputeEndpoint
	if err := c.Call(ctx, "hcnQueryEndpointProperties", "GET", itemPath("endpoints", id), nil, &out); err != nil {
		if isMissing(err) {
			if name, ok := strings.CutPrefix(id, "name:"); ok {
				return nil, EndpointNotFoundError{EndpointName: name}
			}
			return nil, EndpointNotFoundError{EndpointID: id}
		}
		return nil, err
	}
	return &out, nil
}

// CreateEndpoint makes an endpoint on its HostComputeNetwork.
func (c *Client) CreateEndpoint(ctx context.Context, e *HostComputeEndpoint) (*HostComputeEndpoint, error) {
	var out HostComputeEndpoint
	if err := c.Call(ctx, "hcnCreateEndpoint", "POST", "/endpoints", c.owned(e), &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// ModifyEndpoint changes an endpoint and returns it as stored.
func (c *Client) ModifyEndpoint(ctx context.Context, id string, r *ModifyEndpointSettingRequest) (*HostComputeEndpoint, error) {
	var out HostComputeEndpoint
	if err := c.Call(ctx, "hcnModifyEndpoint", "POST", itemPath("endpoints", id)+"/modify", r, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// DeleteEndpoint detaches and deletes an endpoint.
func (c *Client) DeleteEndpoint(ctx context.Context, id string) error {
	return c.Call(ctx, "hcnDeleteEndpoint", "DELETE", itemPath("endpoints", id), nil, nil)
}

// ListNamespaces returns what the query selects; the zero query selects all.
func (c *Client) ListNamespaces(ctx context.Context, q HostComputeQuery) ([]HostComputeNamespace, error) {
	var out []HostComputeNamespace
	return out, c.Call(ctx, "hcnEnumerateNamespaces", "GET", listPath("namespaces", q), nil, &out)
}

// Namespace returns the namespace with that id, or a NamespaceNotFoundError.
func (c *Client) Namespace(ctx context.Context, id string) (*HostComputeNamespace, error) {
	if id == "" {
		return nil, NamespaceNotFoundError{}
	}
	var out HostComputeNamespace
	if err := c.Call(ctx, "hcnQueryNamespaceProperties", "GET", itemPath("namespaces", id), nil, &out); err != nil {
		if isMissing(err) {
			return nil, NamespaceNotFoundError{NamespaceID: id}
		}
		return nil, err
	}
	return &out, nil
}

// CreateNamespace makes a namespace.
func (c *Client) CreateNamespace(ctx context.Context, n *HostComputeNamespace) (*HostComputeNamespace, error) {
	var out HostComputeNamespace
	if err := c.Call(ctx, "hcnCreateNamespace", "POST", "/namespaces", c.owned(n), &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// ModifyNamespace attaches and detaches, and returns the namespace as stored.
func (c *Client) ModifyNamespace(ctx context.Context, id string, r *ModifyNamespaceSettingRequest) (*HostComputeNamespace, error) {
	var out HostComputeNamespace
	if err := c.Call(ctx, "hcnModifyNamespace", "POST", itemPath("namespaces", id)+"/modify", r, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// DeleteNamespace detaches the namespace's endpoints and deletes it.
func (c *Client) DeleteNamespace(ctx context.Context, id string) error {
	return c.Call(ctx, "hcnDeleteNamespace", "DELETE", itemPath("namespaces", id), nil, nil)
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

// Stats returns the counters of a local endpoint, seen from the endpoint.
func (c *Client) Stats(ctx context.Context, endpointID string) (EndpointStats, error) {
	var out EndpointStats
	return out, c.Call(ctx, "hcnQueryEndpointStats", "GET", itemPath("endpoints", endpointID)+"/stats", nil, &out)
}

// Globals returns the version of the service.
func (c *Client) Globals(ctx context.Context) (*Globals, error) {
	var v Version
	if err := c.Call(ctx, "hcnGetGlobals", "GET", "/globals/version", nil, &v); err != nil {
		return nil, err
	}
	return &Globals{Version: v}, nil
}

// Version of the service.
func (c *Client) Version(ctx context.Context) (Version, error) {
	g, err := c.Globals(ctx)
	if err != nil {
		return Version{}, err
	}
	return g.Version, nil
}

// Features of the service.
func (c *Client) Features(ctx context.Context) (SupportedFeatures, error) {
	var out SupportedFeatures
	return out, c.Call(ctx, "hcnGetFeatures", "GET", "/features", nil, &out)
}

// Graph returns the host's networks with what hangs on them.
func (c *Client) Graph(ctx context.Context) (Graph, error) {
	var out Graph
	return out, c.Call(ctx, "hcnQueryGraph", "GET", "/host/v1/graph", nil, &out)
}

// Who returns the holders of an address, a MAC or a published port ("8080", "8080/udp").
func (c *Client) Who(ctx context.Context, query string) ([]Holder, error) {
	var out []Holder
	return out, c.Call(ctx, "hcnQueryWho", "GET", "/host/v1/who?q="+url.QueryEscape(query), nil, &out)
}

// owned adds the client's Owner to a document, which the Go documents have no member for.
func (c *Client) owned(doc any) any {
	if c.Owner == "" {
		return doc
	}
	raw, err := encode(doc)
	if err != nil || len(raw) < 2 || raw[0] != '{' {
		return doc
	}
	sep := ","
	if raw[1] == '}' {
		sep = ""
	}
	return json.RawMessage("{\"Owner\":" + strconv.Quote(c.Owner) + sep + string(raw[1:]))
}
