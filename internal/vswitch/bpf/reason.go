// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import "fmt"

// reasons are the enumerators of gh_drop_reason without their prefix, by number.
// A test holds them against the object.
func reasons() []string {
	return []string{
		1: "PARSE", 2: "L2_PROTO", 3: "PORT_DOWN", 4: "VLAN", 5: "SPOOF_MAC", 6: "SPOOF_IP", 7: "SPOOF_ARP",
		8: "DHCP_GUARD", 9: "RA_GUARD", 10: "METER", 11: "ACL_OUT_PRE", 12: "ACL_OUT", 13: "ACL_IN",
		14: "NO_BACKEND", 15: "NO_ROUTE", 16: "NO_NEIGH", 17: "UNKNOWN_DST", 18: "TTL", 19: "MTU",
		20: "FRAG_ORDER", 21: "FRAG_TINY", 22: "FRAG_TABLE", 23: "FLOW_FULL", 24: "PORT_QUOTA",
		25: "NAT_PORTS", 26: "NAT_PROTO", 27: "NOSTATE", 28: "ICMP_NOFLOW", 29: "ICMP_RATE", 30: "TUN_PEER",
		31: "TUN_VNI", 32: "EXT_HDR", 33: "CSUM", 34: "LOOP", 35: "TAIL_CALL", 36: "INTERNAL",
	}
}

// String is the reason's name in lists and events: SPOOF_IP, NO_ROUTE.
func (r DropReason) String() string {
	if s := reasons(); r > 0 && int(r) < len(s) {
		return s[r]
	}
	return fmt.Sprintf("REASON_%d", uint32(r))
}
