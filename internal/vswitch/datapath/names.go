// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// layerNames are those of enum gh_layer.
var layerNames = [...]string{
	bpf.SwitchGhLayerGH_LAYER_PORT:    "port",
	bpf.SwitchGhLayerGH_LAYER_SPOOF:   "spoof",
	bpf.SwitchGhLayerGH_LAYER_METER:   "meter",
	bpf.SwitchGhLayerGH_LAYER_ACL_PRE: "acl_pre",
	bpf.SwitchGhLayerGH_LAYER_LB:      "lb",
	bpf.SwitchGhLayerGH_LAYER_ACL_OUT: "acl_out",
	bpf.SwitchGhLayerGH_LAYER_ROUTE:   "route",
	bpf.SwitchGhLayerGH_LAYER_NAT:     "nat",
	bpf.SwitchGhLayerGH_LAYER_ACL_IN:  "acl_in",
	bpf.SwitchGhLayerGH_LAYER_L2:      "l2",
	bpf.SwitchGhLayerGH_LAYER_QOS:     "qos",
	bpf.SwitchGhLayerGH_LAYER_FLOW:    "flow",
}

// stateNames are those of enum gh_flow_state.
var stateNames = [...]string{
	bpf.SwitchGhFlowStateGH_FLOW_SYN:   "syn",
	bpf.SwitchGhFlowStateGH_FLOW_EST:   "est",
	bpf.SwitchGhFlowStateGH_FLOW_FIN:   "fin",
	bpf.SwitchGhFlowStateGH_FLOW_TW:    "tw",
	bpf.SwitchGhFlowStateGH_FLOW_RST:   "rst",
	bpf.SwitchGhFlowStateGH_FLOW_UDP1:  "udp1",
	bpf.SwitchGhFlowStateGH_FLOW_UDP2:  "udp2",
	bpf.SwitchGhFlowStateGH_FLOW_ICMP:  "icmp",
	bpf.SwitchGhFlowStateGH_FLOW_OTHER: "other",
}

// ReasonName is the name of a drop reason, as in drop.h without its prefix, in
// lower case; with its number where a program newer than this process knows more.
func ReasonName(reason uint8) string { return strings.ToLower(bpf.DropReason(reason).String()) }

// LayerName is the name of a layer; a number, likewise.
func LayerName(layer uint8) string { return nameOf(layerNames[:], layer) }

// FlowStates are the states that a flow can be in.
func FlowStates() []string { return stateNames[1:] }

func stateName(state uint8) string { return nameOf(stateNames[:], state) }

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) && names[i] != "" {
		return names[i]
	}
	return fmt.Sprintf("%d", i)
}
