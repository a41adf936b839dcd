// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// LoadBalancerDoc is a load balancer on the wire. Its HostComputeEndpoints are in
// upper case: kube-proxy hashes the raw list against ids that it upper-cased.
type LoadBalancerDoc struct {
	hcn.HostComputeLoadBalancer
	Name               string          `json:",omitempty"`
	Owner              string          `json:",omitempty"`
	HostComputeNetwork string          `json:",omitempty"` // of the backends
	Version            uint64          `json:",omitempty"`
	AdditionalParams   json.RawMessage `json:",omitempty"`
	State              uint16          `json:",omitempty"`
	// DrainingEndpoints are those of HostComputeEndpoints that keep their TCP
	// connections and get nothing new. Not of the schema.
	DrainingEndpoints []string `json:",omitempty"`
}

// LoadBalancer is a stored row.
type LoadBalancer struct {
	Doc LoadBalancerDoc
	// Services are the numbers of its services at the switch, by balancer.key.
	Services map[string]vswitch.ServiceID
	Sequence uint64
	Created  time.Time
	Body     string

	vips      []netip.Addr // one unspecified = every host address
	balancers []balancer
	compiled  balancerPart
}

// balancer is a port mapping: one service of the switch.
type balancer struct {
	key            string
	protos         []uint8
	port, target   uint16
	affinity       bool // a client stays with its backend
	flags          hcn.LoadBalancerPortMappingFlags
	internal, host bool // who may ask: endpoints alone; processes of the host, too
}

// The flags of a port mapping; kube-proxy defines the last one itself.
const (
	vipExternalIP      hcn.LoadBalancerPortMappingFlags = 16
	knownBalancerFlags hcn.LoadBalancerFlags            = 3
	knownPortFlags     hcn.LoadBalancerPortMappingFlags = 31
	affinitySeconds                                     = 10800 // Kubernetes' default
	maxDistribution                                     = 2
)

// DecodeLoadBalancer reads a document; unknown members are ignored.
func DecodeLoadBalancer(body []byte) (LoadBalancerDoc, error) {
	var d LoadBalancerDoc
	err := decode(body, &d)
	return d, err
}

// LoadBalancer by id.
func (w World) LoadBalancer(id string) (*LoadBalancer, bool) {
	return w.loadBalancers.get(strings.ToLower(id))
}

// AllLoadBalancers in order of creation.
func (w World) AllLoadBalancers() []*LoadBalancer {
	return sorted(w.loadBalancers, func(lb *LoadBalancer) uint64 { return lb.Sequence })
}

// CreateLoadBalancer adds a load balancer. created is false when the identical
// create, with its id, was done before.
func (w World) CreateLoadBalancer(body []byte, in Input) (next World, lb *LoadBalancer, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeLoadBalancer(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.Id, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.loadBalancers.get(id); ok {
		if d.Id != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "load balancer %s exists", id)
	}
	lb = &LoadBalancer{Doc: d, Created: in.Now, Body: digest(body)}
	lb.Doc.Id, lb.Doc.Version, lb.Doc.State = id, 1, StateCreated
	if lb.Doc.Owner == "" {
		lb.Doc.Owner = in.Owner
	}
	if err := w.fillLoadBalancer(lb, nil, in); err != nil {
		return w, nil, false, err
	}
	lb.Sequence = w.sequence()
	w.putLoadBalancer(lb)
	w.event(hcn.EventLoadBalancerCreate, "LoadBalancerCreate", LoadBalancers, id, lb.Doc)
	return w, lb, true, nil
}

// ModifyLoadBalancer replaces a load balancer by a whole document, or by the one in
// the Settings of a modify request; Add and Remove change its endpoints alone.
func (w World) ModifyLoadBalancer(id string, body []byte, match uint64, in Input) (next World, lb *LoadBalancer, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	old, ok := w.LoadBalancer(id)
	if !ok {
		return w, nil, loadBalancerMissing(id)
	}
	body, verb, err := wholeDocument(body, old.Doc.Version, match)
	if err != nil || verb == hcn.RequestTypeRefresh {
		return w, old, err
	}
	d, err := DecodeLoadBalancer(body)
	if err != nil {
		return w, nil, err
	}
	switch verb {
	case hcn.RequestTypeAdd, hcn.RequestTypeRemove:
		change := d.HostComputeEndpoints
		d = old.Doc
		d.HostComputeEndpoints, d.DrainingEndpoints = changeList(verb, old.Doc.HostComputeEndpoints, change), old.Doc.DrainingEndpoints
		if verb == hcn.RequestTypeRemove {
			d.DrainingEndpoints = changeList(verb, d.DrainingEndpoints, change)
		}
	}
	c := *old
	c.Doc = d
	c.Doc.Id, c.Doc.Version, c.Doc.State = old.Doc.Id, old.Doc.Version+1, old.Doc.State
	keepUnsaid(&c.Doc.Name, &c.Doc.Owner, &c.Doc.AdditionalParams, old.Doc.Name, old.Doc.Owner, old.Doc.AdditionalParams)
	if err := w.fillLoadBalancer(&c, old, in); err != nil {
		return w, nil, err
	}
	w.putLoadBalancer(&c)
	w.event(hcn.EventLoadBalancerModify, "LoadBalancerModify", LoadBalancers, c.Doc.Id, c.Doc)
	return w, &c, nil
}

// keepUnsaid keeps, of what a whole document replaces, the members that the Go
// document has none for, where the new one does not say them.
func keepUnsaid(name, owner *string, params *json.RawMessage, oldName, oldOwner string, oldParams json.RawMessage) {
	*name, *owner = cmp.Or(*name, oldName), cmp.Or(*owner, oldOwner)
	if len(*params) == 0 {
		*params = oldParams
	}
}

// wholeDocument takes the document out of a request to modify what is at version and,
// unless 0, must be at match; verb is Update where the body is the document itself.
func wholeDocument(body []byte, version, match uint64) ([]byte, hcn.RequestType, error) {
	if match != 0 && match != version {
		return nil, "", versionMismatch(version, match)
	}
	var form struct {
		ResourceType, RequestType *string
		Settings                  json.RawMessage
	}
	if err := decode(body, &form); err != nil {
		return nil, "", err
	}
	if form.RequestType == nil && form.ResourceType == nil {
		return body, hcn.RequestTypeUpdate, nil
	}
	r, err := decodeModify(body)
	if err != nil {
		return nil, "", err
	}
	switch r.RequestType {
	case "", hcn.RequestTypeUpdate:
		return r.Settings, hcn.RequestTypeUpdate, nil
	case hcn.RequestTypeAdd, hcn.RequestTypeRemove, hcn.RequestTypeRefresh:
		return r.Settings, r.RequestType, nil
	}
	return nil, "", refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: it takes Update with a whole document, Add and Remove with HostComputeEndpoints, and Refresh", r.RequestType)
}

// changeList adds ids to a list or removes them.
func changeList(verb hcn.RequestType, have, change []string) []string {
	if verb == hcn.RequestTypeAdd {
		return append(slices.Clone(have), change...)
	}
	return slices.DeleteFunc(slices.Clone(have), func(id string) bool {
		return slices.ContainsFunc(change, func(o string) bool { return strings.EqualFold(o, id) })
	})
}

// DeleteLoadBalancer removes a load balancer.
func (w World) DeleteLoadBalancer(id string, match uint64) (World, error) {
	lb, ok := w.LoadBalancer(id)
	if !ok {
		return w, loadBalancerMissing(id)
	}
	if match != 0 && match != lb.Doc.Version {
		return w, versionMismatch(lb.Doc.Version, match)
	}
	w.removeLoadBalancer(lb)
	return w, nil
}

func (w *World) removeLoadBalancer(lb *LoadBalancer) {
	w.unindexLoadBalancer(lb)
	w.setLoadBalancer(lb.Doc.Id, nil)
	w.changed(LoadBalancers, lb.Doc.Id, nil)
	w.event(hcn.EventLoadBalancerDelete, "LoadBalancerDelete", LoadBalancers, lb.Doc.Id, struct{ ID string }{lb.Doc.Id})
}

func (w *World) putLoadBalancer(lb *LoadBalancer) {
	id := lb.Doc.Id
	old, ok := w.loadBalancers.get(id)
	if !ok {
		old = &LoadBalancer{}
	}
	// Most changes are of one endpoint: what stays is left alone.
	for key, n := range old.Services {
		if lb.Services[key] != n {
			w.free(serviceNumbers, uint32(n))
		}
	}
	for key, n := range lb.Services {
		if old.Services[key] != n {
			w.use(serviceNumbers, uint32(n))
		}
	}
	was, is := old.Doc.HostComputeEndpoints, lb.Doc.HostComputeEndpoints
	for _, e := range was {
		if !slices.Contains(is, e) {
			w.balanced = w.balanced.del(strings.ToLower(e) + "/" + id)
		}
	}
	for _, e := range is {
		if !slices.Contains(was, e) {
			w.balanced = w.balanced.set(strings.ToLower(e)+"/"+id, id)
		}
	}
	if had, has := old.claims(), lb.claims(); !slices.Equal(had, has) {
		w.unpublishAll(had)
		w.publishAll(has)
	}
	lb.compiled = w.compileLoadBalancer(lb)
	w.setLoadBalancer(id, lb)
	w.changed(LoadBalancers, id, lb)
}

// setLoadBalancer writes a row, or removes it (nil).
func (w *World) setLoadBalancer(id string, lb *LoadBalancer) {
	if lb == nil {
		w.loadBalancers = w.loadBalancers.del(id)
	} else {
		w.loadBalancers = w.loadBalancers.set(id, lb)
	}
	if !w.loading {
		w.balancing = w.balancing.with(w.loadBalancers, w.services, id)
	}
}

func (w *World) unindexLoadBalancer(lb *LoadBalancer) {
	for _, n := range lb.Services {
		w.free(serviceNumbers, uint32(n))
	}
	for _, e := range lb.Doc.HostComputeEndpoints {
		w.balanced = w.balanced.del(strings.ToLower(e) + "/" + lb.Doc.Id)
	}
	w.unpublishAll(lb.claims())
}

// rebalance compiles the load balancers of an endpoint again: it came or went.
func (w *World) rebalance(endpoint string) {
	for _, id := range w.balanced.prefixed(endpoint + "/") {
		if lb, ok := w.loadBalancers.get(id); ok {
			w.recompileLoadBalancer(lb)
		}
	}
}

// rebalanceNetwork does so for those of a network, whose routes changed.
func (w *World) rebalanceNetwork(network string) {
	for _, lb := range w.loadBalancers.all {
		if lb.Doc.HostComputeNetwork == network {
			w.recompileLoadBalancer(lb)
		}
	}
	w.reserveNetwork(network)
}

func (w *World) recompileLoadBalancer(lb *LoadBalancer) {
	c := *lb
	c.compiled = w.compileLoadBalancer(&c)
	w.setLoadBalancer(c.Doc.Id, &c)
}

// leaveLoadBalancers takes an endpoint out of every list. A load balancer that is
// left empty stays and refuses.
func (w *World) leaveLoadBalancers(endpoint string) {
	for _, id := range w.balanced.prefixed(endpoint + "/") {
		lb, ok := w.loadBalancers.get(id)
		if !ok {
			continue
		}
		c := *lb
		gone := []string{endpoint}
		c.Doc.HostComputeEndpoints = changeList(hcn.RequestTypeRemove, lb.Doc.HostComputeEndpoints, gone)
		c.Doc.DrainingEndpoints = changeList(hcn.RequestTypeRemove, lb.Doc.DrainingEndpoints, gone)
		c.Doc.Version++
		w.putLoadBalancer(&c)
		w.event(hcn.EventLoadBalancerModify, "LoadBalancerModify", LoadBalancers, id, c.Doc)
	}
}

// fillLoadBalancer checks a document and gives its services their numbers; old is
// what it replaces, nil = nothing.
func (w *World) fillLoadBalancer(lb, old *LoadBalancer, in Input) error {
	var err error
	d := &lb.Doc
	if d.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return err
	}
	if err := lb.parse(); err != nil {
		return err
	}
	if d.HostComputeEndpoints, err = w.backendsOf(lb, old); err != nil {
		return err
	}
	for i, id := range d.DrainingEndpoints {
		if !slices.ContainsFunc(d.HostComputeEndpoints, func(o string) bool { return strings.EqualFold(o, id) }) {
			return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("DrainingEndpoints[%d]", i), "%q is none of HostComputeEndpoints", id)
		}
	}
	if n, ok := w.networks.get(d.HostComputeNetwork); ok && (n.Doc.Type == hcn.Internal || n.Doc.Type == hcn.Private) {
		for i, b := range lb.balancers {
			if !b.internal {
				return refuseAt(hcn.HCN_E_MAPPING_NOT_SUPPORTED, fmt.Sprintf("PortMappings[%d].Flags", i),
					"a network of type %s is not reached from outside: ILB (1) must be set", n.Doc.Type)
			}
		}
	}
	if err := w.checkFrontends(lb, old, in); err != nil {
		return err
	}
	services := map[string]vswitch.ServiceID{}
	for _, b := range lb.balancers {
		if old != nil && old.Services[b.key] != 0 {
			services[b.key] = old.Services[b.key]
		} else if services[b.key], err = w.takeServiceNumber(); err != nil {
			return err
		}
	}
	lb.Services = services
	return nil
}

// backendsOf checks the listed endpoints and returns them as they are stored.
func (w *World) backendsOf(lb, old *LoadBalancer) ([]string, error) {
	d := &lb.Doc
	given, network := d.HostComputeNetwork, ""
	var out []string
	for i, ref := range d.HostComputeEndpoints {
		field := fmt.Sprintf("HostComputeEndpoints[%d]", i)
		e, ok := w.Endpoint(ref)
		if !ok {
			return nil, at(field, endpointMissing(ref))
		}
		switch {
		case network == "":
			network = e.Doc.HostComputeNetwork
		case network != e.Doc.HostComputeNetwork:
			return nil, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, field, "%s is on another network than the first: all must be on one", w.endpointLabel(e.Doc.Id))
		}
		if !slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() == lb.is6() }) {
			return nil, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, field, "%s has no address of the load balancer's family, %s", w.endpointLabel(e.Doc.Id), lb.family())
		}
		if id := strings.ToUpper(e.Doc.Id); !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	switch {
	case given != "" && given != zeroGUID:
		n, err := w.findNetwork(given)
		if err != nil {
			return nil, err
		}
		if network != "" && network != n.Doc.Id {
			return nil, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "HostComputeNetwork", "the endpoints are on another network, %s", network)
		}
		network = n.Doc.Id
	case network == "" && old != nil:
		network = old.Doc.HostComputeNetwork
	}
	d.HostComputeNetwork = network
	return out, nil
}

// checkFrontends refuses what somebody else has.
func (w *World) checkFrontends(lb, old *LoadBalancer, in Input) error {
	var had []claim
	if old != nil {
		had = old.claims()
	}
	for _, c := range lb.claims() {
		if p, taken := w.holder(c, in, nil); taken {
			if p.kind == LoadBalancers {
				if other, ok := w.loadBalancers.get(p.id); ok && lb.same(other) {
					return refuse(hcn.E_ALREADY_EXISTS, "load balancer %s is the same: frontends, ports and endpoints", p.id)
				}
			}
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "%s is that of %s; take another port or address", c, w.holderLabel(p))
		}
		if in.Ports == nil || !c.onHost() || slices.ContainsFunc(had, func(o claim) bool { return o.key() == c.key() && o.host == c.host }) {
			continue
		}
		if err := in.Ports.Check(c.hostPort()); err != nil {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s cannot be published: %v", c, err)
		}
	}
	return nil
}

// same: frontends, ports and endpoints.
func (lb *LoadBalancer) same(o *LoadBalancer) bool {
	sorted := func(s []string) []string {
		s = slices.Clone(s)
		slices.Sort(s)
		return s
	}
	vips := func(lb *LoadBalancer) (out []string) {
		for _, a := range lb.vips {
			out = append(out, a.String())
		}
		return sorted(out)
	}
	ports := func(lb *LoadBalancer) (out []string) {
		for _, m := range lb.Doc.PortMappings {
			out = append(out, fmt.Sprint(m.Protocol, m.InternalPort, m.ExternalPort))
		}
		return sorted(out)
	}
	return slices.Equal(vips(lb), vips(o)) && slices.Equal(ports(lb), ports(o)) &&
		slices.Equal(sorted(lb.Doc.HostComputeEndpoints), sorted(o.Doc.HostComputeEndpoints))
}
