// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"testing"
)

// TestHooksWithoutMount: on a host that mounts no cgroup2 the hooks are attached
// all the same.
func TestHooksWithoutMount(t *testing.T) {
	l := newLab(t)
	l.container(10)
	l.publish(10, 6, 8080, 80)
	f, err := cgroup2Detached()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l.o.CgroupRoot = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	d := l.open()
	l.apply(d)
	owned(t, l.o, "links/sock_", len(socketHooks))
	d.Close()
	owned(t, l.o, "links/sock_", len(socketHooks))
	d = l.open()
	l.apply(d)
	l.s.Mappings = nil
	l.apply(d)
	owned(t, l.o, "links/sock_", 0)
}
