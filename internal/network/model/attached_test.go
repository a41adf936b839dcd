// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestHostAttach: in the host's own compartment a vNIC has addresses and nothing else.
func TestHostAttach(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	for _, body := range []string{`{"NamespaceId":1}`, `{"Type":"HostDefault"}`, `{"Type":"HostDefault","NamespaceId":1}`} {
		ns := b.namespace(body)
		if ns.Doc.NetNsPath != "" {
			t.Errorf("%s: path %s", body, ns.Doc.NetNsPath)
		}
		e := b.endpoint(n.Doc.Id, `{"Name":"gw_ep"}`)
		b.attach(ns.Doc.Id, e.Doc.Id)
		b.attach(ns.Doc.Id, e.Doc.Id) // once more changes nothing
		e, _ = b.w.Endpoint(e.Doc.Id)
		if e.Doc.State != StateAttached || e.compiled.port.Kind != vswitch.PortVM {
			t.Errorf("%s: state %d, port %s", body, e.Doc.State, e.compiled.port.Kind)
		}
		ns, _ = b.w.Namespace(ns.Doc.Id)
		c := ns.compiled
		if !c.Foreign || len(c.VNICs) != 1 {
			t.Fatalf("%s: %+v", body, c)
		}
		v := c.VNICs[0]
		if !v.Host || v.Name != b.w.inst.AttachedDevice(uint16(e.Port)) || len(v.Addrs) != 1 || len(v.Routes)+len(v.Neighbours) != 0 {
			t.Errorf("%s: %+v", body, v)
		}
		// It is in one place only.
		other := b.namespace(`{}`)
		code(t, b.modifyNamespace(other.Doc.Id, "Endpoint", "Add", "EndpointId", e.Doc.Id), hcn.HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS, "")
		w, err := b.w.DeleteNamespace(ns.Doc.Id, 0)
		if err != nil {
			t.Fatal(err)
		}
		b.w = w
		if e, _ := b.w.Endpoint(e.Doc.Id); e.Doc.State != StateDetached || e.compiled.attached {
			t.Errorf("%s: %+v", body, e.Doc)
		}
		b.attach(other.Doc.Id, e.Doc.Id)
		host := b.namespace(body)
		code(t, b.modifyNamespace(host.Doc.Id, "Endpoint", "Add", "EndpointId", e.Doc.Id), hcn.HCN_E_ENDPOINT_ALREADY_ATTACHED, "", "This endpoint is already attached to the switch.")
	}
	if ns := b.namespace(`{"Type":"HostDefault","NamespaceId":5}`); ns.compiled.Foreign || ns.Doc.NetNsPath == "" {
		t.Errorf("%+v is not a compartment of its own", ns.compiled)
	}
	if ns := b.namespace(`{"Type":"Guest","NamespaceId":1}`); ns.compiled.ID != "" {
		t.Errorf("%+v: a guest's is in the virtual machine", ns.compiled)
	}
}
