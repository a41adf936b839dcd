// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"strings"
	"testing"
)

func TestParseCgroup2(t *testing.T) {
	const v1 = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n"
	for _, c := range []struct{ name, in, want string }{
		{"pure", "29 23 0:25 / /sys/fs/cgroup rw,nosuid shared:8 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{"hybrid", v1 + "42 24 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup/unified"},
		{"version 1 only", v1, ""},
		{"part of it first", "1 2 0:3 /a /x rw - cgroup2 none rw\n4 2 0:3 / /y\\040z rw - cgroup2 none rw\n", "/y z"},
		{"rubbish", "cgroup2\n - cgroup2 \n\n", ""},
	} {
		got, err := parseCgroup2(strings.NewReader(c.in))
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
