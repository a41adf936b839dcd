// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package worker is the process that holds one compute system: its stdio,
// console, exit status and log. It outlives the daemon and is adopted again. The
// daemon's side is Client; the process's side is Main.
//
// The worker runs in a mount namespace of its own (its mounts are slaves of the
// host's): it stacks the overlay there, so that nothing is left mounted on the
// host however it ends. It never touches the store.
package worker

import "gatehouse.dev/gatehouse/internal/compute/held"

// The words of package held, under this package's name.
type (
	Spec          = held.Spec
	Root          = held.Root
	JournalEntry  = held.JournalEntry
	ProcessInfo   = held.ProcessInfo
	AttachOptions = held.AttachOptions
	Client        = held.Client
	StartError    = held.StartError
)
