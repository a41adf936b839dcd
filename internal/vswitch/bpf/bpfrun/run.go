// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package bpfrun puts frames into a loaded program by BPF_PROG_TEST_RUN, for tests.
//
// Be aware: devices are looked up in the network namespace of the calling thread.
package bpfrun

import "github.com/cilium/ebpf"

// Context is struct __sk_buff up to the hardware time stamp, linux/bpf.h.
type Context struct {
	Len, PktType, Mark, Queue, Protocol, VlanPresent, VlanTCI, VlanProto, Priority uint32
	IngressIfindex, Ifindex, TcIndex                                               uint32
	CB                                                                             [5]uint32
	Hash, TcClassid, Data, DataEnd, NapiID, Family                                 uint32
	RemoteIP4, LocalIP4                                                            uint32
	RemoteIP6, LocalIP6                                                            [4]uint32
	RemotePort, LocalPort, DataMeta                                                uint32
	FlowKeys                                                                       uint64
	Tstamp                                                                         uint64
	WireLen, GsoSegs                                                               uint32
	SK                                                                             uint64
	GsoSize, TstampType                                                            uint32
	_                                                                              uint32
	Hwtstamp                                                                       uint64
}

// Run puts a frame in at ctx.Ifindex. room is how many bytes it may grow.
func Run(p *ebpf.Program, ctx *Context, frame []byte, room int) (ret uint32, out []byte, after Context, err error) {
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+room), Context: ctx, ContextOut: &after}
	ret, err = p.Run(&opts)
	return ret, opts.DataOut, after, err
}
