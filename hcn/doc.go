// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hcn speaks to the host networking service: the documents of version 2
// of the Host Compute Network model, their enums, policies and error codes, and
// a Client for the service's socket.
//
// Names, kinds (const or var), field order and JSON tags are those of the public
// Go package of the same name for Windows, so that a program written for it
// compiles against this one with its import path changed, and takes the same
// branches. Functions and methods of documents, as there, know no context and no
// socket: they use DefaultClient. What is ours alone (Client, Event, EndpointStats,
// Explanation, Graph, Holder, PortReservation) stands in files of its own.
//
// Be aware:
//   - documents are dumb: they check nothing but what the Windows package checks
//     before it calls. The rules live in the service.
//   - a method returns a new document; its receiver stays as it was, except for the
//     lists of AddEndpoint and RemoveEndpoint.
//   - what a search does not find is a typed error (NetworkNotFoundError …) by value,
//     never wrapped; what the service refuses is an *HcnError.
//   - Settings of a policy travel as raw JSON and come back as they were sent.
//   - flags decode from an integer, a name or a "A, B" list; they encode as integers.
package hcn
