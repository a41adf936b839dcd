// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package silo is the engine of process isolation: namespaces, a cgroup and a
// root file system, made by an OCI runtime (runc or one like it). It knows
// neither clients nor journals: the worker that runs it does.
//
// Be aware:
//   - An Engine mounts and forks on one locked OS thread (Thread) that has a
//     mount namespace of its own. Other threads of the process see the host's.
//   - It needs a Reaper, which collects every child of the process: nothing else
//     in the process may wait for children, os/exec included.
//   - A start is one invocation of the runtime; signals, pause, kill and clean-up
//     go to the kernel directly, because an invocation costs more than they do.
package silo
