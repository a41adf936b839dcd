// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "context"

// ExplainRequest asks what would happen to the first packet of a conversation.
// Nothing is sent.
type ExplainRequest struct {
	// From and To are an endpoint (GUID, name, alias, or the id of a container), an
	// address, "host" (a process of the host), "gateway" (To only: of From's
	// network) or "outside" (some machine behind the uplinks).
	From, To string
	// Protocol number; absent = 6 (TCP), or ICMP echo where Port is absent too.
	Protocol uint8 `json:",omitempty"`
	// Port that is asked for; 0 with ICMP.
	Port uint16 `json:",omitempty"`
	// SourcePort, or the id of an ICMP echo; absent = one of the ephemeral ones.
	SourcePort uint16 `json:",omitempty"`
	// Source is the address that From claims to have; absent = its own.
	Source string `json:",omitempty"`
	// Frame is a whole Ethernet frame that From sends as it is. Then From is an
	// endpoint or "uplink NAME" (a frame from the wire), and all else is absent.
	Frame []byte `json:",omitempty"`
}

// Explanation is the way of that packet, walk by walk: one walk through the switch
// and what stands before and behind it.
type Explanation struct {
	From, To string // as understood
	// Verdict of the last walk: "forward" (delivered), "drop", "pass" (left to the
	// host), "unreachable" (never sent).
	Verdict string
	Reason  string `json:",omitempty"` // of a drop: "NO_ROUTE"
	Layer   string `json:",omitempty"` // of a drop: "L6 route"
	Answer  string `json:",omitempty"` // what the sender of a dropped packet is told
	Out     string `json:",omitempty"` // where a forwarded packet went: "endpoint web", "uplink eth0", "host"
	Text    string // the outcome in one line
	Walks   []ExplainWalk
}

// ExplainWalk is one way through the switch, or a decision outside of it.
type ExplainWalk struct {
	Packet  string // "tcp 10.0.0.2:50000 > 10.0.0.3:80 [S]"
	Steps   []ExplainStep
	Verdict string
	Text    string
}

// ExplainStep is one layer's part.
type ExplainStep struct {
	Layer   string // "L6 route"
	Verdict string // "pass", "drop", "rewrite", "hit", "forward"
	Object  string `json:",omitempty"`
	Rule    string `json:",omitempty"` // the table row that decided
	Before  string `json:",omitempty"` // of a rewrite
	After   string `json:",omitempty"`
	NextHop string `json:",omitempty"`
	Reason  string
}

// Explain says which layer and rule decide about the first packet of a
// conversation, and why.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	var out Explanation
	return out, c.Call(ctx, "hcnExplain", "POST", "/explain", r, &out)
}
