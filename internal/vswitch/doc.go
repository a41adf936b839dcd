// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package vswitch is the switch as data. State says what ports, networks and
// mappings one host should have; Compile turns it, together with the Facts only
// the kernel knows, into Tables: the exact content of every configuration map of
// the data plane. It is pure: no kernel call, no clock, no I/O. Package datapath
// makes Tables so; package bpf holds the programs that read them.
package vswitch
