// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package network

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// tortureLender is a segment's DHCP server with few addresses, which it lends to
// several at a time, too.
type tortureLender struct{ last atomic.Uint32 }

func (l *tortureLender) Acquire(context.Context, model.DHCPClient) (model.DHCPLease, error) {
	return tortureLease(int(l.last.Add(1) % 30)), nil
}

func (l *tortureLender) Release(model.DHCPClient) {}

func (l *tortureLender) Set([]model.DHCPClient) {}

// lease is what becomes of one: more time, another address, or none.
func (g *gen) lease() call {
	var ids []string
	var last model.DHCPLease
	for _, e := range g.h.World().AllEndpoints() {
		if e.Lease != nil {
			ids, last = append(ids, e.Doc.Id), *e.Lease
		}
	}
	if len(ids) == 0 {
		return g.endpoint()
	}
	id := ids[g.r.IntN(len(ids))]
	switch l := tortureLease(g.r.IntN(30)); g.r.IntN(3) {
	case 0:
		last = model.DHCPLease{}
	case 1:
		last = l
	default:
		id, last.Expires = ids[len(ids)-1], l.Expires
	}
	body, _ := json.Marshal(last)
	return call{verb: "lend", ref: id, body: string(body)}
}

func tortureLease(n int) model.DHCPLease {
	return model.DHCPLease{Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 86, 0, byte(10 + n)}), 24), Server: netip.AddrFrom4([4]byte{10, 86, 0, 1}),
		Routes: []hcn.Route{{NextHop: "10.86.0.1", DestinationPrefix: "0.0.0.0/0"}}, MTU: uint16(1400 + n%2), Expires: time.Unix(int64(2e9)+int64(n), 0).UTC()}
}
