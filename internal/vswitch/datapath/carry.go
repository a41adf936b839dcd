// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// State of another layout is carried over, older or newer alike, so that an
// upgrade and its way back keep connections, NAT bindings and counters. Both
// layouts are read from BTF, the old one from what the kernel keeps of each
// pinned map: nobody writes a reader for an old layout.
//
// The old programs go on writing until the switch, so it is done in passes: all
// when opened; what changed since just before the switch; and what the old
// programs still did, right after it and again once they are drained. A
// conversation that is born in the last few milliseconds before the switch has
// its first answer looked for in our tables a moment too early and repeats it.
//
// A daemon killed in between leaves both directories, and the next start, of
// either build, goes on from what it finds attached. Epochs never go back: of
// two the greater stays, and the first Apply adds to them before the switch, so
// every flow that was carried over is decided anew and only keeps what
// gh_recall() keeps.
type carryover struct {
	dir  string
	maps []*carried
	// since is where the next pass begins, on the clock of the flows; 0 = at the beginning.
	since uint32
}

// carried is one map of another layout and ours of the same name.
type carried struct {
	name       string
	from, to   *ebpf.Map
	key, value conversion
	fromLast   int     // offset of last_s in the old value; -1 = there is none
	flow       *fields // flow tables
	counts     []span  // per-CPU maps: counters in our value
	seen       map[string][][]byte
	full, odd  int // entries that found no room; whose numbers do not fit
}

// fields are what is touched by hand in a flow entry of our layout.
type fields struct{ tag, state, own, peer, pair, pairSize int }

type span struct{ at, size int }

// carry says how a map's content goes over, which follows from its kind.
type carry int

const (
	carryNothing carry = iota // ring buffers, and arrays of more than a number: they begin empty
	carryEntries              // hash tables, entry by entry
	carryMax                  // arrays of numbers: epochs, and counts that a sweep corrects
	carryCounts               // per-CPU counters
)

func carryOf(name string, spec *ebpf.MapSpec) carry {
	if slices.Contains(bpf.NotCarried(), name) {
		return carryNothing
	}
	switch spec.Type {
	case ebpf.Hash, ebpf.LRUHash:
		return carryEntries
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return carryCounts
	case ebpf.Array:
		if _, _, ok := number(btf.UnderlyingType(spec.Value)); ok {
			return carryMax
		}
	}
	return carryNothing
}

// stateInUse finds what other layouts left that is worth carrying over, which is
// what attached programs use; leftovers of a switch that was not finished are
// not. ours says that programs may write what we have of our own layout.
func (d *Datapath) stateInUse() (dirs []string, ours bool, err error) {
	used, err := d.attachedMaps()
	if err != nil {
		return nil, false, err
	}
	root := filepath.Dir(d.stateDir())
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, false, err
	}
	var idle []string
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		inUse, err := anyMap(dir, used)
		switch {
		case err != nil:
			return nil, false, err
		case dir == d.stateDir():
			ours = inUse
		case inUse:
			dirs = append(dirs, dir)
		default:
			idle = append(idle, dir)
		}
	}
	if len(dirs) == 0 && !ours {
		// Somebody detached everything. Who was the last is not known: all is taken.
		return idle, len(idle) > 0, nil
	}
	return dirs, ours, nil
}

// attachedMaps are the maps of the programs that packets or sockets meet now.
func (d *Datapath) attachedMaps() (map[ebpf.MapID]bool, error) {
	programs, err := d.attachedPrograms()
	if err != nil {
		return nil, err
	}
	used := map[ebpf.MapID]bool{}
	for id := range programs {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("program %d: %w", id, err)
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return nil, fmt.Errorf("program %d: %w", id, err)
		}
		maps, _ := info.MapIDs()
		for _, m := range maps {
			used[m] = true
		}
	}
	return used, nil
}

// anyMap reports whether a map pinned in dir is one of ids.
func anyMap(dir string, ids map[ebpf.MapID]bool) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			return false, fmt.Errorf("state %s: %w", filepath.Join(dir, e.Name()), err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return false, fmt.Errorf("state %s: %w", filepath.Join(dir, e.Name()), err)
		}
		if id, ok := info.ID(); ok && ids[id] {
			return true, nil
		}
	}
	return false, nil
}

// openCarryover opens the maps of one directory that have one of ours beside them.
// A map that cannot be carried over is reported; ours then begins empty.
func (d *Datapath) openCarryover(dir string, spec *ebpf.CollectionSpec) (*carryover, error) {
	c := &carryover{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		to, ms := d.state[e.Name()], spec.Maps[e.Name()]
		if to == nil || carryOf(e.Name(), ms) == carryNothing {
			continue
		}
		from, err := ebpf.LoadPinnedMap(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("state %s: %w", filepath.Join(dir, e.Name()), err)
		}
		m, err := newCarried(e.Name(), from, to, ms)
		if err != nil {
			d.log.Warn("state of another version cannot be carried over, it begins empty", "map", e.Name(), "from", dir, "reason", err)
			from.Close()
			continue
		}
		c.maps = append(c.maps, m)
	}
	slices.SortStableFunc(c.maps, func(a, b *carried) int { return cmp.Compare(a.rank(), b.rank()) })
	return c, nil
}

func (m *carried) rank() int {
	switch {
	case m.flow != nil:
		return 2
	case m.seen == nil:
		return 1
	}
	return 0
}

func newCarried(name string, from, to *ebpf.Map, ms *ebpf.MapSpec) (*carried, error) {
	if from.Type() != ms.Type {
		return nil, fmt.Errorf("%s became %s", from.Type(), ms.Type)
	}
	key, value, err := mapTypes(from)
	if err != nil {
		return nil, err
	}
	m := &carried{name: name, from: from, to: to, fromLast: -1}
	if m.key, err = newConversion(key, ms.Key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if m.value, err = newConversion(value, ms.Value); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	if at, size, ok := fieldAt(value, "last_s"); ok && size == 4 {
		m.fromLast = at
	}
	if carryOf(name, ms) == carryCounts {
		m.counts = counters64(ms.Value)
		m.seen = map[string][][]byte{}
	}
	if at, _, ok := fieldAt(ms.Value, "tag"); ok {
		f := fields{tag: at}
		f.state, _, _ = fieldAt(ms.Value, "state")
		f.own, _, _ = fieldAt(ms.Value, "tcp_own")
		f.peer, _, _ = fieldAt(ms.Value, "tcp_peer")
		f.pair, f.pairSize, _ = fieldAt(ms.Value, "pair")
		m.flow = &f
	}
	return m, nil
}

// counters64 are the 64-bit numbers of a value: what counts. Smaller ones are the
// programs' notes, such as the second of the last event.
func counters64(t btf.Type) (all []span) {
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		if n, _, ok := number(btf.UnderlyingType(t)); ok && n == 8 {
			return []span{{0, n}}
		}
		return nil
	}
	for _, m := range s.Members {
		if n, _, ok := number(btf.UnderlyingType(m.Type)); ok && n == 8 {
			all = append(all, span{int(m.Offset.Bytes()), n})
		}
	}
	return all
}

func (c *carryover) close() {
	for _, m := range c.maps {
		m.from.Close()
	}
}

// pass carries over what changed since the last one. shared says that programs
// may be writing our maps: what is there already is theirs then. Before a switch
// flows are the last, after it they are the first: what is born meanwhile waits.
func (c *carryover) pass(shared bool) (int, error) {
	now, err := monotonicSeconds()
	if err != nil {
		return 0, err
	}
	var errs []error
	total := 0
	for i := range c.maps {
		m := c.maps[i]
		if shared {
			m = c.maps[len(c.maps)-1-i]
		}
		n, err := m.pass(c.since, shared)
		total += n
		if err != nil {
			errs = append(errs, fmt.Errorf("carry over %s: %w", m.name, err))
		}
	}
	c.since = max(now-1, 1) // a second may have begun between a packet and its stamp
	return total, errors.Join(errs...)
}

func (m *carried) pass(since uint32, shared bool) (int, error) {
	switch {
	case m.seen != nil:
		return m.passCounts()
	case m.to.Type() == ebpf.Array:
		return m.passMax()
	}
	return m.passEntries(since, shared)
}

// passEntries goes through a hash table.
func (m *carried) passEntries(since uint32, shared bool) (int, error) {
	var keys, values []byte // of our layout, not written yet
	ks, vs := m.key.size, m.value.size
	n := 0
	flush := func() error {
		rows := len(keys) / ks
		if rows == 0 {
			return nil
		}
		err := m.store(keys, values, rows)
		keys, values = keys[:0], values[:0]
		n += rows
		return err
	}
	key, value := make([]byte, ks), make([]byte, vs)
	err := eachEntry(m.from, func(k, v []byte) error {
		if since != 0 && m.fromLast >= 0 && int32(binary.NativeEndian.Uint32(v[m.fromLast:])-since) < 0 {
			return nil
		}
		if !m.key.convert(key, k) || !m.value.convert(value, v) {
			m.odd++
			return nil
		}
		if m.flow != nil {
			tag := binary.NativeEndian.Uint32(value[m.flow.tag:])
			if tag&1 != 0 {
				return nil // being written: a packet is at it, so the next pass meets it again
			}
			binary.NativeEndian.PutUint32(value[m.flow.tag:], fold(key)|tag&0xfffe)
		}
		if shared {
			n++
			return m.offer(key, value)
		}
		keys, values = append(keys, key...), append(values, value...)
		if len(keys) >= dumpBatch*ks {
			return flush()
		}
		return nil
	})
	return n, errors.Join(err, flush())
}

// store writes rows of our map that nobody else writes.
func (m *carried) store(keys, values []byte, rows int) error {
	done, err := updateBatch(m.to, keys, values, rows)
	if err == nil {
		return nil
	}
	// One by one from where it stopped: a table that is full takes those it knows.
	ks, vs := m.key.size, m.value.size
	for i := done; i < rows; i++ {
		switch err := m.to.Put(keys[i*ks:(i+1)*ks], values[i*vs:(i+1)*vs]); {
		case errors.Is(err, unix.E2BIG):
			m.full++
		case err != nil:
			return err
		}
	}
	return nil
}

// offer writes a row that programs may have made meanwhile.
func (m *carried) offer(key, value []byte) error {
	switch err := m.to.Update(key, value, ebpf.UpdateNoExist); {
	case errors.Is(err, ebpf.ErrKeyExist):
		if m.flow != nil {
			return m.merge(key, value)
		}
	case errors.Is(err, unix.E2BIG):
		m.full++
	case err != nil:
		return err
	}
	return nil
}

// merge adds what the old programs still saw of a connection to an entry that ours
// may have gone on with: TCP flags are only ever added.
func (m *carried) merge(key, old []byte) error {
	f := m.flow
	now, err := m.to.LookupBytes(key)
	if err != nil || now == nil {
		return err
	}
	end := f.pair + f.pairSize
	if string(now[f.pair:end]) != string(old[f.pair:end]) {
		return nil // a new conversation has its place
	}
	own, peer := now[f.own]|old[f.own], now[f.peer]|old[f.peer]
	if own == now[f.own] && peer == now[f.peer] {
		return nil
	}
	if own == old[f.own] && peer == old[f.peer] {
		now[f.state] = old[f.state]
	}
	now[f.own], now[f.peer] = own, peer
	if err := m.to.Update(key, now, ebpf.UpdateExist); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// passMax goes through an array of numbers.
func (m *carried) passMax() (n int, err error) {
	value := make([]byte, m.value.size)
	err = eachEntry(m.from, func(k, v []byte) error {
		if natural(v) == 0 {
			return nil // most are
		}
		if !m.value.convert(value, v) {
			m.odd++
			return nil
		}
		if binary.NativeEndian.Uint32(k) >= m.to.MaxEntries() {
			m.full++
			return nil
		}
		now, err := m.to.LookupBytes(k)
		if err != nil {
			return err
		}
		if natural(now) >= natural(value) {
			return nil
		}
		n++
		return m.to.Put(k, value)
	})
	return n, err
}

// passCounts adds what per-CPU counters have grown by since the last pass. In the
// first one, what is greater stays: a start that was killed may have been here.
func (m *carried) passCounts() (n int, err error) {
	var old, now [][]byte
	it := m.from.Iterate()
	key := make([]byte, m.key.size)
	var k []byte
	for it.Next(&k, &old) {
		if !slices.ContainsFunc(old, func(b []byte) bool { return slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }) {
			continue
		}
		if !m.key.convert(key, k) {
			m.odd++
			continue
		}
		came := make([][]byte, len(old))
		for cpu := range old {
			came[cpu] = make([]byte, m.value.size)
			if !m.value.convert(came[cpu], old[cpu]) {
				m.odd++
			}
		}
		before := m.seen[string(k)]
		m.seen[string(k)] = came
		fresh := false
		switch err := m.to.Lookup(key, &now); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			now, fresh = came, true
		case err != nil:
			return n, err
		}
		grown := fresh
		for cpu := 0; !fresh && cpu < len(came); cpu++ {
			for _, c := range m.counts {
				at := now[cpu][c.at : c.at+c.size]
				has, sum := binary.NativeEndian.Uint64(at), binary.NativeEndian.Uint64(came[cpu][c.at:])
				if before != nil {
					sum += has - binary.NativeEndian.Uint64(before[cpu][c.at:])
				}
				if sum > has {
					binary.NativeEndian.PutUint64(at, sum)
					grown = true
				}
			}
		}
		if !grown {
			continue
		}
		n++
		switch err := m.to.Put(key, now); {
		case errors.Is(err, unix.E2BIG):
			m.full++
		case err != nil:
			return n, err
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return n, err
	}
	return n, nil
}

// natural is a number of up to eight bytes.
func natural(b []byte) uint64 {
	var all [8]byte
	copy(all[:], b)
	return binary.LittleEndian.Uint64(all[:])
}

// startCarryover carries over what other layouts have, when opened.
func (d *Datapath) startCarryover(spec *ebpf.CollectionSpec, dirs []string, shared bool) error {
	for _, dir := range dirs {
		start := time.Now()
		c, err := d.openCarryover(dir, spec)
		if err != nil {
			return err
		}
		d.carry, d.shared = append(d.carry, c), shared
		n, err := c.pass(shared)
		if err != nil {
			return err
		}
		d.log.Info("state of another version carried over", "from", dir, "entries", n, "took", time.Since(start).Round(time.Microsecond))
	}
	return nil
}

// continueCarryover does another pass. What fails costs flows, and is no reason
// to stop half-way of a switch.
func (d *Datapath) continueCarryover(shared bool) {
	for _, c := range d.carry {
		start := time.Now()
		n, err := c.pass(shared || d.shared)
		if err != nil {
			d.log.Warn("state of another version not carried over as a whole", "from", c.dir, "error", err)
			continue
		}
		d.log.Debug("state carried over again", "from", c.dir, "entries", n, "took", time.Since(start).Round(time.Microsecond))
	}
}

// endCarryover says what was lost and lets go.
func (d *Datapath) endCarryover() {
	for _, c := range d.carry {
		for _, m := range c.maps {
			if m.full > 0 || m.odd > 0 {
				d.log.Warn("some state of another version did not fit", "map", m.name, "from", c.dir, "no room", m.full, "not representable", m.odd)
			}
		}
		c.close()
	}
	d.carry = nil
}
