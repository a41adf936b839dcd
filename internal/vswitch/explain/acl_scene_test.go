// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// addRules gives a scene address sets and ACL sets, and some ports some of them.
func (s *scene) addRules(r *rand.Rand) {
	if one(r, 3) {
		return
	}
	for id := range vswitch.AddrSetID(3) {
		s.state.AddrSets = append(s.state.AddrSets, s.randomAddrSet(r, id+1))
	}
	for id := range vswitch.ACLID(4) {
		s.state.ACLs = append(s.state.ACLs, s.randomACL(r, id+1))
	}
	if one(r, 3) {
		s.state.OutsideACLs = []vswitch.ACLID{vswitch.ACLID(1 + r.IntN(4))}
	}
	for i := range s.state.Ports {
		for _, id := range r.Perm(4)[:pickOf(r, []int{0, 0, 0, 1, 1, 2})] {
			s.state.Ports[i].ACLs = append(s.state.Ports[i].ACLs, vswitch.ACLID(id+1))
		}
	}
}

// changeRules changes one thing of them.
func (s *scene) changeRules(r *rand.Rand) {
	st := &s.state
	if len(st.ACLs) == 0 {
		s.addRules(r)
		return
	}
	switch r.IntN(4) {
	case 0:
		i := r.IntN(len(st.AddrSets))
		st.AddrSets[i] = s.randomAddrSet(r, st.AddrSets[i].ID)
	case 1:
		i := r.IntN(len(st.ACLs))
		st.ACLs[i] = s.randomACL(r, st.ACLs[i].ID)
	case 2:
		if len(st.OutsideACLs) > 0 {
			st.OutsideACLs = nil
		} else {
			st.OutsideACLs = []vswitch.ACLID{vswitch.ACLID(1 + r.IntN(len(st.ACLs)))}
		}
	default:
		p := &st.Ports[r.IntN(len(st.Ports))]
		if len(p.ACLs) > 0 && one(r, 2) {
			p.ACLs = nil
		} else if id := vswitch.ACLID(1 + r.IntN(len(st.ACLs))); !slices.Contains(p.ACLs, id) {
			p.ACLs = append(slices.Clone(p.ACLs), id)
		}
	}
}

// prefix is one around something that packets are from or to.
func (s *scene) prefix(r *rand.Rand) netip.Prefix {
	a := pickOf(r, s.addrs)
	p, err := a.Prefix(pickOf(r, []int{0, 8, 16, 24, a.BitLen(), a.BitLen(), min(a.BitLen(), 64)}))
	if err != nil {
		panic(err)
	}
	return p
}

func (s *scene) prefixes(r *rand.Rand, n int) (l []netip.Prefix) {
	for range n {
		l = append(l, s.prefix(r))
	}
	return l
}

func (s *scene) randomAddrSet(r *rand.Rand, id vswitch.AddrSetID) vswitch.AddrSet {
	return vswitch.AddrSet{ID: id, Name: fmt.Sprint("s", id), Prefixes: s.prefixes(r, r.IntN(6)), Except: s.prefixes(r, r.IntN(2))}
}

func (s *scene) randomACL(r *rand.Rand, id vswitch.ACLID) vswitch.ACLSet {
	a := vswitch.ACLSet{ID: id, Name: fmt.Sprint("a", id), Stage: pickOf(r, []uint8{0, 0, 1})}
	if one(r, 4) {
		a.DefaultIn = pickOf(r, []vswitch.ACLAction{vswitch.ACLBlock, vswitch.ACLReject})
	}
	if one(r, 6) {
		a.DefaultOut = pickOf(r, []vswitch.ACLAction{vswitch.ACLBlock, vswitch.ACLReject})
	}
	for i := range r.IntN(8) {
		x := vswitch.ACLRule{ID: vswitch.RuleID(int(id)*100 + i), Name: fmt.Sprint("r", i), Priority: uint32(r.IntN(3)), Direction: pickOf(r, []vswitch.ACLDirection{vswitch.ACLIn, vswitch.ACLOut}),
			Action: pickOf(r, []vswitch.ACLAction{vswitch.ACLAllow, vswitch.ACLAllow, vswitch.ACLBlock, vswitch.ACLReject, vswitch.ACLPass}),
			View:   pickOf(r, []vswitch.ACLView{vswitch.ViewTranslated, vswitch.ViewTranslated, vswitch.ViewOriginal})}
		x.Protocols = pickOf(r, [][]uint8{nil, nil, {6}, {6, 17}, {1, 58}, {132}})
		if one(r, 2) {
			x.Remote = s.prefixes(r, 1+r.IntN(2))
		} else if one(r, 2) {
			x.RemoteSets = pickOf(r, [][]vswitch.AddrSetID{{1}, {2}, {3}, {1, 2}})
		}
		if one(r, 5) {
			x.Local = s.prefixes(r, 1)
		}
		if !slices.Contains(x.Protocols, 1) {
			port := func(wide uint16) []vswitch.PortRange {
				first := pickOf(r, scenePorts())
				return []vswitch.PortRange{{First: first, Last: first + pickOf(r, []uint16{0, 0, 1, wide})}}
			}
			if one(r, 3) {
				x.LocalPorts = port(1)
			}
			if one(r, 3) {
				x.RemotePorts = port(4000)
			}
		}
		a.Rules = append(a.Rules, x)
	}
	return a
}

// aclNotes are words for the frames that rules dropped, to be counted.
func aclNotes(t Trace, group bool) (notes []string) {
	if slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Verdict == "drop" }) {
		switch t.Verdict {
		case Flood:
			return []string{"flood but for whom rules bar"}
		case Pass: // and to the host, whose wire brought it
			return []string{"pass flood but for whom rules bar"}
		}
	}
	if t.Reason == "FRAG_ORDER" {
		return []string{"drop FRAG_ORDER at " + t.Layer}
	}
	if !strings.HasPrefix(t.Reason, "ACL_") {
		return nil
	}
	if group {
		notes = append(notes, "drop "+t.Reason+" of a group")
	}
	if t.Answer != "" {
		notes = append(notes, "drop "+t.Reason+" answered")
	}
	if strings.Contains(t.Steps[len(t.Steps)-1].Reason, "an answer") {
		notes = append(notes, "drop "+t.Reason+" of an answer")
	}
	return notes
}
