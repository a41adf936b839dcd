// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

// flowTimeouts is gh_timeouts of flow.h; a test holds it to the object.
var flowTimeouts = [16]uint16{
	0:                            600,
	SwitchGhFlowStateGH_FLOW_SYN: 30,
	SwitchGhFlowStateGH_FLOW_EST: 7440, // RFC 5382 REQ-5: at least 2 hours 4 minutes
	SwitchGhFlowStateGH_FLOW_FIN: 300, SwitchGhFlowStateGH_FLOW_TW: 120, SwitchGhFlowStateGH_FLOW_RST: 10,
	SwitchGhFlowStateGH_FLOW_UDP1: 30, SwitchGhFlowStateGH_FLOW_UDP2: 180, SwitchGhFlowStateGH_FLOW_ICMP: 30,
	SwitchGhFlowStateGH_FLOW_OTHER: 600,
}

// CrowdedSYN is the time of a half-open connection in a crowded table
// (GH_CROWDED_SYN_S).
const CrowdedSYN = 8

// flowPairs is how many conversations the table of IPv4 ([0]) and IPv6 have room
// for; gh_pairs of quota.h.
var flowPairs = [2]uint32{131072, 32768}

// Crowded reports whether n conversations crowd the table of a family (4 or 6).
func Crowded(n uint32, family uint8) bool { return n > flowPairs[index(family)]/5*4 }

// Tallied is what a counter of pflows or fill stands for. It may be below zero
// until the sweeper comes again.
func Tallied(n uint32) uint32 { return uint32(max(int32(n), 0)) }

// Share is how many conversations a port may have in a crowded table; port 0 is
// all uplinks together.
func Share(port uint16, family uint8) uint32 {
	if port == 0 {
		return flowPairs[index(family)] / 2
	}
	return flowPairs[index(family)] / 16
}

func index(family uint8) int {
	if family == 6 {
		return 1
	}
	return 0
}

// FlowTimeout is the silence, in seconds and in both directions, after which the
// programs treat a flow in state s as none.
func FlowTimeout(s FlowState) uint32 { return uint32(flowTimeouts[s&15]) }
