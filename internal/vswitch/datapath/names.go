// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// reasonNames are those of enum gh_drop_reason.
var reasonNames = [...]string{
	bpf.SwitchGhDropReasonGH_DROP_PARSE:       "parse",
	bpf.SwitchGhDropReasonGH_DROP_L2PROTO:     "l2proto",
	bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN:   "port_down",
	bpf.SwitchGhDropReasonGH_DROP_VLAN:        "vlan",
	bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC:   "spoof_mac",
	bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP:    "spoof_ip",
	bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP:   "spoof_arp",
	bpf.SwitchGhDropReasonGH_DROP_DHCP_GUARD:  "dhcp_guard",
	bpf.SwitchGhDropReasonGH_DROP_RA_GUARD:    "ra_guard",
	bpf.SwitchGhDropReasonGH_DROP_METER:       "meter",
	bpf.SwitchGhDropReasonGH_DROP_ACL_OUT_PRE: "acl_out_pre",
	bpf.SwitchGhDropReasonGH_DROP_ACL_OUT:     "acl_out",
	bpf.SwitchGhDropReasonGH_DROP_ACL_IN:      "acl_in",
	bpf.SwitchGhDropReasonGH_DROP_NO_BACKEND:  "no_backend",
	bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE:    "no_route",
	bpf.SwitchGhDropReasonGH_DROP_NO_NEIGH:    "no_neigh",
	bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST: "unknown_dst",
	bpf.SwitchGhDropReasonGH_DROP_TTL:         "ttl",
	bpf.SwitchGhDropReasonGH_DROP_MTU:         "mtu",
	bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER:  "frag_order",
	bpf.SwitchGhDropReasonGH_DROP_FRAG_TINY:   "frag_tiny",
	bpf.SwitchGhDropReasonGH_DROP_FRAG_TABLE:  "frag_table",
	bpf.SwitchGhDropReasonGH_DROP_FLOW_FULL:   "flow_full",
	bpf.SwitchGhDropReasonGH_DROP_PORT_QUOTA:  "port_quota",
	bpf.SwitchGhDropReasonGH_DROP_NAT_PORTS:   "nat_ports",
	bpf.SwitchGhDropReasonGH_DROP_NAT_PROTO:   "nat_proto",
	bpf.SwitchGhDropReasonGH_DROP_NOSTATE:     "nostate",
	bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW: "icmp_noflow",
	bpf.SwitchGhDropReasonGH_DROP_ICMP_RATE:   "icmp_rate",
	bpf.SwitchGhDropReasonGH_DROP_TUN_PEER:    "tun_peer",
	bpf.SwitchGhDropReasonGH_DROP_TUN_VNI:     "tun_vni",
	bpf.SwitchGhDropReasonGH_DROP_EXT_HDR:     "ext_hdr",
	bpf.SwitchGhDropReasonGH_DROP_CSUM:        "csum",
	bpf.SwitchGhDropReasonGH_DROP_LOOP:        "loop",
	bpf.SwitchGhDropReasonGH_DROP_TAIL_CALL:   "tail_call",
	bpf.SwitchGhDropReasonGH_DROP_INTERNAL:    "internal",
}

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

// ReasonName is the name of a drop reason; a number where a program newer than
// this process knows more.
func ReasonName(reason uint8) string { return nameOf(reasonNames[:], reason) }

// LayerName is the name of a layer, likewise.
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
