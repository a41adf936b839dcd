// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package uvm is the host half of a utility VM: it starts QEMU as a child of the
// worker, drives it by QMP, keeps its serial console and says how it ended.
//
// QEMU runs as a user of its own, in a mount namespace that has nothing but the
// distribution's /usr, its kernel and the devices it needs, in an empty network
// namespace, in its own cgroup and in its own seccomp sandbox. Every other file is
// opened by the worker and handed over as a descriptor; it listens nowhere.
//
// Be aware: whatever comes out of the machine (serial output, bytes on the
// agent's port) is hostile, and so is QEMU itself once a guest has broken out:
// what QMP says is bounded in size and names nothing that is then opened.
package uvm
