// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// VMPort is what plugs an endpoint into the switch where its vNIC is a virtual
// machine's: a tap of the host, whose other end the machine's monitor opens. It goes
// before a namespace that the endpoint is in, which then has no interface of it.
type VMPort struct {
	ID      string // GUID, lower case
	NIC     string `json:",omitempty"` // VirtualNicName
	Machine string `json:",omitempty"` // VirtualMachineId
}

// Tap is a device of the host's namespace that a virtual machine's monitor opens:
// persistent, with virtio-net headers, one queue, of no user but root.
type Tap struct {
	Endpoint string // endpoint GUID
	Name     string
	MTU      int // as of VNIC
	Overhead int
	Uplink   string
	Alias    string
	IPv6     bool // it has an address of that family
}

// Fit as on VNIC.
func (t *Tap) Fit(follow int) int {
	least := leastMTU4
	if t.IPv6 {
		least = leastMTU6
	}
	return fitMTU(t.MTU, t.Overhead, follow, least)
}

// maxMachine bounds VirtualNicName and VirtualMachineId. Ours: of any use they are
// GUIDs and names of systems.
const maxMachine = 256

// modifyPort plugs an endpoint into a virtual machine, or out.
func (w World) modifyPort(e *Endpoint, r modifyRequest, in Input) (World, *Endpoint, error) {
	if e.IsRemote() {
		return w, nil, remoteRefused("ResourceType", "a port of a virtual machine")
	}
	var s struct{ PortId, VirtualNicName, VirtualMachineId string }
	if len(r.Settings) > 0 {
		if err := decode(r.Settings, &s); err != nil {
			return w, nil, at("Settings", err)
		}
	}
	for field, v := range map[string]string{"VirtualNicName": s.VirtualNicName, "VirtualMachineId": s.VirtualMachineId} {
		if len(v) > maxMachine || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return w, nil, refuseAt(hcn.E_INVALID_PARAMETER, "Settings."+field, "%.40q: at most %d bytes, none of them a control character", v, maxMachine)
		}
	}
	want := VMPort{NIC: s.VirtualNicName, Machine: guidOr(s.VirtualMachineId)}
	if s.PortId != "" && s.PortId != zeroGUID {
		id, ok := parseGUID(s.PortId)
		if !ok {
			return w, nil, refuseAt(hcn.E_INVALID_PARAMETER, "Settings.PortId", "%q is not a GUID", s.PortId)
		}
		want.ID = id
	}
	switch r.RequestType {
	case hcn.RequestTypeAdd:
		return w.addVMPort(e, want, in)
	case hcn.RequestTypeRemove:
		return w.removeVMPort(e, want)
	case hcn.RequestTypeRefresh:
		return w, e, nil
	}
	return w, nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add plugs an endpoint into a virtual machine, Remove takes it out", r.RequestType)
}

// guidOr is a GUID in lower case, none for that of zeros, or what else it is.
func guidOr(s string) string {
	if id, ok := parseGUID(s); ok {
		s = id
	}
	if s == zeroGUID {
		return ""
	}
	return s
}

func (w World) addVMPort(e *Endpoint, p VMPort, in Input) (World, *Endpoint, error) {
	if had := e.VM; had != nil {
		if p.ID == "" {
			p.ID = had.ID
		}
		if *had == p {
			return w, e, nil
		}
		return w, nil, refuse(hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "This endpoint is already attached to the switch. %s has port %s of virtual machine %q; remove that first",
			w.endpointLabel(e.Doc.Id), had.ID, had.Machine)
	}
	if ns, ok := w.namespaces.get(e.Doc.HostComputeNamespace); ok && ns.isHostOwn() {
		return w, nil, refuse(hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "This endpoint is already attached to the switch. %s is in the host's own namespace; detach it there first", w.endpointLabel(e.Doc.Id))
	}
	if len(e.redirects()) > 0 {
		return w, nil, w.noRedirect(e, "to be a port of a virtual machine")
	}
	if p.ID == "" {
		p.ID = in.NewID()
	}
	for _, o := range w.endpoints.all {
		if o.VM != nil && o.VM.ID == p.ID {
			return w, nil, refuseAt(hcn.E_ALREADY_EXISTS, "Settings.PortId", "port %s is that of %s", p.ID, w.endpointLabel(o.Doc.Id))
		}
	}
	c := *e
	c.VM, c.Doc.State = &p, StateAttached
	c.Instance++
	n, _ := w.networks.get(e.Doc.HostComputeNetwork)
	var err error
	if c.Doc.Health.Extra, err = w.vmHealth(&c, n); err != nil {
		return w, nil, err
	}
	w.setVMPort(&c)
	w.attachEvent(hcn.EventNetworkEndpointAttached, "NetworkEndpointAttached", &c, c.Doc.HostComputeNamespace)
	return w, &c, nil
}

func (w World) removeVMPort(e *Endpoint, p VMPort) (World, *Endpoint, error) {
	switch {
	case e.VM == nil:
		return w, nil, refuse(hcn.HCN_E_ENDPOINT_NOT_ATTACHED, "%s has no port of a virtual machine", w.endpointLabel(e.Doc.Id))
	case p.ID != "" && p.ID != e.VM.ID:
		return w, nil, refuseAt(hcn.E_ELEMENT_NOT_FOUND, "Settings.PortId", "Element not found. %s has port %s", w.endpointLabel(e.Doc.Id), e.VM.ID)
	case p.Machine != "" && p.Machine != e.VM.Machine:
		return w, nil, refuseAt(hcn.E_ELEMENT_NOT_FOUND, "Settings.VirtualMachineId", "Element not found. The port of %s is of virtual machine %q", w.endpointLabel(e.Doc.Id), e.VM.Machine)
	}
	c := *e
	c.VM, c.Doc.State = nil, StateDetached
	c.Doc.Health.Extra.Resources, c.Doc.Health.Extra.VirtualMachine = nil, ""
	if ns, ok := w.namespaces.get(c.Doc.HostComputeNamespace); ok {
		c.Doc.State = ns.endpointState()
		c.Instance++ // its interface there comes back
	}
	w.setVMPort(&c)
	w.attachEvent(hcn.EventNetworkEndpointDetached, "NetworkEndpointDetached", &c, c.Doc.HostComputeNamespace)
	return w, &c, nil
}

// setVMPort writes an endpoint whose port came or went; its namespace loses the
// interface, or has it again.
func (w *World) setVMPort(e *Endpoint) {
	e.Doc.Version++
	w.putEndpoint(e)
	w.refit(e.Doc.HostComputeNamespace)
	w.event(hcn.EventEndpointModify, "EndpointModify", Endpoints, e.Doc.Id, e.Doc)
}

// vmHealth is what a document says of its port: as Windows does, and the name of
// the device to open.
func (w *World) vmHealth(e *Endpoint, n *Network) (x hcn.ExtraParams, err error) {
	type allocator struct{ SwitchId, EndpointPortGuid, Device string }
	x = e.Doc.Health.Extra
	x.VirtualMachine = e.VM.Machine
	x.Resources, err = json.Marshal(struct{ Allocators []allocator }{[]allocator{
		{n.Doc.Health.Extra.SwitchGuid, e.VM.ID, w.inst.TapDevice(uint16(e.Port))},
	}})
	return x, err
}

// compileTap is the device of an endpoint's VMPort.
func compileTap(e *Endpoint, n *Network, inst instance.Instance) Tap {
	v := compileVNIC(e, n, 0, false, inst)
	t := Tap{Endpoint: e.Doc.Id, Name: inst.TapDevice(uint16(e.Port)), MTU: v.MTU, Overhead: v.Overhead, Uplink: v.Uplink, Alias: v.Alias}
	for _, a := range e.addrs {
		t.IPv6 = t.IPv6 || a.Addr().Is6()
	}
	return t
}

// plugVM makes a port what a virtual machine's is.
func (e *Endpoint) plugVM(p *vswitch.Port, inst instance.Instance) {
	p.Kind, p.Interface = vswitch.PortVM, inst.TapDevice(uint16(e.Port))
}
