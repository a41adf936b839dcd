// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package datapath makes vswitch.Tables so in the kernel: it loads the programs
// of package bpf, pins them, attaches them and writes their maps, and it reads
// what they count.
//
// Everything lives in the kernel and goes on without us. Under Options.Pins:
//
//	state/v<layout>/<map>   flows, fragments, epochs, counters: outlive everything;
//	                        another layout's is carried over and removed after the switch
//	gen/<n>/maps/<map>      configuration maps and the tail-call array
//	gen/<n>/progs/<program>
//	links/uplink_<ifindex>  tcx attachments, moved from generation to generation
//	links/sock_<hook>       cgroup attachments, likewise
//	macs                    what uplinks were told to receive besides their own MAC
//	current                 array map of one u32: the generation last switched to
//
// Each Open loads a new generation beside the one at work; the first Apply fills
// it and switches to it: one filter replacement on the shared block, one update
// of each link. Before and after, packets meet one whole generation; both share
// the flows. So a start, an upgrade and a repair are the same, and lose nothing.
//
// Be aware:
//   - a PROG_ARRAY without descriptor and pin is emptied by the kernel, which
//     silently kills every tail call: a generation's pins go last, and only when
//     nothing that is attached belongs to it;
//   - which generation is at work is asked of the kernel (filter and links), not
//     of the pin "current", which a crash can leave behind by one;
//   - devices are found by ifindex in the network namespace of the caller of Open
//     and Apply: call them from one namespace.
package datapath
