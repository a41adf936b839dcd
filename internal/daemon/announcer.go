// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// announcer tells the neighbours at the uplinks of addresses that services take, and
// has the devices hear who asks for them. The switch answers, with or without it.
type announcer struct {
	log *slog.Logger

	mu   sync.Mutex
	told map[announced]telling
}

type announced struct {
	ifindex int
	addr    netip.Addr
}

// telling is what goes on for one address at one uplink.
type telling struct {
	end  context.CancelFunc
	done chan struct{}
}

func (t telling) stop() { t.end(); <-t.done }

// Set makes the addresses of want those that are announced.
func (a *announcer) Set(want []vswitch.Announcement, uplinks []vswitch.UplinkPort) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[announced]bool{}
	for _, w := range want {
		for _, u := range uplinks {
			if w.Uplink == "" || w.Uplink == u.Name {
				all[announced{u.Ifindex, w.Addr}] = true
			}
		}
	}
	for p, t := range a.told {
		if all[p] {
			continue
		}
		t.stop()
		delete(a.told, p)
		if _, err := net.InterfaceByIndex(p.ifindex); err != nil {
			continue // it took its list of groups along
		}
		if err := datapath.Withdraw(p.ifindex, p.addr); err != nil {
			a.log.Warn("an uplink still hears who asks for an address", "addr", p.addr, "error", err)
		}
	}
	for p := range all {
		if _, ok := a.told[p]; !ok {
			if a.told == nil {
				a.told = map[announced]telling{}
			}
			a.told[p] = a.tell(p)
		}
	}
}

// Again tells the neighbours at an uplink once more: its carrier was away, and who is
// there now may have been elsewhere.
func (a *announcer) Again(ifindex int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, t := range a.told {
		if p.ifindex == ifindex {
			t.stop()
			a.told[p] = a.tell(p)
		}
	}
}

func (a *announcer) tell(p announced) telling {
	ctx, end := context.WithCancel(context.Background())
	t := telling{end, make(chan struct{})}
	go func() {
		defer close(t.done)
		dev, err := net.InterfaceByIndex(p.ifindex)
		if err == nil && len(dev.HardwareAddr) == 6 {
			err = datapath.Announce(ctx, p.ifindex, vswitch.MAC(dev.HardwareAddr), p.addr)
		}
		if err != nil {
			a.log.Warn("neighbours are not told of an address; they find it when they ask", "addr", p.addr, "error", err)
		}
	}()
	return t
}

// Close ends what is under way. Addresses stay announced: the switch goes on.
func (a *announcer) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.told {
		t.stop()
	}
	return nil
}
