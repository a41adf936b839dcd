// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func (b *bench) modifyPort(id, verb, settings string) error {
	w, _, err := b.w.ModifyEndpoint(id, fmt.Appendf(nil, `{"ResourceType":"Port","RequestType":%q,"Settings":%s}`, verb, settings), 0, b.in)
	if err == nil {
		b.w = w
	}
	return err
}

// plugged is what Desired has of an endpoint: its port, its tap, its interfaces.
func (b *bench) plugged(id string) (port vswitch.Port, taps []Tap, vnics []string) {
	d := flat(b.w)
	for _, p := range d.Switch.Ports {
		if p.Object == id {
			port = p
		}
	}
	for _, c := range d.Compartments {
		for _, v := range c.VNICs {
			if v.Endpoint == id {
				vnics = append(vnics, v.Name)
			}
		}
	}
	return port, d.Taps, vnics
}

// TestVMPort: a virtual machine's port goes before the namespace, has the same
// policies, is told by the document, and goes with it.
func TestVMPort(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.endpoint(n.Doc.Id, `{"Name":"vm","Policies":[{"Type":"ACL","Settings":{"Action":"Block","Direction":"In","Protocols":"6"}},
		{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}},{"Type":"InterfaceParameters","Settings":{"Mtu":1400}}]}`)
	const portID, vm = "11111111-2222-3333-4444-555555555555", "AAAAAAAA-0000-0000-0000-000000000001"
	settings := fmt.Sprintf(`{"PortId":%q,"VirtualNicName":"one--eth0","VirtualMachineId":%q}`, portID, vm)

	for _, where := range []string{"nowhere", "in a namespace"} {
		had := []string(nil)
		if where == "in a namespace" {
			b.attach(b.namespace(`{}`).Doc.Id, e.Doc.Id)
			had = []string{"eth0"}
		}
		if _, taps, vnics := b.plugged(e.Doc.Id); len(taps) != 0 || !slices.Equal(vnics, had) {
			t.Fatalf("%s, before: %v %v", where, taps, vnics)
		}
		for range 2 { // once more changes nothing
			if err := b.modifyPort(e.Doc.Id, "Add", settings); err != nil {
				t.Fatal(err)
			}
		}
		now, _ := b.w.Endpoint(e.Doc.Id)
		port, taps, vnics := b.plugged(e.Doc.Id)
		name := b.w.inst.TapDevice(uint16(e.Port))
		if len(taps) != 1 || taps[0].Name != name || taps[0].Fit(9000) != 1400 || len(vnics) != 0 {
			t.Errorf("%s: taps %+v, interfaces %v", where, taps, vnics)
		}
		if port.Kind != vswitch.PortVM || port.Interface != name || port.MAC != vswitch.MAC(e.mac) || len(port.ACLs) != 1 || port.Host || port.Forward || !port.Up {
			t.Errorf("%s: %+v", where, port)
		}
		if m := flat(b.w).Switch.Mappings; len(m) == 0 || m[0].Port != e.Port {
			t.Errorf("%s: mappings %+v", where, m)
		}
		want := fmt.Sprintf(`{"Allocators":[{"SwitchId":%q,"EndpointPortGuid":%q,"Device":%q}]}`, n.Doc.Health.Extra.SwitchGuid, portID, name)
		if got := string(now.Doc.Health.Extra.Resources); got != want || now.Doc.State != StateAttached || now.Doc.Health.Extra.VirtualMachine != strings.ToLower(vm) {
			t.Errorf("%s: resources %s, want %s; state %d, machine %q", where, got, want, now.Doc.State, now.Doc.Health.Extra.VirtualMachine)
		}
		var back Endpoint
		if raw, err := json.Marshal(now); err != nil || json.Unmarshal(raw, &back) != nil || back.VM == nil || *back.VM != *now.VM {
			t.Errorf("%s: stored and read: %+v, %v", where, back.VM, err)
		}

		code(t, b.modifyPort(e.Doc.Id, "Add", `{"VirtualMachineId":"bbbbbbbb-0000-0000-0000-000000000001"}`), hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "", "This endpoint is already attached to the switch.", portID)
		code(t, b.modifyPort(e.Doc.Id, "Remove", `{"PortId":"bbbbbbbb-0000-0000-0000-000000000001"}`), hcn.E_ELEMENT_NOT_FOUND, "Settings.PortId")
		code(t, b.modifyPort(e.Doc.Id, "Remove", `{"VirtualMachineId":"bbbbbbbb-0000-0000-0000-000000000001"}`), hcn.E_ELEMENT_NOT_FOUND, "Settings.VirtualMachineId")
		code(t, b.modifyPort(e.Doc.Id, "Update", `{}`), hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType")
		if err := b.modifyPort(e.Doc.Id, "Remove", `{"PortId":"00000000-0000-0000-0000-000000000000"}`); err != nil {
			t.Fatal(err)
		}
		now, _ = b.w.Endpoint(e.Doc.Id)
		if _, taps, vnics := b.plugged(e.Doc.Id); len(taps) != 0 || !slices.Equal(vnics, had) || now.Doc.Health.Extra.Resources != nil || now.VM != nil {
			t.Errorf("%s, after: %v %v %s", where, taps, vnics, now.Doc.Health.Extra.Resources)
		}
		if want := map[string]uint16{"nowhere": StateDetached, "in a namespace": StateAttached}[where]; now.Doc.State != want {
			t.Errorf("%s, after: state %d, want %d", where, now.Doc.State, want)
		}
		code(t, b.modifyPort(e.Doc.Id, "Remove", `{}`), hcn.HCN_E_ENDPOINT_NOT_ATTACHED, "")
	}

	// Leaving the namespace keeps the port; a port id is one endpoint's; the host's own
	// namespace is no place for both.
	if err := b.modifyPort(e.Doc.Id, "Add", settings); err != nil {
		t.Fatal(err)
	}
	now, _ := b.w.Endpoint(e.Doc.Id)
	if err := b.modifyNamespace(now.Doc.HostComputeNamespace, "Endpoint", "Remove", "EndpointId", e.Doc.Id); err != nil {
		t.Fatal(err)
	}
	if now, _ = b.w.Endpoint(e.Doc.Id); now.Doc.State != StateAttached || !now.Attached() {
		t.Errorf("out of its namespace: %+v", now.Doc)
	}
	other := b.endpoint(n.Doc.Id, `{"Name":"other"}`)
	code(t, b.modifyPort(other.Doc.Id, "Add", settings), hcn.E_ALREADY_EXISTS, "Settings.PortId", "vm")
	host := b.namespace(`{"NamespaceId":1}`)
	code(t, b.modifyNamespace(host.Doc.Id, "Endpoint", "Add", "EndpointId", e.Doc.Id), hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "")
	b.attach(host.Doc.Id, other.Doc.Id)
	code(t, b.modifyPort(other.Doc.Id, "Add", `{}`), hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "")
	for _, bad := range []struct{ settings, field string }{
		{`{"PortId":"x"}`, "Settings.PortId"},
		{`{"VirtualNicName":"a\nb"}`, "Settings.VirtualNicName"},
		{fmt.Sprintf(`{"VirtualMachineId":%q}`, strings.Repeat("x", 300)), "Settings.VirtualMachineId"},
	} {
		code(t, b.modifyPort(other.Doc.Id, "Add", bad.settings), hcn.E_INVALID_PARAMETER, bad.field)
	}
	w, err := b.w.DeleteEndpoint(e.Doc.Id, 0, b.in)
	if err != nil {
		t.Fatal(err)
	}
	if taps := w.Desired().Taps; len(taps) != 0 {
		t.Errorf("after the endpoint: %v", taps)
	}
}
