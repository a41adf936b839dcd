// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestOverlaysWholeAndPartAgree is TestWholeAndPartAgree on a host with overlays, whose
// other hosts come and go, as does its own address.
func TestOverlaysWholeAndPartAgree(t *testing.T) {
	wholeAndPart(t, func(t testing.TB) *bench {
		b := newBench(t)
		wired(b)
		b.network(overlayBody("n0", "10.244.3.0/24", "", ""))
		return b
	}, func(b *bench, r *rand.Rand, i int) {
		if nets := b.w.AllNetworks(); r.IntN(2) == 0 && len(nets) > 0 {
			b.w = randomOverlay(b, r, i)
			return
		}
		randomVerb(b, r, i)
	})
}

// randomOverlay is a verb on overlays, most of which meet each other.
func randomOverlay(b *bench, r *rand.Rand, i int) World {
	w := b.w
	nets, eps := w.AllNetworks(), w.AllEndpoints()
	n := nets[r.IntN(len(nets))]
	word := func(s ...string) string { return s[r.IntN(len(s))] }
	host := func() string { return word("10.9.0.4", "10.9.0.5", "10.9.0.6", "fd09::5") }
	prefix := func() string {
		return word("10.244.3.0/24", "10.244.4.0/24", "10.244.0.0/16", "fd44::/64", "0.0.0.0/0")
	}
	vni := func() uint32 { return 4096 + uint32(r.IntN(4)) }
	policy := func() string {
		return word(lease(prefix(), vni(), host(), word("02:00:00:00:00:05", "02-00-00-00-00-06")), `{"Type":"HostRoute","Settings":{}}`,
			fmt.Sprintf(`{"Type":"VxlanPort","Settings":{"Port":%d}}`, 4789+r.IntN(2)), `{"Type":"DrMacAddress","Settings":{"Address":"02-00-00-00-00-07"}}`,
			fmt.Sprintf(`{"Type":"ProviderAddress","Settings":{"ProviderAddress":%q}}`, host()))
	}
	switch r.IntN(10) {
	case 0:
		w, _, _, _ = w.CreateNetwork([]byte(overlayBody(fmt.Sprint("n", i), word("10.244.3.0/24", "10.244.5.0/24", "fd44::/64"), word("", adapter("eth1"), policy()), word("", vsid(vni())))), b.in)
	case 1, 2, 3:
		w, _, _ = w.ModifyNetwork(n.Doc.Id, fmt.Appendf(nil, `{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, word("Add", "Add", "Update", "Remove", "Reset"), policy()), 0, b.in)
	case 4:
		w, _, _ = w.ModifyNetwork(n.Doc.Id, fmt.Appendf(nil, `{"ResourceType":"Subnet","RequestType":%q,"Settings":{"Subnets":[{"IpAddressPrefix":%q}]}}`, word("Add", "Remove"), prefix()), 0, b.in)
	case 5, 6:
		w, _, _, _ = w.CreateEndpoint(n.Doc.Id, fmt.Appendf(nil, `{"Flags":1,"MacAddress":"02-11-00-00-00-%02x","IpConfigurations":[{"IpAddress":%q}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":%q}}]}`,
			r.IntN(4), word("10.244.3.2", "10.244.3.1", "10.244.4.7", "10.96.0.1", "fd44::2", "255.255.255.255"), host()), b.in)
	case 7:
		w, _, _, _ = w.CreateEndpoint(n.Doc.Id, fmt.Appendf(nil, `{"IpConfigurations":[{"IpAddress":%q}],"Policies":[%s]}`, word("10.244.3.2", "10.244.3.3", "fd44::2"),
			word("", `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.96.0.0/16","NeedEncap":true}}`, `{"Type":"OutBoundNAT","Settings":{"Exceptions":["10.244.0.0/16"]}}`)), b.in)
	case 8:
		var some []string
		for range min(len(eps), 3) {
			some = append(some, eps[r.IntN(len(eps))].Doc.Id)
		}
		list, _ := json.Marshal(some)
		w, _, _, _ = w.CreateLoadBalancer(fmt.Appendf(nil, `{"HostComputeEndpoints":%s,"SourceVIP":%q,"FrontendVIPs":[%q],"Flags":%d,"PortMappings":[{"Protocol":6,"ExternalPort":%d,"Flags":%d}]}`,
			list, word("", "10.244.3.250", "10.9.0.4"), word("10.96.0.1", "10.96.0.2"), r.IntN(2), 1+r.IntN(4), []int{0, 1, 2, 16, 18}[r.IntN(5)]), b.in)
	case 9:
		addrs := []netip.Prefix{netip.MustParsePrefix(host() + word("/24"))}
		was := b.in.Uplinks()
		was[0].Addrs = addrs
		b.in.Uplinks = func() []Uplink { return []Uplink{was[0], was[1]} }
		w = w.FollowUplinks(b.in)
	}
	return w
}
