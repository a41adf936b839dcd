// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const (
	layACLPre = bpf.SwitchGhLayerGH_LAYER_ACL_PRE
	layACLOut = bpf.SwitchGhLayerGH_LAYER_ACL_OUT
	layACLIn  = bpf.SwitchGhLayerGH_LAYER_ACL_IN

	listOutOriginal = bpf.SwitchGhAclListGH_ACL_OUT_ORIGINAL
	listOut         = bpf.SwitchGhAclListGH_ACL_OUT
	listIn          = bpf.SwitchGhAclListGH_ACL_IN
	listInOriginal  = bpf.SwitchGhAclListGH_ACL_IN_ORIGINAL
)

// acl is L3, L5 or L8.
func (w *walk) acl(layer bpf.Layer) *no {
	if w.icmp && !w.keep {
		return nil
	}
	id := w.inPort
	if w.uplink() && layer != layACLIn {
		id = uint16(vswitch.UplinkAny) // all uplinks are one, and so they are in the flows of their clients
	}
	reason, lists := bpf.SwitchGhDropReasonGH_DROP_ACL_OUT_PRE, []bpf.ACLList{listOutOriginal}
	switch layer {
	case layACLOut:
		reason, lists = bpf.SwitchGhDropReasonGH_DROP_ACL_OUT, []bpf.ACLList{listOut}
	case layACLIn:
		reason, lists = bpf.SwitchGhDropReasonGH_DROP_ACL_IN, []bpf.ACLList{listIn, listInOriginal}
		if w.outPort == w.inPort {
			if w.s.Rows.Port[uint32(w.inPort)].Acl[0] != 0 {
				w.note(layer, w.portName(w.inPort), "", "pass", "it reaches itself, not from outside: its rules about what comes in are not asked")
			}
			return nil
		}
	}
	back := w.reply && !w.aside
	if (layer == layACLIn) != back { // the port at the other end of the conversation
		id = w.outPort
		if back {
			id = w.okeyPort
		}
	}
	for _, list := range lists {
		if n := w.aclSets(layer, reason, id, list); n != nil {
			return n
		}
	}
	return nil
}

// question is the conversation as a list of rules looks at it.
func (w *walk) question(list bpf.ACLList) vswitch.ACLQuestion {
	// The tuple in the direction it was begun, before and after translation.
	src, dst, sport, dport := w.k.src, w.k.dst, w.k.sport, w.k.dport
	nsrc, ndst, nsport, ndport := w.nsrc, w.ndst, w.nsport, w.ndport
	if w.reply && !w.aside {
		src, dst, sport, dport, nsrc, ndst, nsport, ndport = ndst, nsrc, ndport, nsport, dst, src, dport, sport
	}
	q := vswitch.ACLQuestion{List: uint8(list), Proto: w.k.proto, IPv4: w.k.fam == 4, Blind: w.blind}
	switch list {
	case listOutOriginal:
		q.Local, q.LocalPort, q.Remote, q.RemotePort = src, sport, dst, dport
	case listOut:
		q.Local, q.LocalPort, q.Remote, q.RemotePort = src, sport, ndst, ndport
	case listIn:
		q.Local, q.LocalPort, q.Remote, q.RemotePort = ndst, ndport, nsrc, nsport
	default:
		q.Local, q.LocalPort, q.Remote, q.RemotePort = dst, dport, src, sport
	}
	return q
}

// aclSets asks one list of every set of a port.
func (w *walk) aclSets(layer bpf.Layer, reason bpf.DropReason, id uint16, list bpf.ACLList) *no {
	q := w.question(list)
	stage := uint8(0)
	for _, number := range w.s.Rows.Port[uint32(id)].Acl {
		if number == 0 {
			break
		}
		if number&(1<<list) == 0 {
			continue
		}
		q.Set = number
		name := fmt.Sprintf("acl %08x", number)
		if set := w.s.Rows.ACLSetOf(number); set != nil {
			name = fmt.Sprintf("acl %q", set.Name)
		}
		a := w.s.Rows.ACLAsk(q)
		at := w.portName(id)
		switch {
		case a.Gone:
			w.note(layer, at, name, "drop", "the set is being replaced")
			return &no{bpf.SwitchGhDropReasonGH_DROP_INTERNAL, layer, rejectNone}
		case a.Stage != 0 && a.Stage == stage:
			continue
		case a.Blind:
			w.note(layer, at, name, "drop", "a later fragment before the first, and a rule needs its ports")
			return &no{bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER, layer, rejectNone}
		}
		rule, why := name+" default "+a.Action.String(), "no rule of the set is about it"
		if a.Rule != 0 {
			rule, why = fmt.Sprintf("%s rule %d %s", name, a.Rule, a.Action), "the first rule that is about it"
			if r, ok := w.s.Rows.Rule(a.Rule); ok {
				rule = r.String()
			}
		}
		if w.aside {
			why += "; it goes elsewhere than its conversation came from, so asked as a new one"
		} else if w.reply {
			why += "; an answer, so asked as its conversation began"
		}
		switch a.Action {
		case vswitch.ACLBlock:
			w.note(layer, at, rule, "drop", "%s", why)
			return &no{reason, layer, rejectNone}
		case vswitch.ACLReject:
			w.note(layer, at, rule, "drop", "%s", why)
			return &no{reason, layer, rejectAdmin}
		case vswitch.ACLAllow:
			if a.Rule != 0 {
				stage = a.Stage
			}
		}
		w.note(layer, at, rule, "pass", "%s", why)
	}
	return nil
}
