// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package model is the host's networks as a value. World holds every network,
// endpoint, namespace, load balancer, service, SDN route and port reservation; a verb takes
// a World and a document and returns the next World, the document as stored, or an
// Error that says which member breaks which rule. Desired compiles a World to what
// the switch, the compartments, the resolvers and the host's ports should be.
//
// It is pure: no clock, no randomness, no kernel. What a verb needs of these comes
// in as Input. Numbers that the data plane sees are part of the rows.
//
// Be aware:
//   - a World is never changed in place; rows are shared between Worlds and
//     immutable once they are in one.
//   - what rows derive for Desired is compiled when the row is made, so that one
//     change costs one object.
package model
