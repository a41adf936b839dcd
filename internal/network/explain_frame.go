// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/explain"
)

const (
	frameMin, frameMax = 14, 65_550 // an Ethernet header; what a device hands over at most
	etherVLAN          = 0x8100
)

// frameAsItIs explains a frame somebody captured, as if From sent it now.
func (q *question) frameAsItIs() error {
	switch {
	case q.r.To != "" || q.r.Port != 0 || q.r.Protocol != 0 || q.r.SourcePort != 0 || q.r.Source != "":
		return invalid("Frame", "says all by itself; leave out To, Protocol, Port, SourcePort and Source")
	case len(q.r.Frame) < frameMin || len(q.r.Frame) > frameMax:
		return invalid("Frame", "%d bytes; an Ethernet frame has %d to %d", len(q.r.Frame), frameMin, frameMax)
	}
	p := explain.Packet{Frame: q.r.Frame}
	word, name, _ := strings.Cut(q.r.From, " ")
	if strings.EqualFold(word, "uplink") {
		u, err := q.uplinkNamed(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		p.Ifindex, p.Uplink, q.x.From = u.Ifindex, true, "uplink "+u.Name
	} else {
		var err error
		if q.from, err = q.end("From", q.r.From); err != nil {
			return err
		}
		if len(q.from.endpoints) == 0 {
			return invalid("From", "%q sends by no one port; name an endpoint, or \"uplink NAME\"", q.r.From)
		}
		e := q.from.endpoints[0]
		for _, o := range q.from.endpoints { // of a container with several, the one whose MAC it bears
			if vswitch.MAC(q.sw.Rows.Port[uint32(o.Port)].Mac) == vswitch.MAC(q.r.Frame[6:12]) {
				e = o
			}
		}
		if !e.Attached() {
			q.unsent("compartment", "", "endpoint %s is not attached to a namespace, so nothing can be sent", e.Doc.Name)
			return nil
		}
		p.Ifindex, q.x.From = int(q.sw.Rows.Port[uint32(e.Port)].Ifindex), q.ports[e.Port]
	}
	// The kernel takes the outer tag off before the switch sees the frame.
	if len(p.Frame) >= frameMin+4 && binary.BigEndian.Uint16(p.Frame[12:]) == etherVLAN {
		p.VLAN, p.TCI = true, binary.BigEndian.Uint16(p.Frame[14:])
		p.Frame = slices.Delete(slices.Clone(p.Frame), 12, 16)
	}
	q.add(explain.Explain(q.sw, p))
	return nil
}

func (q *question) uplinkNamed(name string) (vswitch.Uplink, error) {
	var have []string
	for _, u := range q.facts.Uplinks {
		if u.Name == name {
			return u, nil
		}
		have = append(have, u.Name)
	}
	if len(have) == 0 {
		return vswitch.Uplink{}, invalid("From", "the host has no uplinks")
	}
	return vswitch.Uplink{}, invalid("From", "%s", fmt.Sprintf("no uplink %q; there are: %s", name, strings.Join(have, ", ")))
}
