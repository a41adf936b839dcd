// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package proto is what a worker on the host and the agent inside a utility VM
// say to each other: the preamble that finds the start of a session in a byte
// stream, the multiplexer on it, messages with their documents, and the head of
// every other stream.
//
//	host                                   guest
//	Hello (GATEHVM1, versions, nonce)  ->
//	                                   <-  Welcome (GATEVMH1, version, nonce)
//	yamux client                      <->  yamux server
//	stream 1: requests                 ->
//	                                   <-  responses, notifications
//	further streams: one line StreamHead, then bytes
//
// The host trusts no byte of the guest: every length is checked before memory is
// taken for it, and a stream that the guest opens ends the session.
package proto

import "time"

const (
	// PortName of the virtio-serial port that carries all of it.
	PortName = "gatehouse.agent.0"
	// Version of the protocol that this package speaks.
	Version = 1
	// VM is the ContainerId that means the virtual machine itself.
	VM = "00000000-0000-0000-0000-000000000000"

	// MaxMessage is the largest message, header included.
	MaxMessage = 4 << 20
	// MaxDepth is how deep the JSON of a message may nest.
	MaxDepth = 64
	// MaxHead is the longest head of a stream, its newline included.
	MaxHead = 4 << 10
)

// CallTimeout is how long the host waits for the answer of a call.
func CallTimeout(t Type) time.Duration {
	switch t {
	case Create, ModifySettings:
		return time.Minute
	}
	return 30 * time.Second
}

// Probe on the kernel's command line makes the agent write ProbeLine to the
// console and power off: how an accelerator is proved.
const (
	Probe     = "gatehouse.probe"
	ProbeLine = "gatehouse: hello"
)
