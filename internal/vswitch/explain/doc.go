// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package explain walks a packet through the switch's tables in Go, step by step
// as the programs of package bpf do, and says which layer and which row decided,
// what was rewritten, and where the packet leaves. It sends nothing and writes
// nothing; what it must know of the kernel comes through two small interfaces,
// Live (flows) and FIB (the host's routing table).
//
// It is the second telling of one story, written from the same design and held
// against the first: a test puts random packets into random switches and demands
// that programs and Explain agree on verdict, reason, layer, rewrite and way out.
//
// Be aware:
//   - A packet is explained at one moment. What Live says may have changed by the
//     time a real packet comes.
//   - Answers of the switch's own (resets, ICMP errors) and flooding are limited in
//     rate; a Trace tells what happens below those limits. A full flow table is
//     likewise not foreseen.
//   - A file here has the name of the header whose rules it tells, and changes
//     with it.
package explain
