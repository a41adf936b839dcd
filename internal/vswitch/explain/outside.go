// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import "gatehouse.dev/gatehouse/internal/vswitch/bpf"

// endpointHas: an endpoint of this host, or of an overlay's other hosts, has the address in zone.
func (w *walk) endpointHas(zone uint16, a addr) bool {
	v, ok := w.addrRow(zone, a)
	id := v.Port
	mac := [6]byte{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}
	if !ok && a == eui64(mac) {
		id = w.fdb(zone, mac[:])
	}
	kind := bpf.PortKind(w.s.Rows.Port[uint32(id)].Kind)
	return isEndpoint(kind) || isTunnel(kind)
}

// impostor: a packet from outside to dst, of network id, bears the source of an
// endpoint here. Between its subnets a router outside may have brought it.
func (w *walk) impostor(zone, id uint16, dst addr) bool {
	flags := w.netRow(id).Flags
	if flags&netNoLocal != 0 || !w.endpointHas(zone, w.k.src) {
		return false
	}
	from, at, ok := w.s.Rows.Route(zone, 0, w.k.src)
	to, there, ok2 := w.s.Rows.Route(zone, 0, dst)
	return flags&netL2 == 0 || !ok || !ok2 || from.Kind != routeLocal || to.Kind != routeLocal || at == there
}

// usurps: an ARP packet or a neighbour's message from outside speaks for an
// endpoint of network id.
func (w *walk) usurps(zone, id uint16) bool {
	if w.netRow(id).Flags&netNoLocal != 0 {
		return false
	}
	if w.ether() == ethARP {
		b := at(w.frame, ethLen+14, 4)
		return b != nil && w.endpointHas(zone, addr(v4mapped(b)))
	}
	b := at(w.frame, ethLen, 40)
	if b == nil {
		return false
	}
	if w.endpointHas(zone, addr(b[8:24])) {
		return true
	}
	b = at(w.frame, ethLen+40, 24)
	return b != nil && (b[0] == ndNA || b[0] == ndRedirect) && w.endpointHas(zone, addr(b[8:24]))
}

func (w *walk) usurped() {
	w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "from outside, for an address that an endpoint here has")
}
