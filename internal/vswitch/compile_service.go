// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// serviceMemo is a service as it was compiled last.
type serviceMemo struct {
	was   Service
	block *block
	round uint64    // in which it was looked at
	part  *partMemo // that it is in; nil = in Services, or a published port
}

// servicesMemo is all services and who holds what may be held once.
type servicesMemo struct {
	all    map[ServiceID]*serviceMemo
	order  []*serviceMemo // as in the State: mostly the same one again
	parts  []*partMemo    // as in the State
	owner  map[SvcKey]ServiceID
	slots  int // of all, as are members and hosts
	member int
	hosts  int // frontends that processes of the host see

	// What services were compiled with.
	zones map[NetworkID]*netContext
	nat   []natRange
}

// named is a service and what its author calls it in the State.
type named struct {
	*Service
	list  string
	index int
}

func (n named) invalid(err error) error {
	return invalid("%s[%d] (%s): %w", n.list, n.index, cmp.Or(n.Name, n.Object), err)
}

// checkNumber: published ports have the numbers above.
func (n named) checkNumber() error {
	if n.ID == 0 || n.ID > MaxServiceID {
		return n.invalid(invalid("ID %d: must be 1 to %d", n.ID, MaxServiceID))
	}
	return nil
}

// compileServices makes the rows of services and of published ports, which are
// services with one backend.
func (c *Compiler) compileServices(s State, _ Facts, t *Tables) error {
	published, err := c.publishedServices(s)
	if err != nil {
		return err
	}
	if of := proxyServices(s.special(), published); len(of) > 0 {
		published = slices.Concat(published, of)
	}
	m := &c.services
	if m.all == nil {
		m.all, m.owner = map[ServiceID]*serviceMemo{}, map[SvcKey]ServiceID{}
	}
	c.inside.look(s)
	stale := c.staleFor(m)
	parts, total := m.keepParts(s.ServiceParts, c.round, stale != nil)
	total += len(s.Services) + len(published)
	// First let go of all that changed or went, then claim: a frontend may move
	// from one service to another in one step.
	var changed []named
	count := 0
	look := func(n named, x *serviceMemo, part *partMemo) (*serviceMemo, error) {
		if x == nil || x.was.ID != n.ID {
			x = m.all[n.ID]
		}
		if x != nil && x.met(c.round) {
			return nil, n.invalid(invalid("ID %d is also that of %s", n.ID, cmp.Or(x.was.Name, x.was.Object)))
		}
		if x == nil {
			x = &serviceMemo{}
			m.all[n.ID] = x
		}
		x.round, x.part = c.round, part
		if x.block != nil && (stale == nil || !stale(&x.was)) && equalService(&x.was, n.Service) {
			return x, nil
		}
		if err := c.checkService(n.Service); err != nil {
			return nil, n.invalid(err)
		}
		c.releaseService(x)
		x.was = *n.Service
		if part == nil {
			x.was.Frontends, x.was.Backends = slices.Clone(n.Frontends), slices.Clone(n.Backends)
		}
		changed = append(changed, n)
		return x, nil
	}
	listed := func(n named) error {
		var x *serviceMemo
		if count < len(m.order) {
			x = m.order[count]
		}
		x, err := look(n, x, nil)
		if count == len(m.order) {
			m.order = append(m.order, nil)
		}
		m.order[count] = x
		count++
		return err
	}
	for i := range s.Services {
		n := named{&s.Services[i], "Services", i}
		if err := n.checkNumber(); err != nil {
			return err
		}
		if err := listed(n); err != nil {
			return err
		}
	}
	for i := range published {
		n := named{&published[i], "Mappings", i}
		if n.proxy.port != 0 {
			n.list, n.index = "Proxies", i-len(c.mappings.was)
		}
		if err := listed(n); err != nil {
			return err
		}
	}
	for k, p := range s.ServiceParts {
		if p == nil || parts[k] != nil {
			continue
		}
		parts[k] = &partMemo{was: p, memos: make([]*serviceMemo, len(p.Services))}
		for i := range p.Services {
			n := named{&p.Services[i], "Services", i}
			if err := n.checkNumber(); err != nil {
				return err
			}
			var x *serviceMemo
			if k < len(m.parts) && m.parts[k] != nil && i < len(m.parts[k].memos) {
				x = m.parts[k].memos[i]
			}
			if parts[k].memos[i], err = look(n, x, parts[k]); err != nil {
				return err
			}
		}
	}
	m.order = m.order[:count]
	w := setWriter[ServiceID]{set: &t.services}
	gone := func(x *serviceMemo) {
		if !x.met(c.round) {
			c.releaseService(x)
			delete(m.all, x.was.ID)
			w.put(x.was.ID, nil)
		}
	}
	for k, p := range m.parts {
		if p != nil && len(m.all) != total && (k >= len(parts) || parts[k] != p) {
			for _, x := range p.memos {
				gone(x)
			}
		}
	}
	if len(m.all) != total {
		for _, x := range m.all {
			gone(x)
		}
	}
	m.parts = parts
	for _, n := range changed {
		x := m.all[n.ID]
		b, err := c.serviceBlock(&x.was)
		if err != nil {
			return n.invalid(err)
		}
		x.block = b
		if err := c.claimService(x); err != nil {
			return n.invalid(err)
		}
		if old := t.services.get(n.ID); old == nil || !old.same(b) {
			w.put(n.ID, b)
		} else {
			x.block = old
		}
	}
	t.SocketHooks = m.hosts > 0
	m.nat = c.pools.nat
	return c.checkTunnelPorts()
}

// staleFor tells of which services something changed that is not in them: a port
// of a backend, a network, an address of outbound NAT; nil = of none.
func (c *Compiler) staleFor(m *servicesMemo) func(*Service) bool {
	ports, zones := c.moved, map[NetworkID]bool{}
	contexts := make(map[NetworkID]*netContext, len(c.nets))
	for id, n := range c.nets {
		contexts[id] = n.context
		if m.zones[id] != n.context {
			zones[id] = true
		}
	}
	for id := range m.zones {
		if contexts[id] == nil {
			zones[id] = true
		}
	}
	m.zones = contexts
	nat := !slices.Equal(m.nat, c.pools.nat)
	if !nat && len(ports) == 0 && len(zones) == 0 {
		return nil
	}
	return func(s *Service) bool {
		return nat || slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.At != 0 && ports[b.At] || b.Network != 0 && zones[b.Network] }) ||
			slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Network != 0 && zones[f.Network] })
	}
}

func equalService(a, b *Service) bool {
	return a.ID == b.ID && a.Object == b.Object && a.Name == b.Name && a.Affinity == b.Affinity && a.Flags == b.Flags && a.SourceVIP == b.SourceVIP &&
		a.proxy == b.proxy && slices.Equal(a.redirects, b.redirects) &&
		equalList(a.Frontends, b.Frontends) && equalList(a.Backends, b.Backends)
}

// equalList is slices.Equal, at once where both are the same memory.
func equalList[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func (c *Compiler) releaseService(x *serviceMemo) {
	m := &c.services
	if x.block == nil {
		return
	}
	c.inside.add(&x.was, -1)
	for _, e := range x.block.svc {
		delete(m.owner, e.Key)
		if e.Value.Flags&uint16(ScopeHost) != 0 {
			m.hosts--
		}
	}
	m.slots -= len(x.block.slot)
	m.member -= len(x.block.member)
	x.block = nil
}

// outside reports whether outside asks a service by the frontend of a key.
func (m *servicesMemo) outside(id ServiceID, k SvcKey) bool {
	for i, e := range m.all[id].block.svc {
		if e.Key == k {
			return m.all[id].was.Frontends[i].Scope&ScopeOutside != 0
		}
	}
	return false
}

func (c *Compiler) claimService(x *serviceMemo) error {
	m := &c.services
	for i, e := range x.block.svc {
		f := x.was.Frontends[i]
		if o, ok := m.owner[e.Key]; ok {
			return invalid("Frontends[%d]: %s %d on %s is also that of %s", i, protoName(f.Proto), f.Port, f.Addr, m.name(o))
		}
		m.owner[e.Key] = x.was.ID
		if e.Value.Flags&uint16(ScopeHost) != 0 {
			m.hosts++
		}
	}
	c.inside.add(&x.was, 1)
	m.slots += len(x.block.slot)
	m.member += len(x.block.member)
	if m.member > MaxBackends {
		return invalid("Backends: with these all services have %d, over %d", m.member, MaxBackends)
	}
	if m.slots > MaxSlots {
		return invalid("Backends: with their weights all services need %d slots, over %d", m.slots, MaxSlots)
	}
	return nil
}

func (m *servicesMemo) name(id ServiceID) string {
	if x := m.all[id]; x != nil {
		return cmp.Or(x.was.Name, x.was.Object)
	}
	return "another service"
}

func (c *Compiler) checkService(s *Service) error {
	if s.proxy.port != 0 {
		return nil // checkProxies was asked
	}
	if len(s.Frontends) == 0 {
		return invalid("Frontends: none; a service without one cannot be asked")
	}
	is4 := s.Frontends[0].Addr.Is4()
	for i, f := range s.Frontends {
		if err := c.checkFrontend(f, is4); err != nil {
			return invalid("Frontends[%d].%w", i, err)
		}
		for j, b := range s.Backends {
			if f.Proto == protoSCTP && b.Port != f.Port && s.Flags&ServicePreserve == 0 {
				// The checksum is a CRC32c over the whole packet, which programs cannot fix.
				return invalid("Backends[%d].Port %d: SCTP ports cannot be translated, it must equal Frontends[%d].Port %d", j, b.Port, i, f.Port)
			}
		}
	}
	if s.SourceVIP.IsValid() {
		if err := checkUnicast(s.SourceVIP); err != nil {
			return invalid("SourceVIP %w", err)
		}
	}
	for i, b := range s.Backends {
		p := c.ports[b.At]
		switch err := checkUnicast(b.Addr); {
		case err != nil:
			return invalid("Backends[%d].Addr %w", i, err)
		case b.Addr.Is4() != is4:
			return invalid("Backends[%d].Addr %q: not of the family of the frontends; make a service for each family", i, b.Addr)
		case b.Port == 0:
			return invalid("Backends[%d].Port 0: not a port", i)
		case b.State > BackendDraining:
			return invalid("Backends[%d].State %d: must be 0 (active) or 1 (draining)", i, b.State)
		case b.At != 0 && p == nil:
			return invalid("Backends[%d].At %d: no such port", i, b.At)
		case b.At != 0 && !slices.Contains(p.was.Addrs, b.Addr):
			return invalid("Backends[%d].Addr %q: not an address of port %d", i, b.Addr, b.At)
		}
		if err := c.checkElsewhere(s, b); err != nil {
			return invalid("Backends[%d].%w", i, err)
		}
	}
	switch {
	case s.Flags >= ServicePreserve<<1:
		return invalid("Flags %#x: not known", s.Flags)
	case s.Flags&ServiceDSR != 0 && s.Flags&ServiceConsistent == 0:
		return invalid("Flags: ServiceDSR needs ServiceConsistent, or two hosts would choose two backends")
	case s.Flags&ServicePreserve != 0 && slices.ContainsFunc(s.Backends, func(b Backend) bool { return b.At == 0 }):
		return invalid("Flags: with ServicePreserve a backend is reached by its port alone, so each must be on this host (At)")
	case s.Flags&ServicePreserve != 0 && slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Scope&ScopeHost != 0 }):
		return invalid("Flags: ServicePreserve cannot serve processes of the host (ScopeHost), whose connections are given to the backend's own address")
	case s.Flags&ServiceDSR != 0 && s.Flags&ServiceLocal != 0:
		return invalid("Flags: ServiceDSR is about backends of other hosts, which ServiceLocal excludes")
	case s.Affinity > 7*24*3600:
		return invalid("Affinity %d: over a week", s.Affinity)
	}
	return nil
}

func (c *Compiler) checkFrontend(f Frontend, is4 bool) error {
	switch {
	case f.Proto != protoTCP && f.Proto != protoUDP && f.Proto != protoSCTP:
		return invalid("Proto %d: only 6 (TCP), 17 (UDP) and 132 (SCTP) have ports", f.Proto)
	case f.Port == 0:
		return invalid("Port 0: not a port")
	case f.Scope > ScopeAll:
		return invalid("Scope %#x: not known", uint8(f.Scope))
	case f.Network != 0 && f.Scope != 0:
		return invalid("Scope %#x: a frontend of network %d is seen there only", uint8(f.Scope), f.Network)
	case f.Network == 0 && f.Scope == 0:
		return invalid("Scope 0: nobody would see it; name a Network or a Scope")
	case f.Network != 0 && c.nets[f.Network] == nil:
		return invalid("Network %d: no such network", f.Network)
	}
	if !f.Addr.IsUnspecified() || f.Addr.Zone() != "" {
		if err := checkUnicast(f.Addr); err != nil {
			return invalid("Addr %w", err)
		}
	}
	switch {
	case f.Addr.Is4() != is4:
		return invalid("Addr %q: not of the family of the first frontend; make a service for each family", f.Addr)
	case f.Addr.IsUnspecified() && f.Network != 0:
		return invalid("Addr %q: every address of the host is for all networks; leave Network out", f.Addr)
	case f.Addr.IsLoopback() && f.Scope != ScopeHost:
		return invalid("Addr %q: only processes of the host can ask there; Scope must be %#x", f.Addr, uint8(ScopeHost))
	}
	return nil
}

// serviceBlock makes the rows of a service that checkService found right.
func (c *Compiler) serviceBlock(s *Service) (*block, error) {
	b := &block{served: &served{id: s.ID, object: s.Object, name: s.Name}}
	id := uint32(s.ID)
	backends := slices.Clone(s.Backends)
	slices.SortFunc(backends, func(a, b Backend) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) })
	hashes := make([]uint64, len(backends))
	for i, x := range backends {
		if i > 0 && x.Addr == backends[i-1].Addr && x.Port == backends[i-1].Port {
			return nil, invalid("Backends: %s is listed twice", netip.AddrPortFrom(x.Addr, x.Port))
		}
		hashes[i] = backendHash(x)
	}
	// The number of a backend follows from its address, so that flows know it
	// whatever happens to the others.
	at := make([]int, len(backends))
	for i := range at {
		at[i] = i
	}
	ids := numbers(at, func(a, b int) int { return a - b }, func(i int) uint64 { return hashes[i] }, 1<<32-1)
	var in, out []choice
	unit := 0
	for i, x := range backends {
		row := MemberRow{PortBe: be16(x.Port), Port: uint16(x.At), State: memberActive, Net: uint16(x.Network)}
		if p := c.ports[x.At]; p != nil {
			row.Net = uint16(p.was.Network)
		}
		row.Addr.B = x.Addr.As16()
		if x.State == BackendDraining {
			row.State = memberDraining
		}
		b.member = append(b.member, Entry[MemberKey, MemberRow]{MemberKey{Svc: id, Id: ids[i]}, row})
		if x.State != BackendActive {
			continue
		}
		one := choice{ids[i], int(max(x.Weight, 1)), hashes[i]}
		unit = gcd(unit, one.weight)
		if s.Flags&ServiceLocalInside == 0 || x.At != 0 {
			in = append(in, one)
		}
		if s.Flags&ServiceLocal == 0 || x.At != 0 {
			out = append(out, one)
		}
	}
	bank, err := s.slots(in, unit)
	if err != nil {
		return nil, err
	}
	outBank, err := s.slots(out, unit)
	if err != nil {
		return nil, err
	}
	row := SvcRow{Id: id, Count: uint16(len(bank)), Bank: bankOf(bank), OutCount: uint16(len(outBank)), AffinityS: s.Affinity, Flags: s.rowFlags()}
	row.OutBank = row.Bank
	if s.SourceVIP.IsValid() {
		row.Source.B = s.SourceVIP.As16()
	}
	if s.Flags&ServiceConsistent != 0 {
		row.AffinityS = 0
	}
	b.addSlots(id, row.Bank, bank)
	if !slices.Equal(bank, outBank) {
		if row.OutBank = bankOf(outBank); row.OutBank == row.Bank {
			row.OutBank++
		}
		b.addSlots(id, row.OutBank, outBank)
	}
	if s.proxy.port != 0 {
		b.addProxy(s, row)
	}
	for _, f := range s.Frontends {
		row := row
		row.Flags |= uint16(f.Scope)
		k := svcKey(f, 0)
		if f.Network != 0 {
			k = svcKey(f, c.nets[f.Network].context.zone)
			b.served.nets = append(b.served.nets, f.Network)
		}
		b.served.wide = b.served.wide || f.Scope&ScopeCluster != 0
		b.svc = append(b.svc, Entry[SvcKey, SvcRow]{k, row})
		b.busy = append(b.busy, busyOf(f, c.pools.nat)...)
	}
	return b, nil
}

// slots is the list that new conversations are spread over.
func (s *Service) slots(of []choice, unit int) ([]uint32, error) {
	if s.Flags&ServiceConsistent != 0 {
		if len(of) > maglevLarge {
			return nil, invalid("Backends: %d are more than a Maglev table has slots, %d", len(of), maglevLarge)
		}
		return maglev(of), nil
	}
	sum := 0
	for i := range of {
		of[i].weight /= max(unit, 1)
		sum += of[i].weight
	}
	if sum > MaxServiceSlots {
		return nil, invalid("Backends: their weights need %d slots, over %d; use smaller ones", sum, MaxServiceSlots)
	}
	return repeated(of), nil
}

func (s *Service) rowFlags() uint16 {
	flags := svcFlags(0)
	for _, x := range []struct {
		is  ServiceFlags
		row svcFlags
	}{{ServiceDrop, svcDrop}, {ServiceLocal, svcLocal}, {ServiceDSR, svcDSR}, {ServiceLocalInside, svcLocalIn}, {ServicePreserve, svcPreserve}} {
		if s.Flags&x.is != 0 {
			flags |= x.row
		}
	}
	if s.Flags&ServiceConsistent != 0 && s.Affinity > 0 {
		flags |= svcByClient
	}
	return uint16(flags)
}

func (b *block) addSlots(id uint32, bank uint16, list []uint32) {
	for i, m := range list {
		b.slot = append(b.slot, Entry[SlotKey, uint32]{SlotKey{Svc: id, Bank: bank, I: uint16(i)}, m})
	}
}

// busyOf is what f takes from outbound NAT: a translated conversation must not
// get the port on which f is asked from outside.
func busyOf(f Frontend, nat []natRange) []Entry[BusyKey, uint8] {
	if f.Scope&ScopeOutside == 0 {
		return nil
	}
	return busyRows(nat, f.Addr, f.Port, f.Proto)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func backendHash(b Backend) uint64 {
	h := fnv.New64a()
	a := b.Addr.As16()
	h.Write(binary.BigEndian.AppendUint16(a[:], b.Port))
	// FNV's last bytes hardly reach its upper bits; splitmix64's finisher does that.
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// bankOf numbers a list of slots by its content: another list gets another bank
// and can be written beside the one in use. Where two lists of one service share
// a number (one in 65536), the slots are replaced one by one, each a backend.
func bankOf(list []uint32) uint16 {
	h := fnv.New32a()
	var b [4]byte
	for _, id := range list {
		binary.BigEndian.PutUint32(b[:], id)
		h.Write(b[:])
	}
	x := h.Sum32()
	return uint16(x ^ x>>16)
}
