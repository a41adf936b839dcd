// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
	"gatehouse.dev/gatehouse/internal/resource"
)

// Collections of v2 by their names, as in /hcn/v2.
const (
	networks   = "networks"
	endpoints  = "endpoints"
	namespaces = "namespaces"
	balancers  = "loadbalancers"
	routes     = "sdnroutes"
)

// Options of the handler; all are needed.
type Options struct {
	HCN     map[string]resource.Collection
	Version hcn.Version
	// Stats answers endpointstats.
	Stats func(ctx context.Context, endpoint string) (any, error)
	// NamespaceOf is the namespace of a compute system; "" = there is no such system.
	NamespaceOf func(ctx context.Context, system string) string
	// MACs and SetMACs keep the list of accelnet; SetMACs(nil) deletes it.
	MACs    func(ctx context.Context) ([]string, error)
	SetMACs func(ctx context.Context, macs []string) error
}

// Handler serves everything below /hns/v1.
type Handler struct{ o Options }

// New returns the handler.
func New(o Options) Handler { return Handler{o} }

// request is one call: what it is about, below the prefix.
type request struct {
	ctx            context.Context
	method         string
	kind, id, verb string
	body           []byte
}

// ServeHTTP implements http.Handler. Every answer is an envelope; a refusal has the
// status of its code, too.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, e := http.StatusOK, hns.Envelope{Success: true}
	out, err := h.serve(r)
	if err == nil && out != nil {
		e.Output, err = encode(out)
	}
	if err != nil {
		status, e = describe(err)
	}
	raw, err := encode(e)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"Success":false,"Error":"answer cannot be written as JSON "}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n'))
}

func describe(err error) (int, hns.Envelope) {
	var (
		re     resource.Error
		tooBig *http.MaxBytesError
	)
	status, e := http.StatusInternalServerError, hns.Envelope{Error: err.Error() + " ", ErrorCode: uint32(hcn.E_FAIL)}
	switch {
	case errors.As(err, &re):
		status = re.HTTPStatus()
		if rec, ok := re.Record().(hcn.Record); ok {
			e.Error, e.ErrorCode = rec.Error, rec.ErrorCode
		}
	case errors.As(err, &tooBig):
		status, e.ErrorCode = http.StatusRequestEntityTooLarge, uint32(hcn.E_INVALID_PARAMETER)
	}
	return status, e
}

func (h Handler) serve(r *http.Request) (any, error) {
	q := request{ctx: r.Context(), method: r.Method}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/hns/v1"), "/"), "/")
	for i, to := range []*string{&q.kind, &q.id, &q.verb} {
		if i < len(parts) {
			*to = strings.ToLower(parts[i])
		}
	}
	var err error
	if q.body, err = io.ReadAll(r.Body); err != nil {
		return nil, err
	}
	f, ok := map[string]func(request) (any, error){
		"networks": h.networks, "endpoints": h.endpoints, "endpointstats": h.stats, "policylists": h.lists,
		"namespaces": h.namespaces, "globals": h.globals, "accelnet": h.accelnet,
	}[q.kind]
	if !ok || len(parts) > 3 {
		return nil, refuse(hcn.E_ELEMENT_NOT_FOUND, "", "no such path %s", r.URL.Path)
	}
	return f(q)
}

func (q request) wrong() error {
	return refuse(hcn.HCN_E_REQUEST_UNSUPPORTED, "", "%s is not a verb of %s", q.method, strings.Join([]string{q.kind, q.id, q.verb}, "/"))
}

// call is the method and what the path has of it: "GET", "GET id", "POST id verb".
func (q request) call() string {
	s := q.method
	if q.id != "" {
		s += " id"
	}
	if q.verb != "" {
		s += " " + q.verb
	}
	return s
}

func (q request) decode(out any) error { return decode(q.body, out) }

// all translates every document of a collection.
func all[T any](h Handler, q request, kind string, down func(json.RawMessage) (T, error)) ([]T, error) {
	found, err := h.o.HCN[kind].List(q.ctx, url.Values{})
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(found))
	for _, d := range found {
		v, err := down(d.JSON)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func one[T any](d resource.Doc, err error, down func(json.RawMessage) (T, error)) (any, error) {
	if err != nil {
		return nil, err
	}
	return down(d.JSON)
}

// remove deletes, in the words that programs of v1 know for what is not there.
func (h Handler) remove(q request, kind string) error {
	err := h.o.HCN[kind].Delete(q.ctx, q.id, 0)
	if kind == networks && codeOf(err) == hcn.HCN_E_NETWORK_NOT_FOUND {
		return &refusal{code: hcn.HCN_E_NETWORK_NOT_FOUND, text: "The object identifier does not represent a valid object."}
	}
	return err
}

func codeOf(err error) hcn.ErrorCode {
	var re resource.Error
	if errors.As(err, &re) {
		if rec, ok := re.Record().(hcn.Record); ok {
			return hcn.ErrorCode(rec.ErrorCode)
		}
	}
	return 0
}

func (h Handler) networks(q request) (any, error) {
	c := h.o.HCN[networks]
	switch q.call() {
	case "GET":
		return all(h, q, networks, networkDown)
	case "GET id":
		d, err := c.Get(q.ctx, q.id, nil)
		return one(d, err, networkDown)
	case "POST":
		var n hns.Network
		if err := q.decode(&n); err != nil {
			return nil, err
		}
		doc, err := networkUp(n)
		if err != nil {
			return nil, err
		}
		d, _, err := c.Create(q.ctx, doc)
		return one(d, err, networkDown)
	case "POST id":
		var n hns.Network
		if err := q.decode(&n); err != nil {
			return nil, err
		}
		req, err := extensionsUp(n)
		if err != nil {
			return nil, err
		}
		d, err := c.Modify(q.ctx, q.id, req, 0)
		return one(d, err, networkDown)
	case "DELETE id":
		return nil, h.remove(q, networks)
	}
	return nil, q.wrong()
}

// around gathers what endpoints show of other objects.
func (h Handler) around(q request) (func(json.RawMessage) (hns.Endpoint, error), error) {
	s := surroundings{networks: map[string]string{}, namespaces: map[string]hns.Namespace{}}
	nets, err := all(h, q, networks, networkDown)
	if err != nil {
		return nil, err
	}
	for _, n := range nets {
		s.networks[n.Id] = n.Name
	}
	spaces, err := all(h, q, namespaces, namespaceDown)
	if err != nil {
		return nil, err
	}
	for _, n := range spaces {
		s.namespaces[n.ID] = n
	}
	return func(raw json.RawMessage) (hns.Endpoint, error) { return endpointDown(raw, s) }, nil
}

func (h Handler) endpoints(q request) (any, error) {
	c := h.o.HCN[endpoints]
	var (
		d   resource.Doc
		err error
	)
	switch q.call() {
	case "GET":
		down, err := h.around(q)
		if err != nil {
			return nil, err
		}
		return all(h, q, endpoints, down)
	case "GET id":
		d, err = c.Get(q.ctx, q.id, nil)
	case "POST":
		d, err = h.createEndpoint(q)
	case "POST id":
		d, err = h.replacePolicies(q)
	case "POST id attach", "POST id detach":
		d, err = h.attachment(q)
	case "DELETE id":
		return nil, h.remove(q, endpoints)
	default:
		return nil, q.wrong()
	}
	if err != nil {
		return nil, err
	}
	down, err := h.around(q)
	return one(d, err, down)
}

func (h Handler) createEndpoint(q request) (resource.Doc, error) {
	var e hns.Endpoint
	if err := q.decode(&e); err != nil {
		return resource.Doc{}, err
	}
	network := e.VirtualNetwork
	if network == "" {
		network = e.VirtualNetworkName
		if n, err := h.o.HCN[networks].List(q.ctx, url.Values{"name": {network}}); err == nil && len(n) > 0 {
			network = n[0].ID
		}
	}
	var n networkDoc
	if d, err := h.o.HCN[networks].Get(q.ctx, network, nil); err == nil { // else the create says what is wrong
		if err := json.Unmarshal(d.JSON, &n); err != nil {
			return d, err
		}
	}
	doc, err := endpointUp(e, extrasOf(n.AdditionalParams).Policies)
	if err != nil {
		return resource.Doc{}, err
	}
	d, _, err := h.o.HCN[endpoints].Create(q.ctx, doc)
	return d, err
}

// replacePolicies is done again when somebody else changed the endpoint meanwhile.
func (h Handler) replacePolicies(q request) (resource.Doc, error) {
	var e hns.Endpoint
	if err := q.decode(&e); err != nil {
		return resource.Doc{}, err
	}
	for {
		d, err := h.o.HCN[endpoints].Get(q.ctx, q.id, nil)
		if err != nil {
			return d, err
		}
		var have endpointDoc
		if err := json.Unmarshal(d.JSON, &have); err != nil {
			return d, err
		}
		req, err := replaceUp(have, e.Policies)
		if err != nil {
			return d, err
		}
		d, err = h.o.HCN[endpoints].Modify(q.ctx, q.id, req, d.Version)
		var re resource.Error
		if errors.As(err, &re) && re.HTTPStatus() == http.StatusPreconditionFailed && q.ctx.Err() == nil {
			continue
		}
		return d, err
	}
}

func (h Handler) stats(q request) (any, error) {
	if q.call() != "GET id" {
		return nil, q.wrong()
	}
	return h.o.Stats(q.ctx, q.id)
}

func (h Handler) lists(q request) (any, error) {
	switch q.call() {
	case "GET":
		lbs, err := all(h, q, balancers, balancerDown)
		if err != nil {
			return nil, err
		}
		rs, err := all(h, q, routes, routeDown)
		return append(lbs, rs...), err
	case "GET id":
		if d, err := h.o.HCN[balancers].Get(q.ctx, q.id, nil); err == nil {
			return balancerDown(d.JSON)
		}
		d, err := h.o.HCN[routes].Get(q.ctx, q.id, nil)
		return one(d, err, routeDown)
	case "POST", "POST id":
		var l hns.PolicyList
		if err := q.decode(&l); err != nil {
			return nil, err
		}
		if q.id != "" {
			l.ID = q.id
		}
		kind, doc, err := listUp(l)
		if err != nil {
			return nil, err
		}
		down := balancerDown
		if kind == routes {
			down = routeDown
		}
		if q.id != "" {
			d, err := h.o.HCN[kind].Modify(q.ctx, q.id, doc, 0)
			return one(d, err, down)
		}
		d, _, err := h.o.HCN[kind].Create(q.ctx, doc)
		return one(d, err, down)
	case "DELETE id":
		if _, err := h.o.HCN[balancers].Get(q.ctx, q.id, nil); err == nil {
			return nil, h.remove(q, balancers)
		}
		return nil, h.remove(q, routes)
	}
	return nil, q.wrong()
}

func (h Handler) namespaces(q request) (any, error) {
	c := h.o.HCN[namespaces]
	switch call := q.call(); call {
	case "GET":
		return all(h, q, namespaces, namespaceDown)
	case "GET id":
		d, err := c.Get(q.ctx, q.id, nil)
		return one(d, err, namespaceDown)
	case "POST":
		var n hns.Namespace
		if len(q.body) > 0 {
			if err := q.decode(&n); err != nil {
				return nil, err
			}
		}
		doc := hcn.HostComputeNamespace{Id: n.ID, NamespaceId: n.CompartmentId, Type: hcn.NamespaceTypeHost, SchemaVersion: hcn.V2SchemaVersion()}
		if n.IsDefault {
			doc.Type = hcn.NamespaceTypeHostDefault
		}
		raw, err := encode(doc)
		if err != nil {
			return nil, err
		}
		d, _, err := c.Create(q.ctx, raw)
		return one(d, err, namespaceDown)
	case "POST id addresource", "POST id removeresource":
		var r hns.Resource
		if err := q.decode(&r); err != nil {
			return nil, err
		}
		verb := hcn.RequestTypeAdd
		if strings.HasSuffix(call, "removeresource") {
			verb = hcn.RequestTypeRemove
		}
		req, err := resourceUp(r, verb)
		if err != nil {
			return nil, err
		}
		d, err := c.Modify(q.ctx, q.id, req, 0)
		return one(d, err, namespaceDown)
	case "DELETE id":
		return nil, h.remove(q, namespaces)
	}
	return nil, q.wrong()
}

func (h Handler) globals(q request) (any, error) {
	if q.method != http.MethodGet || q.id != "version" || q.verb != "" {
		return nil, q.wrong()
	}
	return h.o.Version, nil
}

func (h Handler) accelnet(q request) (any, error) {
	switch q.call() {
	case "POST":
		var l hns.MacList
		if err := q.decode(&l); err != nil {
			return nil, err
		}
		macs := []string{}
		for _, m := range l.MacAddressList {
			macs = append(macs, m.MacAddress)
		}
		if err := h.o.SetMACs(q.ctx, macs); err != nil {
			return nil, err
		}
	case "DELETE":
		return nil, h.o.SetMACs(q.ctx, nil)
	case "GET":
	default:
		return nil, q.wrong()
	}
	macs, err := h.o.MACs(q.ctx)
	l := hns.MacList{MacAddressList: []hns.MacEntry{}}
	for _, m := range macs {
		l.MacAddressList = append(l.MacAddressList, hns.MacEntry{MacAddress: m})
	}
	return l, err
}
