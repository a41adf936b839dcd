// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"all", "socket_group='adm'\n[compute]\nruntime='crun'\nlog_max_bytes=65536\n[log]\nlevel='debug'\nformat='json'\n[network]\ndefault='none'\nsubnets=['10.9.0.0/16','fd00::/64']\nuplinks=['eth*']\n[dns]\nupstream=['1.1.1.1']\n", ""},
		{"unknown key", "[compute]\nruntime = 'runc'\nruntme = 'x'\n", `line 3: unknown key "compute.runtme"; remove it or correct its name`},
		{"unknown in table", "[log]\nlevel='info'\n\n[network]\nlevel='info'\n", `line 5: unknown key "network.level"`},
		{"unknown table", "\n[netwrk]\nx=1\n", `line 2: unknown key "netwrk"`},
		{"log size", "[compute]\nlog_max_bytes=1\n", "line 2: compute.log_max_bytes: 1 is under 4096"},
		{"syntax", "socket = \n", "line 1: "},
		{"type", "[network]\nuplinks='x'\n", "incompatible types"},
		{"level", "[log]\nlevel='loud'\n", `line 2: log.level: "loud" is none of debug, info, warn, error`},
		{"subnet", "[network]\ndefault='nat'\nsubnets=['10.0.0.0/33']\n", `line 3: network.subnets: "10.0.0.0/33" is not a prefix`},
		{"two of a family", "[network]\nsubnets=['10.0.0.0/24','10.1.0.0/24']\n", "at most one prefix of each family"},
		{"upstream", "dns.upstream=['x']\n", `line 1: dns.upstream: "x" is not an IP address`},
		{"acl default", "[network]\nacl_default='drop'\n", `line 2: network.acl_default: "drop" is neither allow nor deny`},
		{"users", "[network.users]\n'S-1-5-32-556' = 1337\n", ""},
		{"user of no SID", "[network]\nusers = { envoy = 1337 }\n", `line 2: network.users: "envoy" is not a SID`},
		{"user of no number", "[network.users]\n'S-1-5-32-556' = 4294967295\n", `line 1: network.users: 4294967295 is no user`},
		{"default", "[network]\ndefault='x'\n", `line 2: network.default: "x" is neither nat nor none`},
		{"publish", "[publish]\ndefault='closed'\nrules=['allow 192.0.2.0/24','deny 2001:db8::1 tcp','reject any udp/53,8000-8099']\n", ""},
		{"publish default", "[publish]\ndefault='shut'\n", `line 2: publish.default: "shut" is neither open nor closed`},
		{"publish action", "[publish]\nrules=['drop any']\n", `line 2: publish.rules: "drop any": "drop" is none of allow, deny, reject; write a rule like`},
		{"publish from", "[publish]\nrules=['deny 10.0.0.0/33']\n", `"10.0.0.0/33" is neither an address nor a prefix nor any`},
		{"publish protocol", "[publish]\nrules=['deny any icmp']\n", `"icmp" is none of tcp, udp, sctp`},
		{"publish port", "[publish]\nrules=['deny any tcp/80-79']\n", `"80-79" is neither a port nor a range of ports`},
		{"publish words", "[publish]\nrules=['deny']\n", `has 1 words`},
		{"services", "[services]\ncluster_pool=['10.9.0.0/16','fd09::/112']\nload_balancer_pool=['192.0.2.0/28']\nnode_ports='31000-31999'\n", ""},
		{"cluster pool", "[services]\ncluster_pool=['10.9.0.0/16','10.8.0.0/16']\n", "line 2: services.cluster_pool: at most one prefix of each family"},
		{"load balancer pool", "[services]\nload_balancer_pool=['192.0.2.1']\n", `line 2: services.load_balancer_pool: "192.0.2.1" is not a prefix`},
		{"node ports", "[services]\nnode_ports='9-8'\n", `line 2: services.node_ports: "9-8" is not a range`},
		{"policy", "[compute.policy]\nprofile='client'\ndev_process_isolation=true\n[[compute.policy.rules]]\nmatch={owner='ci-*',uid=1000}\nallowed_isolation=['library-os','process']\nallow_host_paths=['/srv']\n", ""},
		{"policy profile", "[compute.policy]\nprofile='home'\n", `line 1: compute.policy: Profile: "home": neither Server nor Client`},
		{"policy rule", "[compute.policy]\n[[compute.policy.rules]]\nallow_privileged=true\n", "compute.policy: Rules[0].Match: is empty"},
		{"policy key", "[[compute.policy.rules]]\nmatch={uid=1}\nallow_everything=true\n", "unknown key"},
		{"uplinks", "[network]\nuplinks=['[']\n", "is not a pattern"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	p := filepath.Join(t.TempDir(), "c.toml")
	if _, err := Load(p, false); err != nil {
		t.Fatalf("absent file: %v", err)
	}
	if _, err := Load(p, true); err == nil {
		t.Fatal("absent file that was named: no error")
	}
	if err := os.WriteFile(p, []byte("x=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(p, false); err == nil || !strings.HasPrefix(err.Error(), p+": line 1: ") {
		t.Fatalf("got %v, want the file and line named", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("[log]\nlevel='x'\n")
	f.Add("a.b.c=1\n[a]\n[[a.b]]")
	f.Fuzz(func(t *testing.T, s string) { _, _ = Parse(s) })
}
