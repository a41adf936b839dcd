// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"net/netip"
)

// ACLID names an ACL set. Like every number of a State it is the caller's and
// stays while the set does; 0 is none.
type ACLID uint16

// AddrSetID names an address set; 0 is none.
type AddrSetID uint32

// RuleID names a rule of any ACL set of the State: flows and counters bear it, so
// it must not move from one rule to another while both are there. 0 is none.
type RuleID uint16

// MaxPortACLs is how many ACL sets a port may have (GH_PORT_ACLS).
const MaxPortACLs = 8

// AddrSet is a named set of addresses, for rules to refer to. Its members may
// change without a rule being touched.
type AddrSet struct {
	ID   AddrSetID
	Name string // for people; appears in explain and errors only
	// Prefixes are in the set but for what is in a prefix of Except. Both
	// families may stand in one set; one without prefixes holds no address.
	Prefixes, Except []netip.Prefix
}

// ACLSet is a list of rules, attached to ports by Port.ACLs. A packet passes a
// port when each of its sets lets it.
//
// Rules are about conversations: the first packet decides for all, and for the
// answers. After a change they are decided again. Frames to groups are decided one
// by one, at the sender and at each receiver. ARP, neighbour discovery and DHCP to
// groups always pass.
type ACLSet struct {
	ID   ACLID
	Name string // for people
	// Stage joins sets of one port into tiers: what a rule of one allows (not its
	// default) is not asked of later sets of the same stage. 0: the set stands
	// alone.
	Stage uint8
	// DefaultIn and DefaultOut are for what no rule of ViewTranslated matches.
	DefaultIn, DefaultOut ACLAction
	Rules                 []ACLRule
}

// ACLRule decides about packets that all its fields match.
type ACLRule struct {
	ID   RuleID
	Name string // for people
	// Priority: the lowest number that matches decides. At the same number what
	// forbids comes before what lets, then the order in the set decides.
	Priority  uint32
	Direction ACLDirection
	Action    ACLAction
	View      ACLView
	// Protocols are numbers of IANA; none = every.
	Protocols []uint8
	// Local is the side of the port's endpoint, Remote the other one, whoever
	// began. None = every address.
	Local, Remote []netip.Prefix
	// RemoteSets: the other side is in all of these. Not together with Remote.
	RemoteSets []AddrSetID
	// Ports are those of TCP, UDP and SCTP; with Protocols empty the rule is about
	// these three. None = every port.
	LocalPorts, RemotePorts []PortRange
}

// PortRange is inclusive at both ends.
type PortRange struct{ First, Last uint16 }

// ACLDirection is seen from the endpoint. There is no default.
type ACLDirection uint8

const (
	ACLIn  ACLDirection = 1 // conversations that others begin with the endpoint
	ACLOut ACLDirection = 2 // conversations that the endpoint begins
)

// ACLAction is what a rule does (enum gh_acl_action). The zero value allows.
type ACLAction uint8

const (
	ACLAllow  ACLAction = 0
	ACLBlock  ACLAction = 1 // dropped without a word
	ACLReject ACLAction = 2 // dropped; the sender gets a TCP reset or an ICMP error
	ACLPass   ACLAction = 3 // not decided here: the next set is asked, also in the same stage
)

// ACLView says which addresses and ports of a packet a rule looks at. Rules of
// the two views are lists of their own, and both must let a packet pass.
type ACLView uint8

const (
	// ViewTranslated: the other end as it is. Out: the backend that a service
	// stands for. In: the source as the endpoint sees it, and the endpoint's own
	// address. A source port that NAT has yet to choose is the sender's.
	ViewTranslated ACLView = 0
	// ViewOriginal: as the packet was sent, before load balancing and NAT.
	ViewOriginal ACLView = 1
)

// String names the action as rules do.
func (a ACLAction) String() string { return nameOf(a, "allow", "block", "reject", "pass") }

// String is "in" or "out".
func (d ACLDirection) String() string { return nameOf(d, "?", "in", "out") }

// String is "translated" or "original".
func (v ACLView) String() string { return nameOf(v, "translated", "original") }

func nameOf[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("?%d", uint8(v))
}

// String is "80" or "8000-8002".
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
