// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"encoding/json"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
	"gatehouse.dev/gatehouse/internal/resource"
)

// hostCompartment is the number of the host's own compartment.
const hostCompartment = 1

// attachment is attach and detach of an endpoint.
func (h Handler) attachment(q request) (resource.Doc, error) {
	var r hns.AttachRequest
	if len(q.body) > 0 || q.verb == "attach" {
		if err := q.decode(&r); err != nil {
			return resource.Doc{}, err
		}
	}
	d, err := h.o.HCN[endpoints].Get(q.ctx, q.id, nil)
	if err != nil {
		return d, err
	}
	var e endpointDoc
	if err := json.Unmarshal(d.JSON, &e); err != nil {
		return d, err
	}
	if r.SystemType == "VirtualMachine" {
		return h.port(q, r)
	}
	if r.SystemType != "Container" && r.SystemType != "Host" && (q.verb == "attach" || r.SystemType != "") {
		return d, refuse(hcn.E_INVALID_PARAMETER, "SystemType", "%q is none of Container, VirtualMachine and Host", r.SystemType)
	}
	ns, verb, made := e.HostComputeNamespace, hcn.RequestTypeRemove, false
	switch {
	case q.verb == "attach":
		verb = hcn.RequestTypeAdd
		if ns, made, err = h.place(q, r); err != nil {
			return d, err
		}
	case ns == "":
		return d, refuse(hcn.HCN_E_ENDPOINT_NOT_ATTACHED, "", "endpoint %s is not attached", e.Id)
	}
	req, err := resourceUp(hns.Resource{Type: string(hcn.NamespaceResourceTypeEndpoint), Data: hns.ResourceData{Id: e.Id}}, verb)
	if err != nil {
		return d, err
	}
	if _, err := h.o.HCN[namespaces].Modify(q.ctx, ns, req, 0); err != nil {
		if made { // for this alone; what uses it meanwhile keeps it
			_ = h.o.HCN[namespaces].Delete(q.ctx, ns, 1)
		}
		return d, err
	}
	return h.o.HCN[endpoints].Get(q.ctx, q.id, nil)
}

// place is the namespace that a request attaches to; the host's own is made where
// there is none yet.
func (h Handler) place(q request, r hns.AttachRequest) (id string, made bool, err error) {
	spaces, err := all(h, q, namespaces, namespaceDown)
	if err != nil {
		return "", false, err
	}
	number := uint32(r.CompartmentId)
	if r.SystemType == "Host" && number == 0 {
		number = hostCompartment
	}
	if number == 0 {
		for _, n := range spaces {
			if slices.Contains(n.ResourceList, hns.Resource{Type: string(hcn.NamespaceResourceTypeContainer), Data: hns.ResourceData{Id: r.ContainerId}}) {
				return n.ID, false, nil
			}
		}
		if id = h.o.NamespaceOf(q.ctx, r.ContainerId); id == "" {
			err = refuse(hcn.E_ELEMENT_NOT_FOUND, "ContainerId", "container %q: Element not found. It is neither a compute system nor in a namespace; name a CompartmentId", r.ContainerId)
		}
		return id, false, err
	}
	for _, n := range spaces {
		if n.CompartmentId == number || number == hostCompartment && n.IsDefault && n.CompartmentId == 0 {
			return n.ID, false, nil
		}
	}
	if number != hostCompartment {
		return "", false, refuse(hcn.E_ELEMENT_NOT_FOUND, "CompartmentId", "compartment %d: Element not found.", number)
	}
	doc, err := encode(hcn.HostComputeNamespace{NamespaceId: hostCompartment, Type: hcn.NamespaceTypeHostDefault, SchemaVersion: hcn.V2SchemaVersion()})
	if err != nil {
		return "", false, err
	}
	d, _, err := h.o.HCN[namespaces].Create(q.ctx, doc)
	return d.ID, true, err
}

// port attaches a virtual machine's vNIC, or detaches it.
func (h Handler) port(q request, r hns.AttachRequest) (resource.Doc, error) {
	req := hcn.ModifyEndpointSettingRequest{ResourceType: hcn.EndpointResourceTypePort, RequestType: hcn.RequestTypeRemove}
	if q.verb == "attach" {
		req.RequestType = hcn.RequestTypeAdd
	}
	var err error
	if req.Settings, err = encode(struct {
		VirtualNicName, VirtualMachineId string `json:",omitempty"`
	}{r.VirtualNicName, r.ContainerId}); err != nil {
		return resource.Doc{}, err
	}
	raw, err := encode(req)
	if err != nil {
		return resource.Doc{}, err
	}
	return h.o.HCN[endpoints].Modify(q.ctx, q.id, raw, 0)
}
