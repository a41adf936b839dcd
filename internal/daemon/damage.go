// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"encoding/json"

	"gatehouse.dev/gatehouse/internal/store"
)

// eventAttachmentRepaired is an event of the host alone, so its number is in
// neither HCN's nor HCS's range.
const eventAttachmentRepaired uint32 = 0x03000001

// tellDamages makes an event of each attachment of the switch that another process
// took away or got before, until ctx ends.
func (d *daemon) tellDamages(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-d.dp.Damages():
			data, err := json.Marshal(map[string]string{"What": x.What, "Damage": string(x.Kind)})
			if err == nil {
				_, err = d.db.Update(func(tx *store.Tx) error {
					return tx.Append(store.Event{Type: eventAttachmentRepaired, Name: "AttachmentRepaired", Kind: "switch", ID: x.What, Data: data})
				})
			}
			if err != nil {
				d.log.Warn("event lost", "event", "AttachmentRepaired", "what", x.What, "error", err)
			}
		}
	}
}
