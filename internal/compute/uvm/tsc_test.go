// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import "testing"

func TestTSC(t *testing.T) {
	for in, want := range map[string]uint64{
		"processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\ncpu MHz\t\t: 3100.000\n\n":           2200000,
		"processor\t: 0\nmodel name\t: AMD EPYC\ncpu MHz\t\t: 2249.998\n\nprocessor\t: 1\ncpu MHz\t: 1.0\n": 2249998,
		"processor\t: 0\nBogoMIPS\t: 50.00\n": 0,
	} {
		if got := tscOf(in); got != want {
			t.Errorf("%q: %d kHz, wanted %d", in, got, want)
		}
	}
}
