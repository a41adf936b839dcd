// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"encoding/json"
	"sync"

	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/store"
)

// Events of the host alone, so their numbers are in neither HCN's nor HCS's range.
const (
	eventAttachmentRepaired uint32 = 0x03000001
	eventUplinkChanged      uint32 = 0x03000002
)

// tellDamages makes an event of each attachment of the switch that another process
// took away or got before, until ctx ends.
func (d *daemon) tellDamages(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-d.dp.Damages():
			d.tell(eventAttachmentRepaired, "AttachmentRepaired", "switch", x.What, map[string]any{"What": x.What, "Damage": x.Kind})
		}
	}
}

// tellUplinks makes an event of what becomes of each uplink, and counts it, until
// ctx ends.
func (d *daemon) tellUplinks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-d.comp.Uplinks():
			if !used(d.cfg.Network.Uplinks, c.Name) {
				continue
			}
			d.uplinks.add(c.Change)
			if c.Change == compartment.UplinkCarrierBack {
				d.neighbours.Again(c.Ifindex)
			}
			d.tell(eventUplinkChanged, "UplinkChanged", "uplink", c.Name, map[string]any{"Ifindex": c.Ifindex, "Change": c.Change})
		}
	}
}

// tell makes an event of the host's own.
func (d *daemon) tell(number uint32, name, kind, id string, data map[string]any) {
	b, err := json.Marshal(data)
	if err == nil {
		_, err = d.db.Update(func(tx *store.Tx) error {
			return tx.Append(store.Event{Type: number, Name: name, Kind: kind, ID: id, Data: b})
		})
	}
	if err != nil {
		d.log.Warn("event lost", "event", name, "what", id, "error", err)
	}
}

// tally counts things by name. The zero tally is ready.
type tally struct {
	mu sync.Mutex
	n  map[string]int64
}

func (t *tally) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int64{}
	}
	t.n[name]++
}

func (t *tally) of(name string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n[name]
}
