// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// CreateNamespace adds a namespace. created is false when the identical create,
// with its id, was done before.
func (w World) CreateNamespace(body []byte, in Input) (next World, ns *Namespace, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeNamespace(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.Id, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.namespaces.get(id); ok {
		if d.Id != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "namespace %s exists", id)
	}
	ns = &Namespace{Doc: d, Created: in.Now, Body: digest(body)}
	ns.Doc.Id, ns.Doc.NamespaceGuid = id, id
	ns.Doc.Version, ns.Doc.State, ns.Doc.Resources = 1, StateCreated, nil
	if ns.Doc.Owner == "" {
		ns.Doc.Owner = in.Owner
	}
	if ns.Doc.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return w, nil, false, err
	}
	switch d.Type {
	case "":
		ns.Doc.Type = hcn.NamespaceTypeHost
	case hcn.NamespaceTypeHost, hcn.NamespaceTypeHostDefault, hcn.NamespaceTypeGuest, hcn.NamespaceTypeGuestDefault:
	default:
		return w, nil, false, refuseAt(hcn.E_INVALID_PARAMETER, "Type", "%q is not Host, HostDefault, Guest or GuestDefault", d.Type)
	}
	if d.NamespaceId == 0 && ns.Doc.Type != hcn.NamespaceTypeHostDefault {
		ns.Doc.NamespaceId = w.takeNamespaceNumber()
	}
	switch path := d.NetNsPath; {
	case !ns.isCompartment():
		ns.Doc.NetNsPath = ""
	case path == "":
		ns.Doc.NetNsPath = w.inst.NetNs(id)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsAny(path, "\x00\n"):
		return w, nil, false, refuseAt(hcn.E_INVALID_PARAMETER, "NetNsPath", "%q is not the absolute path of a network namespace", path)
	case filepath.Dir(path) == filepath.Dir(w.inst.NetNs("x")):
		return w, nil, false, refuseAt(hcn.E_INVALID_PARAMETER, "NetNsPath", "%s is one of our own places", path)
	default:
		ns.Foreign = true
	}
	ns.Sequence = w.sequence()
	w.putNamespace(ns)
	w.event(hcn.EventNamespaceCreate, "NamespaceCreate", Namespaces, id, ns.Doc)
	return w, ns, true, nil
}

// isHostOwn: the host's own compartment.
func (ns *Namespace) isHostOwn() bool {
	switch ns.Doc.Type {
	case hcn.NamespaceTypeHost:
		return ns.Doc.NamespaceId == 1
	case hcn.NamespaceTypeHostDefault:
		return ns.Doc.NamespaceId <= 1
	}
	return false
}

// isCompartment: a network namespace that we keep or were given.
func (ns *Namespace) isCompartment() bool {
	return (ns.Doc.Type == hcn.NamespaceTypeHost || ns.Doc.Type == hcn.NamespaceTypeHostDefault) && !ns.isHostOwn()
}

// hasVNICs: what is attached is a device in a namespace of this host.
func (ns *Namespace) hasVNICs() bool { return ns.isCompartment() || ns.isHostOwn() }

// DeleteNamespace removes a namespace; its endpoints are detached and live on.
func (w World) DeleteNamespace(id string, match uint64) (World, error) {
	ns, ok := w.Namespace(id)
	if !ok {
		return w, namespaceMissing(id)
	}
	if match != 0 && match != ns.Doc.Version {
		return w, versionMismatch(ns.Doc.Version, match)
	}
	if len(ns.Containers) > 0 {
		return w, refuse(hcn.HCN_E_REQUEST_UNSUPPORTED, "namespace %s is used by container %s; remove the container from it first", id, ns.Containers[0])
	}
	w.removeNamespace(ns)
	return w, nil
}

func (w *World) removeNamespace(ns *Namespace) {
	for len(ns.NICs) > 0 {
		e, ok := w.endpoints.get(ns.NICs[0].Endpoint)
		if !ok {
			break
		}
		w.detach(ns, e)
		ns, _ = w.namespaces.get(ns.Doc.Id)
	}
	w.dropNamespace(ns)
	w.event(hcn.EventNamespaceDelete, "NamespaceDelete", Namespaces, ns.Doc.Id, struct{ ID string }{ns.Doc.Id})
}

// ModifyNamespace attaches and detaches endpoints and containers.
func (w World) ModifyNamespace(id string, body []byte, match uint64) (World, *Namespace, error) {
	ns, ok := w.Namespace(id)
	if !ok {
		return w, nil, namespaceMissing(id)
	}
	if match != 0 && match != ns.Doc.Version {
		return w, nil, versionMismatch(ns.Doc.Version, match)
	}
	r, err := decodeModify(body)
	if err != nil {
		return w, nil, err
	}
	var s struct{ EndpointId, ContainerId string }
	if r.RequestType != hcn.RequestTypeRefresh {
		if err := decode(r.Settings, &s); err != nil {
			return w, nil, at("Settings", err)
		}
	}
	switch hcn.NamespaceResourceType(r.ResourceType) {
	case hcn.NamespaceResourceTypeEndpoint:
		err = w.modifyNamespaceEndpoint(ns, r.RequestType, s.EndpointId)
	case hcn.NamespaceResourceTypeContainer:
		err = w.modifyNamespaceContainer(ns, r.RequestType, s.ContainerId)
	default:
		err = refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType", "%q: a namespace has Endpoint and Container", r.ResourceType)
	}
	if err != nil {
		return w, nil, err
	}
	ns, _ = w.Namespace(id)
	return w, ns, nil
}

func (w *World) modifyNamespaceEndpoint(ns *Namespace, verb hcn.RequestType, id string) error {
	if verb == hcn.RequestTypeRefresh {
		return nil
	}
	if id == zeroGUID {
		return at("Settings.EndpointId", refuse(hcn.E_ELEMENT_NOT_FOUND, "Element not found."))
	}
	e, ok := w.Endpoint(id)
	if !ok {
		return at("Settings.EndpointId", endpointMissing(id))
	}
	switch verb {
	case hcn.RequestTypeAdd:
		_, err := w.attach(ns, e)
		return err
	case hcn.RequestTypeRemove:
		if e.Doc.HostComputeNamespace != ns.Doc.Id {
			return refuse(hcn.HCN_E_ENDPOINT_NOT_ATTACHED, "%s is not attached to namespace %s", w.endpointLabel(e.Doc.Id), ns.Doc.Id)
		}
		w.detach(ns, e)
		return nil
	}
	return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add attaches, Remove detaches", verb)
}

func (w *World) modifyNamespaceContainer(ns *Namespace, verb hcn.RequestType, id string) error {
	if verb == hcn.RequestTypeRefresh {
		return nil
	}
	if id == "" {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Settings.ContainerId", "is empty")
	}
	has := slices.Contains(ns.Containers, id)
	c := *ns
	switch verb {
	case hcn.RequestTypeAdd:
		if has {
			return nil
		}
		c.Containers = append(slices.Clip(ns.Containers), id)
	case hcn.RequestTypeRemove:
		if !has {
			return nil
		}
		c.Containers = slices.DeleteFunc(slices.Clone(ns.Containers), func(s string) bool { return s == id })
	default:
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add and Remove record a container", verb)
	}
	w.saveNamespace(&c)
	for _, nic := range c.NICs {
		e, ok := w.endpoints.get(nic.Endpoint)
		if state := c.endpointState(); ok && e.Doc.State != state {
			ec := *e
			ec.Doc.State = state
			ec.Doc.Version++
			w.putEndpoint(&ec)
		}
	}
	return nil
}

// endpointState of what is attached.
func (ns *Namespace) endpointState() uint16 {
	if len(ns.Containers) > 1 {
		return StateAttachedSharing
	}
	return StateAttached
}

// saveNamespace writes a changed namespace: resources, version, event.
func (w *World) saveNamespace(ns *Namespace) {
	ns.Doc.Version++
	ns.Doc.Resources = nil
	resource := func(t hcn.NamespaceResourceType, id string) {
		// The wire form is upper-case: consumers search for it (hcn.md, rule 7).
		raw, _ := json.Marshal(struct{ Id string }{id})
		ns.Doc.Resources = append(ns.Doc.Resources, hcn.NamespaceResource{Type: t, Data: raw})
	}
	for _, nic := range ns.NICs {
		resource(hcn.NamespaceResourceTypeEndpoint, strings.ToUpper(nic.Endpoint))
	}
	for _, c := range ns.Containers {
		resource(hcn.NamespaceResourceTypeContainer, c)
	}
	w.putNamespace(ns)
	w.event(hcn.EventNamespaceModify, "NamespaceModify", Namespaces, ns.Doc.Id, ns.Doc)
}

// attach puts an endpoint into a namespace as the lowest free eth<n>.
func (w *World) attach(ns *Namespace, e *Endpoint) (*Endpoint, error) {
	switch {
	case e.IsRemote():
		return nil, remoteRefused("", "a namespace")
	case e.Doc.HostComputeNamespace == ns.Doc.Id:
		return e, nil
	case e.VM != nil && ns.isHostOwn():
		return nil, refuse(hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "This endpoint is already attached to the switch. %s has port %s of virtual machine %q; remove that first",
			w.endpointLabel(e.Doc.Id), e.VM.ID, e.VM.Machine)
	case e.Doc.HostComputeNamespace != "" && ns.isHostOwn():
		return nil, refuse(hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "This endpoint is already attached to the switch. %s is in namespace %s; detach it there first",
			w.endpointLabel(e.Doc.Id), e.Doc.HostComputeNamespace)
	case e.Doc.HostComputeNamespace != "":
		return nil, refuse(hcn.HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS, "%s is in namespace %s; detach it there first",
			w.endpointLabel(e.Doc.Id), e.Doc.HostComputeNamespace)
	case ns.isHostOwn() && len(e.redirects()) > 0:
		return nil, w.noRedirect(e, "to be in the host's")
	}
	if ns.Taken {
		return nil, refuse(hcn.HCN_E_NOTIMPL, "namespace %s is a running library OS's, which sees no endpoints that come later; attach them before it starts", ns.Doc.Id)
	}
	if n, ok := w.networks.get(e.Doc.HostComputeNetwork); ok && ns.isHostOwn() && n.Doc.Flags&hcn.DisableHostPort != 0 {
		return nil, refuse(hcn.HCN_E_REQUEST_UNSUPPORTED, "%s has the flag DisableHostPort, so the host is not on it", n.label())
	}
	index := 0
	for slices.ContainsFunc(ns.NICs, func(n NIC) bool { return n.Index == index }) {
		index++
	}
	nc := *ns
	nc.NICs = append(slices.Clip(ns.NICs), NIC{Endpoint: e.Doc.Id, Index: index})
	ec := *e
	ec.Doc.HostComputeNamespace = ns.Doc.Id
	ec.Doc.State = nc.endpointState()
	ec.Doc.Version++
	if ec.VM == nil {
		ec.Instance++
	}
	w.putEndpoint(&ec)
	w.saveNamespace(&nc)
	w.attachEvent(hcn.EventNetworkEndpointAttached, "NetworkEndpointAttached", &ec, ns.Doc.Id)
	return &ec, nil
}

// detach takes an endpoint out of its namespace; it keeps everything else.
func (w *World) detach(ns *Namespace, e *Endpoint) *Endpoint {
	nc := *ns
	nc.NICs = slices.DeleteFunc(slices.Clone(ns.NICs), func(n NIC) bool { return n.Endpoint == e.Doc.Id })
	ec := *e
	ec.Doc.HostComputeNamespace = ""
	ec.Doc.State = StateDetached
	if ec.VM != nil {
		ec.Doc.State = StateAttached
	}
	ec.Doc.Version++
	w.putEndpoint(&ec)
	w.saveNamespace(&nc)
	w.attachEvent(hcn.EventNetworkEndpointDetached, "NetworkEndpointDetached", &ec, ns.Doc.Id)
	return &ec
}

func (w *World) attachEvent(typ uint32, name string, e *Endpoint, namespace string) {
	w.event(typ, name, Endpoints, e.Doc.Id, struct{ EndpointId, NetworkId, NamespaceId string }{
		e.Doc.Id, e.Doc.HostComputeNetwork, namespace,
	})
}

// Plug makes a namespace for owner with one endpoint for each document, in order.
// It is idempotent: what is there already by id is left as it is.
func (w World) Plug(owner, namespace string, endpoints []json.RawMessage, in Input) (World, *Namespace, error) {
	body, err := json.Marshal(struct{ ID, Type string }{namespace, string(hcn.NamespaceTypeHost)})
	if err != nil {
		return w, nil, err
	}
	old, exists := w.Namespace(namespace)
	if exists && old.Plug != owner {
		return w, nil, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "namespace %s exists and is not of %s", namespace, owner)
	}
	next, ns, _, err := w.CreateNamespace(body, in)
	if err != nil {
		return w, nil, err
	}
	namespace = ns.Doc.Id // "" was given one
	c := *ns
	c.Plug = owner
	c.PlugEndpoints = slices.Clone(ns.PlugEndpoints)
	next.putNamespace(&c)
	for i, doc := range endpoints {
		field := "Endpoints[" + itoa(i) + "]"
		d, err := DecodeEndpoint(doc)
		if err != nil {
			return w, nil, at(field, err)
		}
		if d.HostComputeNamespace != "" && !strings.EqualFold(d.HostComputeNamespace, namespace) {
			return w, nil, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, field+".HostComputeNamespace", "is that of the system, not %s", d.HostComputeNamespace)
		}
		network := d.HostComputeNetwork
		if network == "" {
			network = DefaultNetwork
		}
		var e *Endpoint
		if next, e, _, err = next.CreateEndpoint(network, doc, in); err != nil {
			return w, nil, at(field, err)
		}
		now, _ := next.Namespace(namespace)
		if _, err := next.attach(now, e); err != nil {
			return w, nil, at(field, err)
		}
		if !slices.Contains(c.PlugEndpoints, e.Doc.Id) {
			now, _ = next.Namespace(namespace)
			withNew := *now
			withNew.PlugEndpoints = append(slices.Clip(now.PlugEndpoints), e.Doc.Id)
			c.PlugEndpoints = withNew.PlugEndpoints
			next.putNamespace(&withNew)
		}
	}
	ns, _ = next.Namespace(namespace)
	return next, ns, nil
}

// TakeOver says whether a network stack of its own speaks for the vNICs of a
// namespace. It has read their addresses by then.
func (w World) TakeOver(namespace string, on bool) (World, error) {
	ns, err := w.ResolveNamespace(namespace)
	if err != nil {
		return w, err
	}
	if ns.Taken != on {
		for _, nic := range ns.NICs {
			if e, ok := w.endpoints.get(nic.Endpoint); ok && on && len(e.redirects()) > 0 {
				return w, w.noRedirect(e, "to be a library OS's, whose connections the namespace does not see")
			}
		}
		c := *ns
		c.Taken = on
		w.saveNamespace(&c)
	}
	return w, nil
}

// Unplug removes a namespace and the endpoints that Plug made for it. Absent is
// no error.
func (w World) Unplug(namespace string, in Input) World {
	ns, ok := w.Namespace(namespace)
	if !ok {
		return w
	}
	for _, id := range ns.PlugEndpoints {
		if e, ok := w.endpoints.get(id); ok {
			w.removeEndpoint(e, in)
		}
	}
	ns, _ = w.Namespace(namespace)
	w.removeNamespace(ns)
	return w
}

// DefaultNetwork is the name of the network that is made at the first start and
// that Plug uses where a document names none.
const DefaultNetwork = "nat"

func itoa(i int) string {
	raw, _ := json.Marshal(i)
	return string(raw)
}

func (w *World) putNamespace(ns *Namespace) {
	w.numbersIn[namespaceNumbers] = w.numbersIn[namespaceNumbers].set(numberKey(ns.Doc.NamespaceId)+ns.Doc.Id, struct{}{})
	ns.compiled = w.compileNamespace(ns)
	ns.Redirected = ns.compiled.Redirected
	w.namespaces = w.namespaces.set(ns.Doc.Id, ns)
	w.respace(ns.Doc.Id)
	w.changed(Namespaces, ns.Doc.Id, ns)
}

// refit compiles a namespace whose endpoints changed again.
func (w *World) refit(id string) {
	if ns, ok := w.namespaces.get(id); ok {
		c := *ns
		if c.compiled = w.compileNamespace(&c); c.compiled.Redirected != c.Redirected {
			w.putNamespace(&c)
			return
		}
		w.namespaces = w.namespaces.set(id, &c)
		w.respace(id)
	}
}

func (w *World) dropNamespace(ns *Namespace) {
	w.numbersIn[namespaceNumbers] = w.numbersIn[namespaceNumbers].del(numberKey(ns.Doc.NamespaceId) + ns.Doc.Id)
	w.namespaces = w.namespaces.del(ns.Doc.Id)
	w.respace(ns.Doc.Id)
	w.changed(Namespaces, ns.Doc.Id, nil)
}
