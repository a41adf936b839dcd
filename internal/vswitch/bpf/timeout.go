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
	SwitchGhFlowStateGH_FLOW_OTHER: 600, SwitchGhFlowStateGH_FLOW_DROP: 5,
}

// FlowTimeout is the silence, in seconds and in both directions, after which the
// programs treat a flow in state s as none.
func FlowTimeout(s FlowState) uint32 { return uint32(flowTimeouts[s&15]) }
