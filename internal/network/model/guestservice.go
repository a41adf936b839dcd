// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// GuestServiceDoc is the networking service inside a virtual machine, on the wire. Its
// states are what the client that runs the machine says: the service stores them.
type GuestServiceDoc struct {
	ID                      string                  `json:",omitempty"`
	Name                    string                  `json:",omitempty"`
	Owner                   string                  `json:",omitempty"`
	VirtualMachineId        string                  `json:",omitempty"`
	MirrorHostNetworking    bool                    `json:",omitempty"`
	MirroredInterfaces      []GuestServiceInterface `json:",omitempty"`
	GnsRpcServerInformation *GuestServiceServer     `json:",omitempty"`
	Flags                   uint32                  // 1 flow steering, 2 managed by the guest: stored
	State                   string                  `json:",omitempty"`
	AdditionalParams        json.RawMessage         `json:",omitempty"`
	SchemaVersion           hcn.SchemaVersion
	Version                 uint64 `json:",omitempty"`
}

// GuestServiceInterface is an endpoint as the machine has it.
type GuestServiceInterface struct {
	EndpointId          string
	InterfaceGuid       string `json:",omitempty"`
	State               string `json:",omitempty"`
	MissedNotifications uint32 `json:",omitempty"`
}

// GuestServiceServer is where the machine's agent listens.
type GuestServiceServer struct {
	NetworkAddress  string `json:",omitempty"`
	EndpointAddress string `json:",omitempty"`
	EndpointType    string `json:",omitempty"` // HvSocket or LRpc
	ObjectUuid      string `json:",omitempty"`
}

// GuestService is a stored row.
type GuestService struct {
	Doc      GuestServiceDoc
	Sequence uint64
	Created  time.Time
	Body     string
}

// States of a guest network service and of its interfaces.
const (
	guestCreated        = "Created"
	guestBootstrapping  = "Bootstrapping"
	guestSynchronized   = "Synchronized"
	guestPaused         = "Paused"
	guestDesynchronized = "Desynchronized"
	guestRehydrating    = "Rehydrating"
	guestDegraded       = "Degraded"
)

// guestNext are the states that may follow one. Any may become Degraded; Destroyed is
// what a deletion says, and None what was never created.
func guestNext(state string) []string {
	var next []string
	switch state {
	case guestCreated:
		next = []string{guestBootstrapping}
	case guestBootstrapping:
		next = []string{guestSynchronized, guestDesynchronized}
	case guestSynchronized:
		next = []string{guestDesynchronized, guestPaused}
	case guestPaused, guestDesynchronized:
		next = []string{guestSynchronized, guestDesynchronized, guestPaused, guestRehydrating, guestBootstrapping}
	case guestRehydrating:
		next = []string{guestSynchronized, guestDesynchronized}
	case guestDegraded:
		return []string{guestBootstrapping, guestRehydrating}
	}
	return append(next, guestDegraded)
}

const knownGuestFlags = 3

// GuestService by id.
func (w World) GuestService(id string) (*GuestService, bool) {
	return w.guestServices.get(strings.ToLower(id))
}

// AllGuestServices in order of creation.
func (w World) AllGuestServices() []*GuestService {
	return sorted(w.guestServices, func(g *GuestService) uint64 { return g.Sequence })
}

// CreateGuestService adds the service of a virtual machine. created is false when the
// identical create, with its id, was done before.
func (w World) CreateGuestService(body []byte, in Input) (next World, g *GuestService, created bool, err error) {
	var d GuestServiceDoc
	if err := decode(body, &d); err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.ID, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.guestServices.get(id); ok {
		if d.ID != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "guest network service %s exists", id)
	}
	g = &GuestService{Doc: d, Created: in.Now, Body: digest(body)}
	g.Doc.ID, g.Doc.Version, g.Doc.State = id, 1, guestCreated
	if g.Doc.Owner == "" {
		g.Doc.Owner = in.Owner
	}
	if g.Doc.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return w, nil, false, err
	}
	if err := w.checkGuestService(&g.Doc); err != nil {
		return w, nil, false, err
	}
	g.Sequence = w.sequence()
	w.putGuestService(g)
	w.guestEvent(hcn.EventGuestServiceCreate, "GuestNetworkServiceCreate", g.Doc)
	return w, g, true, nil
}

func (w World) checkGuestService(d *GuestServiceDoc) error {
	vm, ok := parseGUID(d.VirtualMachineId)
	if !ok || vm == zeroGUID {
		return refuseAt(hcn.E_INVALID_PARAMETER, "VirtualMachineId", "%q is not the GUID of a virtual machine", d.VirtualMachineId)
	}
	d.VirtualMachineId = vm
	for _, o := range w.guestServices.all {
		if o.Doc.VirtualMachineId == vm {
			return refuseAt(hcn.E_ALREADY_EXISTS, "VirtualMachineId", "virtual machine %s has the guest network service %s", vm, o.Doc.ID)
		}
	}
	switch {
	case d.Flags&^knownGuestFlags != 0:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", d.Flags)
	case d.MirrorHostNetworking:
		return notBuilt("MirrorHostNetworking", "mirroring the host's own interfaces")
	}
	if s := d.GnsRpcServerInformation; s != nil && s.EndpointType != "" && s.EndpointType != "HvSocket" && s.EndpointType != "LRpc" {
		return refuseAt(hcn.E_INVALID_PARAMETER, "GnsRpcServerInformation.EndpointType", "%q is neither HvSocket nor LRpc", s.EndpointType)
	}
	d.MirroredInterfaces = slices.Clone(d.MirroredInterfaces)
	for i := range d.MirroredInterfaces {
		f := &d.MirroredInterfaces[i]
		field := fmt.Sprintf("MirroredInterfaces[%d]", i)
		e, ok := w.Endpoint(f.EndpointId)
		switch {
		case !ok:
			return at(field+".EndpointId", endpointMissing(f.EndpointId))
		case e.IsRemote():
			return remoteRefused(field+".EndpointId", "an interface of a virtual machine")
		case slices.ContainsFunc(d.MirroredInterfaces[:i], func(o GuestServiceInterface) bool { return o.EndpointId == e.Doc.Id }):
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".EndpointId", "%s is listed twice", e.Doc.Id)
		}
		f.EndpointId = e.Doc.Id
		switch f.State {
		case "":
			f.State = guestCreated
		case guestCreated, guestBootstrapping, guestSynchronized, guestDesynchronized, guestPaused:
		default:
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".State", "%q is not a state of an interface", f.State)
		}
	}
	return nil
}

// ModifyGuestService takes a new state.
func (w World) ModifyGuestService(id string, body []byte, match uint64) (World, *GuestService, error) {
	g, ok := w.GuestService(id)
	if !ok {
		return w, nil, guestServiceMissing(id)
	}
	if match != 0 && match != g.Doc.Version {
		return w, nil, versionMismatch(g.Doc.Version, match)
	}
	r, err := decodeModify(body)
	if err != nil {
		return w, nil, err
	}
	if r.ResourceType != "State" {
		return w, nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType", "%q: a guest network service has State", r.ResourceType)
	}
	if r.RequestType != hcn.RequestTypeUpdate {
		return w, nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: a State takes Update", r.RequestType)
	}
	var s struct{ State string }
	if err := decode(r.Settings, &s); err != nil {
		return w, nil, at("Settings", err)
	}
	if s.State == g.Doc.State {
		return w, g, nil
	}
	if next := guestNext(g.Doc.State); !slices.Contains(next, s.State) {
		return w, nil, refuseAt(hcn.E_INVALID_PARAMETER, "Settings.State", "%q cannot follow %s; %s can", s.State, g.Doc.State, strings.Join(next, ", "))
	}
	c := *g
	c.Doc.State = s.State
	c.Doc.Version++
	w.putGuestService(&c)
	w.guestEvent(hcn.EventGuestServiceState, "GuestNetworkServiceStateChanged", c.Doc)
	return w, &c, nil
}

// DeleteGuestService removes the service of a virtual machine; endpoints live on.
func (w World) DeleteGuestService(id string, match uint64) (World, error) {
	g, ok := w.GuestService(id)
	if !ok {
		return w, guestServiceMissing(id)
	}
	if match != 0 && match != g.Doc.Version {
		return w, versionMismatch(g.Doc.Version, match)
	}
	w.guestServices = w.guestServices.del(g.Doc.ID)
	w.changed(GuestServices, g.Doc.ID, nil)
	gone := g.Doc
	gone.State = "Destroyed"
	w.guestEvent(hcn.EventGuestServiceDelete, "GuestNetworkServiceDelete", gone)
	return w, nil
}

func (w *World) putGuestService(g *GuestService) {
	w.guestServices = w.guestServices.set(g.Doc.ID, g)
	w.changed(GuestServices, g.Doc.ID, g)
}

// leaveGuestServices takes an endpoint that goes out of the machines that have it.
func (w *World) leaveGuestServices(endpoint string) {
	for _, g := range w.guestServices.all {
		is := func(f GuestServiceInterface) bool { return f.EndpointId == endpoint }
		if !slices.ContainsFunc(g.Doc.MirroredInterfaces, is) {
			continue
		}
		c := *g
		c.Doc.MirroredInterfaces = slices.DeleteFunc(slices.Clone(g.Doc.MirroredInterfaces), is)
		c.Doc.Version++
		w.putGuestService(&c)
		w.guestEvent(hcn.EventGuestServiceInterface, "GuestNetworkServiceInterfaceStateChanged", c.Doc)
	}
}

func (w *World) guestEvent(typ uint32, name string, d GuestServiceDoc) {
	w.event(typ, name, GuestServices, d.ID, struct {
		State      string
		Interfaces []GuestServiceInterface `json:",omitempty"`
	}{d.State, d.MirroredInterfaces})
}

func guestServiceMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "guest network service %q: Element not found.", ref)
}

// FindGuestServices in order of creation. State is a name here, and VirtualMachineId a
// member to look for.
func (w World) FindGuestServices(f Filter) []*GuestService {
	var out []*GuestService
	for _, g := range w.AllGuestServices() {
		if f.match(func(m string) (string, bool) {
			switch m {
			case "state":
				return g.Doc.State, true
			case "virtualmachineid":
				return g.Doc.VirtualMachineId, true
			}
			return base(m, g.Doc.ID, g.Doc.Name, g.Doc.Owner, 0)
		}) {
			out = append(out, g)
		}
	}
	return out
}

// ResolveGuestService finds by GUID or "name:<name>".
func (w World) ResolveGuestService(ref string) (*GuestService, error) {
	return resolve(ref, w.GuestService, w.FindGuestServices, guestServiceMissing, "guest network services")
}
