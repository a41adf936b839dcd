// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"gatehouse.dev/gatehouse/hcn"
)

// TestPolicyFlags: flags become settings, and of a removal only what they say.
func TestPolicyFlags(t *testing.T) {
	for _, c := range []struct {
		words string
		want  string // settings or the error
	}{
		{"add acl --direction in --protocol tcp,udp --remote 10.0.0.0/8 --local-port 80,8000-8099 --priority 7",
			`[{"Type":"ACL","Settings":{"Action":"Block","Direction":"In","LocalPorts":"80,8000-8099","Priority":7,"Protocols":"6,17","RemoteAddresses":"10.0.0.0/8"}}]`},
		{"add-network acl --direction out --action allow", `[{"Type":"NetworkACL","Settings":{"Action":"Allow","Direction":"Out","Priority":1000}}]`},
		{"add acl", `--direction ""`},
		{"add acl --direction in --protocol x", `--protocol "x"`},
		{"add acl --direction in --rate 1MB", "--rate is of policies QOS, not ACL"},
		{"add qos --rate 10MB", `[{"Type":"QOS","Settings":{"MaximumOutgoingBandwidthInBytes":10000000}}]`},
		{"add qos --rate fast", `--rate "fast"`},
		{"add nat --vip 192.0.2.9 --exception 10.0.0.0/8", `[{"Type":"OutBoundNAT","Settings":{"VirtualIP":"192.0.2.9","Exceptions":["10.0.0.0/8"]}}]`},
		{"add port -p 127.0.0.1:8080:80 -p 53:53/udp", `[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080,"VIP":"127.0.0.1"}},{"Type":"PortMapping","Settings":{"Protocol":17,"InternalPort":53,"ExternalPort":53}}]`},
		{"add port", "--publish"},
		{"add SDNRoute", "--json"},
		{`add SDNRoute --json {"NextHop":"10.0.0.1"}`, `[{"Type":"SDNRoute","Settings":{"NextHop":"10.0.0.1"}}]`},
		{"add SDNRoute --json {", "not JSON"},
		{"add acl --direction in --json {}", "in one way"},
		{"rm acl --remote 10.0.0.0/8", `[{"Type":"ACL","Settings":{"RemoteAddresses":"10.0.0.0/8"}}]`},
		{"rm qos", `[{"Type":"QOS","Settings":{}}]`},
		{"rm port", `[{"Type":"PortMapping","Settings":{}}]`},
		{"rm SDNRoute", `[{"Type":"SDNRoute","Settings":{}}]`},
	} {
		verb, rest, _ := strings.Cut(c.words, " ")
		words := strings.Fields(rest)
		var f policyFlags
		fs := pflag.NewFlagSet("policy", pflag.ContinueOnError)
		f.flags(fs)
		if err := fs.Parse(words[1:]); err != nil {
			t.Fatal(err)
		}
		list, err := f.policies(words[0], verb == "add-network", verb == "rm", fs.Changed)
		var got string
		if err != nil {
			got = err.Error()
		} else {
			raw, _ := json.Marshal(list)
			got = string(raw)
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.words, got, c.want)
		}
	}
}

func TestServiceFlags(t *testing.T) {
	for text, want := range map[string]string{
		"80":                     `{"Port":80}`,
		"http=80:8080@30080/tcp": `{"Name":"http","Protocol":"TCP","Port":80,"TargetPort":8080,"NodePort":30080}`,
		"53/udp":                 `{"Protocol":"UDP","Port":53}`,
		"0":                      "not within",
		"80/icmp":                "unknown protocol",
		"80@x":                   "not within",
	} {
		p, err := parseServicePort(text)
		raw, _ := json.Marshal(p)
		if err == nil && string(raw) != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s %v, want %s", text, raw, err, want)
		}
	}
	s, err := (&serviceFlags{typ: "nodeport", ports: []string{"80"}, headless: true}).document("web")
	if err != nil || s.Type != hcn.ServiceNodePort || len(s.ClusterIPs) != 1 || s.ClusterIPs[0] != hcn.Headless {
		t.Errorf("%+v %v", s, err)
	}
	lb, err := (&lbFlags{vips: []string{"fd96::9"}, ports: []string{"80:8080", "53/udp"}, host: true, internal: true, affinity: "client", dsr: true}).document("x")
	raw, _ := json.Marshal(lb)
	want := `{"FrontendVIPs":["fd96::9"],"PortMappings":[{"Protocol":6,"InternalPort":8080,"ExternalPort":80,"DistributionType":2,"Flags":3},{"Protocol":17,"ExternalPort":53,"DistributionType":2,"Flags":3}],"SchemaVersion":{"Major":2,"Minor":0},"Flags":3,"Name":"x"}`
	if err != nil || string(raw) != want {
		t.Errorf("%s %v, want %s", raw, err, want)
	}
}
