// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

func testGraph() hcn.Graph {
	return hcn.Graph{
		Uplinks: []hcn.GraphUplink{{Name: "eth0", Addresses: []string{"198.51.100.1/24", "2001:db8::1/64"}}},
		Networks: []hcn.GraphNetwork{
			{
				ID: "9c0f", Name: "nat", Type: hcn.NAT, HostNIC: "gh000n0001", HostPort: 1, Outbound: true,
				Subnets: []hcn.GraphSubnet{{Prefix: "10.88.0.0/16", Gateway: "10.88.0.1", Used: 2}, {Prefix: "fd12::/64", Gateway: "fd12::1", Used: 1}},
				Endpoints: []hcn.GraphEndpoint{
					{ID: "11111111-1111", Name: "web", Namespace: "n1", Container: []string{"web"}, Port: 2, Device: "gh000p0002", Interface: "eth0",
						MAC: "00-15-5D-01-02-03", Addresses: []string{"10.88.0.2/16", "fd12::2/64"},
						Published: []hcn.GraphPublished{{Protocol: 6, Port: 8080, To: 80}, {Protocol: 17, Address: "::1", Port: 53, To: 53}}},
					{ID: "22222222-2222", Name: "db<&>", Namespace: "n2", Container: []string{"db"}, Port: 3, Device: "gh000p0003", Interface: "eth0",
						MAC: "00-15-5D-01-02-04", Addresses: []string{"10.88.0.3/16"}},
					{ID: "33333333-3333-3333", Addresses: []string{"10.88.0.4/16"}},
				},
			},
			{ID: "66bb", Name: "flannel.4096", Type: hcn.Overlay, Uplink: "eth0", VXLANPort: 4789, Subnets: []hcn.GraphSubnet{{Prefix: "10.244.3.0/24", Gateway: "10.244.3.1", VSID: 4096}}},
			{ID: "77aa", Name: "vault", Type: hcn.Internal, Subnets: []hcn.GraphSubnet{{Prefix: "10.78.0.0/24"}}},
		},
		Services: []hcn.GraphService{
			{Kind: "services", ID: "44aa", Name: "front", Type: "ClusterIP", Frontends: []string{"10.96.0.9:80/tcp", "[fd96::9]:80/tcp"}, Backends: []string{"web", "db<&>"}},
			{Kind: "services", ID: "44ab", Name: "far", Type: "ExternalName", External: "example.com"},
			{Kind: "loadbalancers", ID: "55bb5555-1111", Frontends: []string{"0.0.0.0:30080/tcp"}},
		},
		Reserved: []hcn.GraphReservation{{ID: "66", Owner: "uid:0", Protocol: 3, StartingPort: 8000, EndingPort: 8009}},
	}
}

func TestDraw(t *testing.T) {
	for name, got := range map[string]string{
		"graph.txt":   drawText(testGraph()),
		"graph.svg":   drawSVG(testGraph()),
		"nothing.txt": drawText(hcn.Graph{}),
	} {
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestDrawingIsXML(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(drawSVG(testGraph())))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
