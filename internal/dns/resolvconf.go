// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// lookAgain is how often resolv.conf is looked at for a change, at most.
const lookAgain = time.Second

// resolvConf is the host's list of servers, read again when the file changes.
type resolvConf struct {
	path string

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	list    []netip.Addr
}

// servers returns the list of before when the file cannot be read just now.
func (c *resolvConf) servers() []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookAgain {
		return c.list
	}
	c.looked = time.Now()
	st, err := os.Stat(c.path)
	if err != nil || st.ModTime().Equal(c.changed) {
		return c.list
	}
	f, err := os.Open(c.path)
	if err != nil {
		return c.list
	}
	defer f.Close()
	c.list, c.changed = parseResolvConf(f), st.ModTime()
	return c.list
}

// parseResolvConf reads the nameserver lines of resolv.conf(5), at most three as
// the C library does; others are passed over.
func parseResolvConf(r io.Reader) []netip.Addr {
	var list []netip.Addr
	s := bufio.NewScanner(r)
	for s.Scan() && len(list) < 3 {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			list = append(list, a)
		}
	}
	return list
}
