// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"
	"os"
)

// sysctl4 writes pairs of name and value under net/ipv4/conf/dev in the calling
// thread's network namespace.
func sysctl4(dev string, pairs ...string) error {
	return sysctl("/proc/sys/net/ipv4/conf/"+dev, pairs)
}

// sysctl6 is sysctl4 for IPv6. A kernel without IPv6, and a device with an MTU
// below 1280, have nothing to set.
func sysctl6(dev string, pairs ...string) error {
	if err := sysctl("/proc/sys/net/ipv6/conf/"+dev, pairs); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func sysctl(dir string, pairs []string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := os.WriteFile(dir+"/"+pairs[i], []byte(pairs[i+1]), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", pairs[i], pairs[i+1], err)
		}
	}
	return nil
}
