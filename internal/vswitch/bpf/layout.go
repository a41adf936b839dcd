// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

// StateLayout is the version of the layout of all state maps: they are pinned
// under it, and programs with another one carry over what they find. A test holds
// it against the object and says when it has to grow.
const StateLayout = "3"

// StateMaps returns the names of the maps that are pinned under StateLayout and
// survive daemons, programs and configuration.
func StateMaps() []string {
	return []string{"flow4", "flow6", "pflows", "fill", "frag4", "frag6", "epoch", "pstats", "drops", "events", "sockrev", "affinity", "svcstat",
		"reap", "queue4", "queue6", "aclstats"}
}

// NotCarried returns the names of the state maps that begin empty under another
// layout though they could be carried over: the reaper's queues, which the
// sweeper fills again.
func NotCarried() []string { return []string{"reap", "queue4", "queue6"} }

// ConfigMaps returns the names of the maps that belong to one generation and are
// written by user space only.
func ConfigMaps() []string {
	return []string{"port", "net", "ifport", "portip", "addr", "route", "svc", "slot", "member", "vip_l2",
		"natpool", "portbusy", "flood", "floodn", "cfg", "aclset", "aclrule", "aclclass", "nh", "vtep", "peer", "fdb", "segment", "wireip", "proxy"}
}

// PrivateMaps returns the names of the maps that belong to one generation of
// programs and that user space neither reads nor writes, but must keep pinned:
// an unpinned prog array (stages) is emptied with its last descriptor.
func PrivateMaps() []string {
	return []string{"stages", "scratch", "rate", "samples", "result"}
}
