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

func acl(settings string) string { return `{"Type":"ACL","Settings":` + settings + `}` }

// rulesOf prints what a port asks, a rule a line.
func (b *bench) rulesOf(e *Endpoint) string {
	b.t.Helper()
	d := flat(b.w)
	sets := map[vswitch.ACLID]vswitch.ACLSet{}
	for _, s := range d.Switch.ACLs {
		sets[s.ID] = s
	}
	names := map[vswitch.AddrSetID]string{}
	for _, s := range d.Switch.AddrSets {
		names[s.ID] = s.Name
	}
	var o strings.Builder
	for _, p := range d.Switch.Ports {
		if p.Object != e.Doc.Id {
			continue
		}
		for _, id := range p.ACLs {
			s := sets[id]
			fmt.Fprintf(&o, "%s %d\n", s.Name, s.Stage)
			for _, r := range s.Rules {
				fmt.Fprintf(&o, "  %d %s %s proto %v local %v %v remote %v %v", r.Priority, r.Direction, r.Action, r.Protocols, r.Local, r.LocalPorts, r.Remote, r.RemotePorts)
				for _, x := range r.RemoteSets {
					fmt.Fprintf(&o, " in %s", names[x])
				}
				fmt.Fprintln(&o)
			}
		}
	}
	return o.String()
}

// attached makes an endpoint in a namespace of its own.
func (b *bench) attached(network, body string) *Endpoint {
	b.t.Helper()
	e := b.endpoint(network, body)
	b.attach(b.namespace(`{}`).Doc.Id, e.Doc.Id)
	e, _ = b.w.Endpoint(e.Doc.Id)
	return e
}

func TestACLCompiles(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"nat"}`)
	for _, c := range []struct{ name, policies, want string }{
		{"ports", acl(`{"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"80, 8000-8002,8003","Priority":200}`),
			"ACL 0\n  200 in block proto [6] local [] [80 8000-8003] remote [] []\n"},
		{"any protocol", acl(`{"Protocols":"256","Action":"Allow","Direction":"Out","RemoteAddresses":"10.0.0.9,10.0.0.9/8"}`),
			"ACL 0\n  65500 out allow proto [] local [] [] remote [10.0.0.0/8 10.0.0.9/32] []\n"},
		{"both families", acl(`{"Action":"Pass","Direction":"In","LocalAddresses":"2001:db8::/64,192.0.2.1"}`),
			"ACL 0\n  65500 in pass proto [] local [192.0.2.1/32 2001:db8::/64] [] remote [] []\n"},
		{"ports are nothing to ICMP", acl(`{"Protocols":"1,6","Action":"Block","Direction":"In","LocalPorts":"80"}`),
			"ACL 0\n  65500 in block proto [6] local [] [80] remote [] []\n  65500 in block proto [1] local [] [] remote [] []\n"},
		{"ports without ports", acl(`{"Protocols":"1","Action":"Block","Direction":"In","LocalPorts":"80"}`),
			"ACL 0\n  65500 in block proto [1] local [] [] remote [] []\n"},
		// Mixed into the Switch list an allow-all of the host's would win over every block.
		{"host rules are a stage", acl(`{"Action":"Allow","Direction":"In","RuleType":"Host","Priority":7}`) + "," + acl(`{"Action":"Block","Direction":"In","Priority":65500}`),
			"ACL 0\n  65500 in block proto [] local [] [] remote [] []\nACL, Host 0\n  0 in allow proto [] local [] [] remote [] []\n"},
		{"ids are not unique", acl(`{"Id":"p","Action":"Allow","Direction":"In","LocalPorts":"1"}`) + "," + acl(`{"Id":"p","Action":"Allow","Direction":"In","LocalPorts":"2"}`),
			"ACL 0\n  65500 in allow proto [] local [] [1] remote [] []\n  65500 in allow proto [] local [] [2] remote [] []\n"},
		{"tiers", `{"Type":"TierAcl","Settings":{"Name":"b","Direction":"In","Order":2,"TierAclRules":[{"TierAclRuleAction":"Block","Priority":1}]}},
			{"Type":"TierAcl","Settings":{"Name":"a","Direction":"In","Order":1,"TierAclRules":[{"TierAclRuleAction":"Pass","Protocols":"6","LocalPorts":"80","Priority":2}]}},
			{"Type":"TierAcl","Settings":{"Name":"a","Direction":"Out","Order":1,"TierAclRules":[{"TierAclRuleAction":"Allow","Priority":3}]}}`,
			"TierAcl a 1\n  2 in pass proto [6] local [] [80] remote [] []\n  3 out allow proto [] local [] [] remote [] []\n" +
				"TierAcl b 1\n  1 in block proto [] local [] [] remote [] []\n"},
	} {
		e := b.attached(n.Doc.Id, `{"Policies":[`+c.policies+`]}`)
		if got := b.rulesOf(e); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
	if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil && !strings.Contains(err.Error(), "Facts") {
		t.Error(err)
	}
}

func TestACLRefuses(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	for _, c := range []struct{ settings, field, says string }{
		{`{"Direction":"In"}`, "Action", "none of Allow"},
		{`{"Action":"Allow"}`, "Direction", "neither In nor Out"},
		{`{"Action":"Allow","Direction":"In","Protocols":"tcp"}`, "Protocols", "not a protocol number"},
		{`{"Action":"Allow","Direction":"In","RemoteAddresses":"Any"}`, "RemoteAddresses", "neither an address"},
		{`{"Action":"Allow","Direction":"In","LocalAddresses":"10.0.0.0/33"}`, "LocalAddresses", "neither an address"},
		{`{"Action":"Allow","Direction":"In","LocalPorts":"80-79"}`, "LocalPorts", "neither a port"},
		{`{"Action":"Allow","Direction":"In","LocalPorts":"70000"}`, "LocalPorts", "neither a port"},
		{`{"Action":"Allow","Direction":"In","RuleType":"Kernel"}`, "RuleType", "neither Switch nor Host"},
		{`{"Action":"Allow","Direction":"In","Priority":70000}`, "Priority", ""},
		{`[]`, "", "not a JSON object"},
	} {
		_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+acl(c.settings)+`]}`), b.in)
		field := "Policies[0].Settings"
		if c.field != "" {
			field += "." + c.field
		}
		code(t, err, hcn.HCN_E_INVALID_POLICY, field, c.says)
	}
	tier := `{"Type":"TierAcl","Settings":{"Name":"a","Direction":"In","Order":1,"TierAclRules":[%s]}}`
	_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+fmt.Sprintf(tier, `{"TierAclRuleAction":"x"}`)+`]}`), b.in)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.TierAclRules[0].TierAclRuleAction")
	_, _, _, err = b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+fmt.Sprintf(tier, `{"Id":"1","TierAclRuleAction":"Allow"},{"Id":"1","TierAclRuleAction":"Block"}`)+`]}`), b.in)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.TierAclRules[1].Id")
	_, _, _, err = b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+fmt.Sprintf(tier, "")+","+fmt.Sprintf(tier, `{"TierAclRuleAction":"Allow"}`)+`]}`), b.in)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Policies[1].Settings")
	var many []string
	for i := range vswitch.MaxPortACLs + 1 {
		many = append(many, fmt.Sprintf(`{"Type":"TierAcl","Settings":{"Name":"%d","Direction":"In","Order":%d,"TierAclRules":[{"TierAclRuleAction":"Allow","Priority":%d}]}}`, i, i, i))
	}
	_, _, _, err = b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+strings.Join(many, ",")+`]}`), b.in)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Policies", "stages of rules")
}

func (b *bench) modifyNetwork(id, verb, policies string) error {
	w, _, err := b.w.ModifyNetwork(id, fmt.Appendf(nil, `{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, verb, policies), 0, b.in)
	if err == nil {
		b.w = w
	}
	return err
}

func ipset(id, kind, values string) string {
	return fmt.Sprintf(`{"Type":"SetPolicy","Settings":{"Id":%q,"Name":"n-%s","PolicyType":%q,"Values":%q}}`, id, id, kind, values)
}

// TestSetPolicies: which side a set is about, what is refused, and that changes of a
// set reach live rules without one of them being touched.
func TestSetPolicies(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	add := func(verb, policies string) {
		t.Helper()
		if err := b.modifyNetwork(n.Doc.Id, verb, policies); err != nil {
			t.Fatal(err)
		}
	}
	add("Add", ipset("web", "IPSET", "10.1.0.2,10.9.0.0/16")+","+ipset("db", "IPSET", "10.1.0.3")+","+ipset("all", "NESTEDIPSET", "web,db"))
	e := b.attached(n.Doc.Id, `{"IpConfigurations":[{"IpAddress":"10.1.0.2"}],"Policies":[`+
		// In: Local is the source's set, Remote the destination's, which is ours.
		acl(`{"Action":"Allow","Direction":"In","LocalAddresses":"db","RemoteAddresses":"web","LocalPorts":"80","Protocols":"6"}`)+","+
		// We are not in db: this one is not about us.
		acl(`{"Action":"Block","Direction":"In","LocalAddresses":"web","RemoteAddresses":"db"}`)+","+
		// Several sets: all of them.
		acl(`{"Action":"Allow","Direction":"Out","LocalAddresses":"web","RemoteAddresses":"all,db"}`)+`]}`)
	want := "ACL 0\n  65500 in allow proto [6] local [0.0.0.0/0] [80] remote [] [] in db\n" +
		"  65500 out allow proto [] local [0.0.0.0/0] [] remote [] [] in all in db\n"
	if got := b.rulesOf(e); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	numbers := func() (out []vswitch.AddrSetID) {
		for _, s := range flat(b.w).Switch.AddrSets {
			out = append(out, s.ID)
		}
		return out
	}
	before, rules := numbers(), flat(b.w).Switch.ACLs
	add("Update", ipset("web", "IPSET", "10.1.0.2,10.1.0.9"))
	if !slices.Equal(before, numbers()) || fmt.Sprint(rules) != fmt.Sprint(flat(b.w).Switch.ACLs) {
		t.Error("a member of a set changed, and the rules with it")
	}
	for _, s := range flat(b.w).Switch.AddrSets {
		if s.Name == "all" && fmt.Sprint(s.Prefixes) != "[10.1.0.2/32 10.1.0.3/32 10.1.0.9/32]" {
			t.Errorf("the nested set has %v", s.Prefixes)
		}
	}
	if now, _ := b.w.Network(n.Doc.Id); len(now.Doc.Policies) != 3 {
		t.Errorf("an update of one set left %d policies", len(now.Doc.Policies))
	}
	add("Update", ipset("web", "IPSET", "10.1.0.9")) // we left it
	if got := b.rulesOf(e); got != "" {
		t.Errorf("rules about others:\n%s", got)
	}
	add("Update", ipset("all", "NESTEDIPSET", "")+","+ipset("web", "IPSET", "10.1.0.2"))
	for _, s := range flat(b.w).Switch.AddrSets {
		if s.Name == "all" && fmt.Sprint(s.Prefixes) != "[0.0.0.0/0 ::/0]" {
			t.Errorf("an empty nested set is %v", s.Prefixes)
		}
	}
	code(t, b.modifyNetwork(n.Doc.Id, "Remove", `{"Type":"SetPolicy","Settings":{"Id":"db"}}`), hcn.HCN_E_ENTITY_HAS_REFERENCES, "Settings", "a rule of endpoint")
	code(t, b.modifyNetwork(n.Doc.Id, "Update", ipset("none", "IPSET", "")), hcn.HCN_E_POLICY_NOT_FOUND, "Settings.Policies[0].Settings.Id")
	code(t, b.modifyNetwork(n.Doc.Id, "Add", ipset("db", "IPSET", "")), hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[0]")
	code(t, b.modifyNetwork(n.Doc.Id, "Add", ipset("more", "NESTEDIPSET", "nobody")), hcn.HCN_E_INVALID_POLICY, "Settings.Policies[3].Settings.Values")
	code(t, b.modifyNetwork(n.Doc.Id, "Add", ipset("x", "IPSET", "10.1.0.2:80")), hcn.HCN_E_INVALID_POLICY, "Settings.Policies[0].Settings.Values")
	if _, err := b.modifyEndpoint(e.Doc.Id, "Update", ""); err != nil {
		t.Fatal(err)
	}
	add("Remove", `{"Type":"SetPolicy","Settings":{"Id":"db"}}`)
	if now, _ := b.w.Network(n.Doc.Id); len(now.Doc.Policies) != 2 || len(now.SetNumbers) != 2 {
		t.Errorf("%d policies, %d numbers", len(now.Doc.Policies), len(now.SetNumbers))
	}
}

// TestRuleNumbers: who shares rules shares their numbers; a change keeps those of
// the rules that stay; all come back after a restart and are free after the last use.
func TestRuleNumbers(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	one, two, three := acl(`{"Action":"Allow","Direction":"In","LocalPorts":"1"}`), acl(`{"Action":"Allow","Direction":"In","LocalPorts":"2"}`), acl(`{"Action":"Block","Direction":"Out"}`)
	a := b.endpoint(n.Doc.Id, `{"Policies":[`+one+","+two+`]}`)
	c := b.endpoint(n.Doc.Id, `{"Policies":[`+one+","+two+`]}`)
	if fmt.Sprint(a.ACLs) != fmt.Sprint(c.ACLs) {
		t.Errorf("two that say the same: %v, %v", a.ACLs, c.ACLs)
	}
	shared := a.ACLs[0]
	c, err := b.modifyEndpoint(c.Doc.Id, "Add", three)
	if err != nil || c.ACLs[0].ID == shared.ID || slices.ContainsFunc(c.ACLs[0].Rules, func(r vswitch.RuleID) bool { return slices.Contains(shared.Rules, r) }) {
		t.Fatalf("it shares numbers with what it does not share: %v, %v, %v", shared, c.ACLs, err)
	}
	was := c.ACLs[0]
	c, err = b.modifyEndpoint(c.Doc.Id, "Remove", two)
	if err != nil || c.ACLs[0].ID != was.ID || !slices.Equal(c.ACLs[0].Rules, []vswitch.RuleID{was.Rules[0], was.Rules[2]}) {
		t.Errorf("was %v, is %v, %v", was, c.ACLs, err)
	}
	c, err = b.modifyEndpoint(c.Doc.Id, "Add", two)
	if err != nil || c.ACLs[0].ID != was.ID || len(c.ACLs[0].Rules) != 3 || slices.Contains(shared.Rules, c.ACLs[0].Rules[2]) {
		t.Errorf("was %v, is %v, %v", was, c.ACLs, err)
	}
	stored := rowsOf(t, b.w)
	again, err := Load(b.w.inst, b.w.Numbers(), stored)
	if err != nil || fmt.Sprint(flat(again).Switch.ACLs) != fmt.Sprint(flat(b.w).Switch.ACLs) || printDesired(flat(again)) != printDesired(flat(b.w)) {
		t.Errorf("after a restart: %v\n%+v\n%+v", err, flat(again).Switch.ACLs, flat(b.w).Switch.ACLs)
	}
	for _, w := range []World{b.w, again} {
		for _, e := range w.AllEndpoints() {
			if w, err = w.DeleteEndpoint(e.Doc.Id, 0, b.in); err != nil {
				t.Fatal(err)
			}
		}
		if len(flat(w).Switch.ACLs) != 0 || w.aclHeld.len()+w.ruleHeld.len()+w.numbersIn[aclNumbers].len()+w.numbersIn[ruleNumbers].len() != 0 {
			t.Errorf("left: %v, %d, %d", flat(w).Switch.ACLs, w.aclHeld.len(), w.ruleHeld.len())
		}
	}
}

// TestTierNumbers: tiers of one name are sets of their own, also when one comes to
// where another stays, and when several take the place of one.
func TestTierNumbers(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	tier := func(direction string, order, port int) string {
		return fmt.Sprintf(`{"Type":"TierAcl","Settings":{"Name":"t","Direction":%q,"Order":%d,"TierAclRules":[{"TierAclRuleAction":"Block","Protocols":"6","LocalPorts":"%d","Priority":1}]}}`, direction, order, port)
	}
	e := b.endpoint(n.Doc.Id, `{"Policies":[`+tier("In", 2, 80)+`]}`)
	for _, policies := range []string{
		tier("Out", 1, 80) + "," + tier("In", 2, 80), // one more, before it
		tier("Out", 1, 81) + "," + tier("In", 2, 81), // both change
		tier("Out", 1, 81),
		tier("In", 1, 82) + "," + tier("Out", 2, 82), // two for one
	} {
		e, err := b.modifyEndpoint(e.Doc.Id, "Update", policies)
		if err != nil {
			t.Fatal(err)
		}
		if e.ACLs[len(e.ACLs)-1].ID == e.ACLs[0].ID && len(e.ACLs) > 1 {
			t.Errorf("%s: two sets with one number: %v", policies, e.ACLs)
		}
		if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil {
			t.Errorf("%s: %v", policies, err)
		}
	}
}

// rowsOf are a World's rows as a store gives them back.
func rowsOf(t *testing.T, w World) (out Rows) {
	t.Helper()
	again := func(from, to any) {
		raw, err := json.Marshal(from)
		if err == nil {
			err = json.Unmarshal(raw, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	again(w.AllNetworks(), &out.Networks)
	again(w.AllEndpoints(), &out.Endpoints)
	again(w.AllNamespaces(), &out.Namespaces)
	return out
}

// TestACLVerbs: how Add, Remove and Update are told apart, as controllers rely on it.
func TestACLVerbs(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	nat, iov := `{"Type":"OutBoundNAT"}`, `{"Type":"Iov","Settings":{"IovOffloadWeight":100}}`
	one, two := acl(`{"Id":"p1","Action":"Allow","Direction":"In","RemoteAddresses":"10.0.0.9/8, 10.1.0.1","Priority":222}`), acl(`{"Id":"p1","Action":"Block","Direction":"In"}`)
	e := b.endpoint(n.Doc.Id, `{"Policies":[`+nat+","+iov+","+one+`]}`)
	policies := func() string {
		now, _ := b.w.Endpoint(e.Doc.Id)
		var out []string
		for _, p := range now.Doc.Policies {
			out = append(out, string(p.Type)+" "+string(p.Settings))
		}
		return strings.Join(out, "\n")
	}
	do := func(verb, list string, want ...string) {
		t.Helper()
		if _, err := b.modifyEndpoint(e.Doc.Id, verb, list); err != nil {
			t.Fatal(err)
		}
		if got := policies(); got != strings.Join(want, "\n") {
			t.Errorf("%s %s: got\n%s\nwant\n%s", verb, list, got, strings.Join(want, "\n"))
		}
	}
	const n0, i0 = "OutBoundNAT ", `Iov {"IovOffloadWeight":100}`
	a1 := `ACL {"Id":"p1","Action":"Allow","Direction":"In","RemoteAddresses":"10.0.0.9/8, 10.1.0.1","Priority":222}`
	a2 := `ACL {"Id":"p1","Action":"Block","Direction":"In"}`
	do("Add", one+","+two, n0, i0, a1, a2)                                        // what is there stays once
	do("Remove", acl(`{"RemoteAddresses":"10.1.0.1/32,10.0.0.0/8"}`), n0, i0, a2) // by the members named, addresses by value
	do("Update", one, n0, i0, a1)                                                 // one type; others live on
	do("Update", nat+","+iov, n0, i0)                                             // all others unchanged, no ACL: the last rule goes
	do("Add", two, n0, i0, a2)                                                    //
	do("Update", "", n0, i0)                                                      // an empty list clears rules
	do("Add", two, n0, i0, a2)                                                    //
	do("Update", `{"Type":"ACL"}`, n0, i0)                                        // a type without settings
	do("Remove", `{"Type":"Iov","Settings":{"IovOffloadWeight":1}}`, n0)          // there is one
	do("Add", `{"Type":"QOS","Settings":{"MaximumOutgoingBandwidthInBytes":5}}`, n0, `QOS {"MaximumOutgoingBandwidthInBytes":5}`)
	_, err := b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"QOS","Settings":{"MaximumOutgoingBandwidthInBytes":6}}`)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[2].Settings")
}

// TestNetworkACL is on every endpoint, and DisableInterComputeCommunication on one.
func TestNetworkACL(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.attached(n.Doc.Id, `{"Flags":2}`)
	apart := "DisableInterComputeCommunication 0\n" +
		"  0 in allow proto [] local [] [] remote [10.1.0.1/32] []\n  1 in block proto [] local [] [] remote [10.1.0.0/24] []\n  2 in allow proto [] local [] [] remote [] []\n" +
		"  0 out allow proto [] local [] [] remote [10.1.0.1/32] []\n  1 out block proto [] local [] [] remote [10.1.0.0/24] []\n  2 out allow proto [] local [] [] remote [] []\n"
	if got := b.rulesOf(e); got != apart {
		t.Errorf("got\n%swant\n%s", got, apart)
	}
	rule := `{"Type":"NetworkACL","Settings":{"Action":"Block","Direction":"In","Protocols":"17"}}`
	if err := b.modifyNetwork(n.Doc.Id, "Add", rule); err != nil {
		t.Fatal(err)
	}
	want := "NetworkACL 0\n  65500 in block proto [17] local [] [] remote [] []\n"
	if got := b.rulesOf(e); got != apart+want {
		t.Errorf("got\n%swant\n%s", got, apart+want)
	}
	if got := b.rulesOf(b.attached(n.Doc.Id, `{}`)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if err := b.modifyNetwork(n.Doc.Id, "Remove", `{"Type":"NetworkACL","Settings":{"Protocols":"17"}}`); err != nil {
		t.Fatal(err)
	}
	if got := b.rulesOf(e); got != apart {
		t.Errorf("got\n%s", got)
	}
}
