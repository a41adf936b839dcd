// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

// Shorter names for the generated types, one for each struct and enum of maps.h, state.h
// and drop.h. The constants keep their C names: SwitchGhDropReasonGH_DROP_TTL.
type (
	ACLAction     = SwitchGhAclAction
	ACLClassKey   = SwitchGhAclClassKey
	ACLFlags      = SwitchGhAclFlags
	ACLKey        = SwitchGhAclKey
	ACLKind       = SwitchGhAclKind
	ACLList       = SwitchGhAclList
	ACLRule       = SwitchGhAclRule
	ACLSet        = SwitchGhAclSet
	ACLSetKey     = SwitchGhAclSetKey
	ACLStats      = SwitchGhAclStats
	ACLTuple      = SwitchGhAclTuple
	Addr          = SwitchGhAddr
	AddrFlags     = SwitchGhAddrFlags
	AddrKey       = SwitchGhAddrKey
	AddrVal       = SwitchGhAddrVal
	AffinityKey   = SwitchGhAffinityKey
	AffinityVal   = SwitchGhAffinityVal
	BusyKey       = SwitchGhBusyKey
	Client        = SwitchGhClient
	Cfg           = SwitchGhCfg
	CopyWhat      = SwitchGhCopyWhat
	DropKey       = SwitchGhDropKey
	DropReason    = SwitchGhDropReason
	DropVal       = SwitchGhDropVal
	Event         = SwitchGhEvent
	EventKind     = SwitchGhEventKind
	FlowKey4      = SwitchGhFkey4
	FlowKey6      = SwitchGhFkey6
	FlowKeyFlags  = SwitchGhFkeyFlags
	FdbKey        = SwitchGhFdbKey
	FloodKey      = SwitchGhFloodKey
	Flow4         = SwitchGhFlow4
	Flow6         = SwitchGhFlow6
	FlowEnd       = SwitchGhFlowEnd
	FlowEvent     = SwitchGhFlowEvent
	FlowState     = SwitchGhFlowState
	FragKey4      = SwitchGhFrag4Key
	FragKey6      = SwitchGhFrag6Key
	FragVal       = SwitchGhFragVal
	Layer         = SwitchGhLayer
	Member        = SwitchGhMember
	MemberKey     = SwitchGhMemberKey
	MemberState   = SwitchGhMemberState
	NATPool       = SwitchGhNatpool
	NextHop       = SwitchGhNh
	PeerKey       = SwitchGhPeerKey
	PeerVal       = SwitchGhPeerVal
	VTEP          = SwitchGhVtep
	Net           = SwitchGhNet
	NetFlags      = SwitchGhNetFlags
	Op            = SwitchGhOp
	OutKind       = SwitchGhOutKind
	Port          = SwitchGhPort
	PortFlags     = SwitchGhPortFlags
	PortKind      = SwitchGhPortKind
	PortIPKey     = SwitchGhPortipKey
	ProxyKey      = SwitchGhProxyKey
	PortStats     = SwitchGhPstats
	Rate          = SwitchGhRate
	ReapAt        = SwitchGhReapAt
	Result        = SwitchGhResult
	ResultVerdict = SwitchGhResultVerdict
	RouteFlags    = SwitchGhRouteFlags
	RouteKey      = SwitchGhRouteKey
	RouteKind     = SwitchGhRouteKind
	RouteVal      = SwitchGhRouteVal
	Sample        = SwitchGhSample
	SegmentKey    = SwitchGhSegmentKey
	SlotKey       = SwitchGhSlotKey
	SockRevKey    = SwitchGhSockrevKey
	SockRevVal    = SwitchGhSockrevVal
	Stage         = SwitchGhStage
	SvcKey        = SwitchGhSvcKey
	SvcFlags      = SwitchGhSvcFlags
	SvcStat       = SwitchGhSvcstat
	SvcVal        = SwitchGhSvcVal
	Verdict       = SwitchGhVerdict
	VIPKey        = SwitchGhVipKey
	Via           = SwitchGhVia
	WireIPKey     = SwitchGhWireipKey
)

// SampleTagged in Sample.Vlan says that the packet bore a tag (GH_SAMPLE_TAGGED).
const SampleTagged = 0x10000

// SumPortStats adds up a port's counters, of which each CPU has its own.
func SumPortStats(perCPU []PortStats) (s PortStats) {
	for _, c := range perCPU {
		s.RxPackets += c.RxPackets
		s.RxBytes += c.RxBytes
		s.TxPackets += c.TxPackets
		s.TxBytes += c.TxBytes
		s.RxDrops += c.RxDrops
		s.TxDrops += c.TxDrops
	}
	return s
}
