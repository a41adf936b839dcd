// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build !failpoint

package failpoint

// Enabled says whether the package was built to do anything.
const Enabled = false

// Hit does nothing in this build.
func Hit(string) error { return nil }
