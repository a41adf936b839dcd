// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"log/slog"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
	"gatehouse.dev/gatehouse/internal/vswitch/explain"
)

// sightHand lets the networking service look at the kernel to explain a packet.
type sightHand struct {
	dp  *datapath.Datapath
	log *slog.Logger
}

// Look asks by a program that is there for this one question.
func (h sightHand) Look(f func(explain.Live, explain.FIB)) error {
	p, err := datapath.NewFIB()
	if err != nil {
		return err
	}
	defer p.Close()
	f(h.dp.Live(), fibHand{p, h.log})
	return nil
}

// fibHand is the routing table in the words of explain.
type fibHand struct {
	*datapath.FIB
	log *slog.Logger
}

func (h fibHand) Socket(proto uint8, local, remote netip.AddrPort) bool {
	is, err := h.FIB.Socket(proto, local, remote)
	if err != nil {
		h.log.Warn("a packet is explained without the host's sockets", "error", err)
	}
	return is
}

func (h fibHand) Lookup(q explain.FIBQuery) (explain.FIBRoute, bool) {
	a, ok, err := h.FIB.Lookup(q.Anchor, q.Src, q.Dst, q.Protocol, q.TOS)
	if err != nil {
		h.log.Warn("a packet is explained without the host's routes", "error", err)
	}
	return explain.FIBRoute(a), ok
}
