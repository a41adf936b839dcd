// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"
)

// announceMemo is what addresses were announced with last.
type announceMemo struct {
	made    bool
	was     []Announcement
	uplinks []UplinkPort
	host    []netip.Addr
}

func (c *Compiler) compileAnnounced(s State, f Facts, t *Tables) error {
	m := &c.announced
	if m.made && slices.Equal(m.was, s.Announced) && slices.Equal(m.uplinks, t.Uplinks) && slices.Equal(m.host, f.HostAddrs) {
		return nil
	}
	b := &block{}
	for i, a := range s.Announced {
		err := checkUnicast(a.Addr)
		if err == nil && (a.Addr.IsLoopback() || a.Addr.IsLinkLocalUnicast()) {
			err = invalid("%q: an address of one link or host is nobody else's to ask for", a.Addr)
		}
		if err != nil {
			return invalid("Announced[%d] (%s): Addr %w", i, a.Object, err)
		}
		if slices.Contains(f.HostAddrs, a.Addr) {
			continue // the host's stack answers for what it has
		}
		for _, u := range t.Uplinks {
			if a.Uplink == "" || a.Uplink == u.Name {
				b.vip = append(b.vip, Entry[VIPKey, uint8]{vipKey(u.Port, a.Addr), 1})
			}
		}
	}
	// Several services may have one address.
	slices.SortFunc(b.vip, func(x, y Entry[VIPKey, uint8]) int {
		return cmp.Or(cmp.Compare(x.Key.Uplink, y.Key.Uplink), ip(x.Key.Addr.B).Compare(ip(y.Key.Addr.B)))
	})
	b.vip = slices.Compact(b.vip)
	if t.announced == nil || !t.announced.equal(&b.rows) {
		t.announced = b
	}
	*m = announceMemo{true, slices.Clone(s.Announced), t.Uplinks, slices.Clone(f.HostAddrs)}
	return nil
}
