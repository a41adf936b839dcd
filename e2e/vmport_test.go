// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/nettest"
)

// vmPort plugs an endpoint into a virtual machine as hcsshim does, and answers the
// device that the document names.
func (b *docBench) vmPort(endpoint string) string {
	b.t.Helper()
	var d struct {
		State  uint16
		Health struct {
			Extra struct {
				VirtualMachine string
				Resources      struct {
					Allocators []struct{ SwitchId, EndpointPortGuid, Device string }
				}
			}
		}
	}
	const port, vm = "0a0a0a0a-1111-2222-3333-444444444444", "0b0b0b0b-1111-2222-3333-444444444444"
	body := fmt.Sprintf(`{"ResourceType":"Port","RequestType":"Add","Settings":{"PortId":%q,"VirtualNicName":"box@vm--eth0","VirtualMachineId":%q}}`, port, vm)
	b.must("POST", "/endpoints/"+endpoint+"/modify", body, &d)
	a := d.Health.Extra.Resources.Allocators
	if len(a) != 1 || a[0].EndpointPortGuid != port || a[0].SwitchId == "" || d.State != 2 || d.Health.Extra.VirtualMachine != vm {
		b.t.Fatalf("%+v", d)
	}
	return a[0].Device
}

// TestVMPort: a virtual machine behind a tap is an endpoint like any other: it
// reaches and is reached by containers, the host, and machines outside; its
// published port, its ACL and the guard against other addresses are those of its
// endpoint; a daemon that is killed leaves it running. With its port removed its
// container's interface is back.
//
//covers:endpoint PortMapping ACL
func TestVMPort(t *testing.T) {
	b := newDocBench(t)
	var n struct{ ID string }
	b.must("POST", "/networks", `{"Name":"vms","Type":"NAT","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.79.0.0/24"},{"IpAddressPrefix":"fd79::/64"}]}]}`, &n)
	t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
	b.network = n.ID
	pod := b.machine("pod")
	box := b.idle("box") // in a namespace, as a pod's endpoint is
	b.must("POST", "/endpoints/"+box.id+"/modify", `{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[
		{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}}]}}`, nil)
	eth0 := func() bool {
		_, err := b.run(box.netns, "ip", "link", "show", "eth0")
		return err == nil
	}
	if !eth0() {
		t.Fatal("no interface in the namespace to begin with")
	}

	tap := b.vmPort(box.id)
	if eth0() {
		t.Error("the namespace kept its interface beside the virtual machine's")
	}
	host := b.path(b.ns)
	g := nettest.NewGuest(t, func(f func() error) error {
		_, err := within(host, func() (struct{}, error) { return struct{}{}, f() })
		return err
	}, tap)
	var doc hcn.HostComputeEndpoint
	b.must("GET", "/endpoints/"+box.id, "", &doc)
	guest := g.NS.Path()
	for _, line := range []string{
		"link set eth0 address " + strings.ReplaceAll(doc.MacAddress, "-", ":"),
		"addr add " + box.v4 + "/24 dev eth0",
		"addr add " + box.v6 + "/64 dev eth0 nodad",
		"route add default via 10.79.0.1",
		"-6 route add default via fd79::1",
	} {
		if out, err := b.run(guest, strings.Fields("ip "+line)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	x := b.path(b.out)
	b.serve(guest)
	b.serve(x)
	all := func() {
		t.Helper()
		for _, a := range []string{box.v4 + ":80", "[" + box.v6 + "]:80"} {
			b.reaches(pod.netns, a)
			b.reaches(host, a)
		}
		for _, a := range []string{pod.v4 + ":80", "[" + pod.v6 + "]:80", outV4 + ":80", "[" + outV6 + "]:80"} {
			b.reaches(guest, a)
		}
		b.reaches(x, hostV4+":8080")
	}
	all()
	b.kill9()
	all()
	b.start()
	all()
	if again := b.vmPort(box.id); again != tap {
		t.Errorf("the same port once more: %s, was %s", again, tap)
	}

	// Its endpoint's rules are the tap's, and nobody speaks for another address.
	b.must("POST", "/endpoints/"+box.id+"/modify", `{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[
		{"Type":"ACL","Settings":{"Action":"Block","Direction":"Out","Protocols":"6","RemoteAddresses":"`+pod.v4+`","Priority":100}}]}}`, nil)
	b.unreached(guest, pod.v4+":80")
	b.reaches(guest, "["+pod.v6+"]:80")
	if out, err := b.run(guest, "ip", "addr", "add", "10.79.0.77/24", "dev", "eth0"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := b.run(guest, "ping", "-c", "1", "-W", "1", "-I", "10.79.0.77", "10.79.0.1"); err == nil {
		t.Errorf("an address of nobody's is answered: %s", out)
	}

	// v1 programs say the same otherwise; a container's interface comes back.
	b.mustV1("POST", "/endpoints/"+box.id+"/detach", `{"SystemType":"VirtualMachine"}`, nil)
	if !eth0() {
		t.Error("the namespace has no interface again")
	}
	if out := b.mustAt(b.ns, "ip", "-br", "link"); strings.Contains(out, tap) {
		t.Errorf("%s is still there:\n%s", tap, out)
	}
	b.mustV1("POST", "/endpoints/"+box.id+"/attach", `{"SystemType":"VirtualMachine","ContainerId":"box@vm","VirtualNicName":"eth0"}`, nil)
	b.must("GET", "/endpoints/"+box.id, "", &doc)
	if doc.Health.Extra.VirtualMachine != "box@vm" {
		t.Errorf("after a v1 attach: %+v", doc.Health)
	}
}
