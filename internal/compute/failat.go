// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

// failAt marks a line after which a crash must converge: create-reserved,
// create-plugged, create-prepared, create-spawned, create-committed,
// create-started, stopped, deleted.
func failAt(string) {}
