// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/instance"
)

// TestGuestServices: the states a service goes through, what is told of them, and
// that it is stored with nothing that does not hold.
func TestGuestServices(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"a","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24"}]}]}`)
	w, e, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{}`), b.in)
	if err != nil {
		t.Fatal(err)
	}
	b.w = w.Clean()
	const vm = `"VirtualMachineId":"0E5B0000-0000-0000-0000-000000000001"`
	create := func(members string) (*GuestService, error) {
		next, g, _, err := b.w.CreateGuestService([]byte(`{`+members+`}`), b.in)
		if err == nil {
			b.w = next
		}
		return g, err
	}
	for members, want := range map[string]struct {
		code  hcn.ErrorCode
		field string
	}{
		``:                                  {hcn.E_INVALID_PARAMETER, "VirtualMachineId"},
		vm + `,"Flags":4`:                   {hcn.E_INVALID_PARAMETER, "Flags"},
		vm + `,"SchemaVersion":{"Major":3}`: {hcn.HCN_E_INVALID_JSON, "SchemaVersion"},
		vm + `,"MirrorHostNetworking":true`: {hcn.HCN_E_NOTIMPL, "MirrorHostNetworking"},
		vm + `,"GnsRpcServerInformation":{"EndpointType":"Pipe"}`:                       {hcn.E_INVALID_PARAMETER, "GnsRpcServerInformation.EndpointType"},
		vm + `,"MirroredInterfaces":[{"EndpointId":"` + guid(9) + `"}]`:                 {hcn.HCN_E_ENDPOINT_NOT_FOUND, "MirroredInterfaces[0].EndpointId"},
		vm + `,"MirroredInterfaces":[{"EndpointId":"` + e.Doc.Id + `","State":"Gone"}]`: {hcn.E_INVALID_PARAMETER, "MirroredInterfaces[0].State"},
	} {
		_, err := create(members)
		code(t, err, want.code, want.field)
	}
	g, err := create(vm + `,"Flags":1,"State":"Synchronized","MirroredInterfaces":[{"EndpointId":"` + e.Doc.Id + `"}],"GnsRpcServerInformation":{"EndpointType":"HvSocket"}`)
	if err != nil || g.Doc.State != "Created" || g.Doc.MirroredInterfaces[0].State != "Created" || g.Doc.VirtualMachineId != "0e5b0000-0000-0000-0000-000000000001" {
		t.Fatalf("%+v %v", g, err)
	}
	_, err = create(vm)
	code(t, err, hcn.E_ALREADY_EXISTS, "VirtualMachineId")

	become := func(state string) error {
		next, _, err := b.w.ModifyGuestService(g.Doc.ID, fmt.Appendf(nil, `{"ResourceType":"State","RequestType":"Update","Settings":{"State":%q}}`, state), 0)
		if err == nil {
			b.w = next
		}
		return err
	}
	code(t, become("Synchronized"), hcn.E_INVALID_PARAMETER, "Settings.State")
	for _, s := range []string{"Bootstrapping", "Synchronized", "Synchronized", "Paused", "Rehydrating", "Desynchronized", "Degraded", "Bootstrapping"} {
		if err := become(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"None", "Destroyed", "Created", "", "Running"} {
		code(t, become(s), hcn.E_INVALID_PARAMETER, "Settings.State")
	}
	_, _, err = b.w.ModifyGuestService(g.Doc.ID, []byte(`{"ResourceType":"Policy","RequestType":"Update"}`), 0)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType")
	_, _, err = b.w.ModifyGuestService(g.Doc.ID, []byte(`{"ResourceType":"State","RequestType":"Update","Settings":{"State":"Synchronized"}}`), 3)
	if err == nil {
		t.Error("another version was taken")
	}

	// Stored and loaded, the same; an endpoint that goes leaves it.
	inst, _ := instance.New("")
	again, err := Load(inst, b.w.Numbers(), Rows{Networks: b.w.AllNetworks(), Endpoints: b.w.AllEndpoints(), GuestServices: b.w.AllGuestServices()})
	if found := again.FindGuestServices(Filter{"State": "Bootstrapping", "VirtualMachineId": "0e5b0000-0000-0000-0000-000000000001"}); err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if b.w, err = b.w.DeleteEndpoint(e.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	if now, _ := b.w.GuestService(g.Doc.ID); len(now.Doc.MirroredInterfaces) != 0 {
		t.Errorf("%+v", now.Doc)
	}
	if b.w, err = b.w.DeleteGuestService(g.Doc.ID, 0); err != nil || len(b.w.AllGuestServices()) != 0 {
		t.Error(err)
	}
	_, err = b.w.DeleteGuestService(g.Doc.ID, 0)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "")
	told := map[uint32]int{}
	for _, ev := range b.w.Events() {
		told[ev.Type]++
		if ev.Type == hcn.EventGuestServiceDelete && string(ev.Data) != `{"State":"Destroyed"}` {
			t.Errorf("%s: %s", ev.Name, ev.Data)
		}
	}
	if told[hcn.EventGuestServiceCreate] != 1 || told[hcn.EventGuestServiceState] != 7 || told[hcn.EventGuestServiceInterface] != 1 || told[hcn.EventGuestServiceDelete] != 1 {
		t.Errorf("events: %v", told)
	}
}
