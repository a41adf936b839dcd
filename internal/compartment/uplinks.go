// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// UplinkChange is what happened to an uplink of the host.
type UplinkChange struct {
	Name    string
	Ifindex int
	Change  string // one of UplinkChanges
}

// The changes. An uplink that comes back may be another device of the same name.
const (
	uplinkAdded       = "added"
	uplinkGone        = "gone"
	uplinkCarrierLost = "carrier-lost"
	UplinkCarrierBack = "carrier-back"
)

// UplinkChanges lists all that Change may say.
func UplinkChanges() []string {
	return []string{uplinkAdded, uplinkGone, uplinkCarrierLost, UplinkCarrierBack}
}

// changesBuffer is how many wait for a reader of Uplinks.
const changesBuffer = 64

// Uplinks yields what happens to uplinks from Open on. A slow reader loses some.
// The channel is never closed.
func (h *Host) Uplinks() <-chan UplinkChange { return h.view.changes }

// follow makes the facts of links and addresses, says whether they are others than
// before, and tells what became of uplinks. v.mu is held.
func (v *view) follow() bool {
	old, running := v.uplinks, v.running
	ups, local := uplinksOf(v.links, v.addrs, v.bound)
	v.running = map[int]bool{}
	for _, u := range ups {
		is := v.links[u.Ifindex].carrier
		v.running[u.Ifindex] = is
		was, known := running[u.Ifindex]
		switch {
		case !known && running != nil: // nil: they were there before us
			v.tell(u, uplinkAdded)
		case known && was && !is:
			v.tell(u, uplinkCarrierLost)
		case known && !was && is:
			v.tell(u, UplinkCarrierBack)
		}
	}
	for _, u := range old {
		if _, is := v.running[u.Ifindex]; !is {
			v.tell(u, uplinkGone)
		}
	}
	if slices.EqualFunc(ups, v.uplinks, sameUplink) && slices.Equal(local, v.hostAddr) {
		return false
	}
	v.uplinks, v.hostAddr = ups, local
	return true
}

func (v *view) tell(u vswitch.Uplink, change string) {
	v.log.Info("uplink", "device", u.Name, "ifindex", u.Ifindex, "change", change)
	select {
	case v.changes <- UplinkChange{u.Name, u.Ifindex, change}:
	default:
	}
}
