// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

// groupRead reads what rules ask about from a frame that a wire brought to a
// group: false for what no port may get, because nobody could judge it.
func (w *walk) groupRead() bool {
	proto := w.ether()
	if proto != ethIP && proto != ethIP6 {
		return proto == ethARP
	}
	n := w.parse(proto)
	w.describe()
	return n >= 0 && (n != nextND || w.h.ttl == 255 && !w.h.opts)
}

// groupAsked: rules are asked about frames to groups, but not about ARP,
// neighbour discovery and DHCP.
func (w *walk) groupAsked() bool {
	client, server := uint16(68), uint16(67)
	if w.k.fam == 6 {
		client, server = 546, 547
	}
	switch {
	case w.k.fam == 0, w.k.proto == protoICMP6 && w.h.icmpType >= 133 && w.h.icmpType <= 137:
		return false
	case w.h.l4 != l4UDP:
		return true
	}
	return !(w.k.sport == client && w.k.dport == server) && !(w.k.sport == server && w.k.dport == client)
}

// groupOut asks the sender's rules.
func (w *walk) groupOut() *no {
	w.reset()
	w.outPort, w.blind = 0, w.h.frag == fragLater
	if n := w.acl(layACLPre); n != nil {
		return n
	}
	return w.acl(layACLOut)
}

// groupIn asks those of a receiver.
func (w *walk) groupIn(id uint16) bool {
	w.outPort = id
	return w.acl(layACLIn) == nil
}
