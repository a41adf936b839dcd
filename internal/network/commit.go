// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// verb is one change that waits for its transaction.
type verb struct {
	op   string
	ctx  context.Context
	f    func(model.World, model.Input) (model.World, error)
	err  error
	done chan struct{}
	left <-chan struct{} // what it removed is gone; nil = nothing to wait for
}

// leaveLimit ends the wait for devices that the kernel is slow to remove: they are
// the reaper's, who does not give up.
const leaveLimit = 2 * time.Second

// change runs f in a transaction and returns when the kernel is as the next World
// says, or as before with the error. f may run more than once, each time on the
// World of the moment; what it stores away must be that of its last run.
//
// Verbs that come while one is at work are taken together by whoever gets the lock
// next: one commit to disk and one apply for all. If that apply fails, each is
// done again alone, so that none pays for another's fault.
func (h *HNS) change(ctx context.Context, op string, f func(model.World, model.Input) (model.World, error)) error {
	if err := ctx.Err(); err != nil {
		return wrap(op, err)
	}
	v := &verb{op: op, ctx: ctx, f: f, done: make(chan struct{})}
	h.queueMu.Lock()
	h.queue = append(h.queue, v)
	h.queueMu.Unlock()

	h.mu.Lock()
	select {
	case <-v.done: // somebody took it along
	default:
		h.queueMu.Lock()
		batch := h.queue
		h.queue = nil
		h.queueMu.Unlock()
		h.transact(batch)
		for _, b := range batch {
			close(b.done)
		}
	}
	h.mu.Unlock()
	if v.left != nil && v.err == nil {
		select {
		case <-v.left:
		case <-ctx.Done():
		case <-time.After(leaveLimit):
		}
	}
	return wrap(op, v.err)
}

// transact carries out verbs; h.mu is held. Each verb's err is set.
func (h *HNS) transact(batch []*verb) {
	if h.stopped.Load() {
		for _, v := range batch {
			v.err = &model.Error{Code: hcn.HCN_E_MANAGER_STOPPED, Text: "the service is stopping"}
		}
		return
	}
	old := h.World()
	next := old
	var able []*verb
	for _, v := range batch {
		after, err := v.f(next, h.input(v.ctx))
		if err != nil {
			v.err = err
			continue
		}
		next = after
		able = append(able, v)
	}
	if len(able) == 0 || len(next.Changes()) == 0 {
		return
	}
	// The verb has begun to commit: a client that goes away does not undo it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(able[0].ctx), applyLimit)
	err := h.execute(ctx, old, next)
	cancel()
	switch {
	case err == nil:
		h.reset(next)
		left := h.o.Compartments.Leaving()
		for _, v := range able {
			v.left = left
		}
	case len(able) == 1:
		able[0].err = err
	default:
		h.log.Debug("transaction failed, verbs go one by one", "verbs", len(able), "error", err)
		for _, v := range batch { // also those that were refused: perhaps for another's sake
			v.err = nil
			h.transact([]*verb{v})
		}
	}
}

func (h *HNS) input(ctx context.Context) model.Input {
	in := model.Input{
		Now: h.o.Now(), Owner: resource.CallerFrom(ctx).Owner(), NewID: h.o.NewID,
		Avoid: h.avoid, Services: h.o.Services, Users: h.o.Users, Uplinks: h.uplinks, IsHost: func(a netip.Addr) bool { return slices.Contains(h.Facts().HostAddrs, a) },
	}
	if h.o.Ports != nil {
		in.Ports = portPicker{h.o.Ports}
	}
	return in
}

// avoid is what automatic and explicit prefixes keep clear of.
func (h *HNS) avoid() []netip.Prefix {
	read := h.o.HostRoutes
	if read == nil {
		read = func() ([]netip.Prefix, error) { return hostRoutes(h.o.Instance) }
	}
	out, err := read()
	if err != nil {
		h.log.Warn("host routes are not known, prefixes may overlap them", "error", err)
	}
	for _, u := range h.Facts().Uplinks {
		out = append(out, u.Addrs...)
	}
	return out
}

// uplinks that networks can be bound to.
func (h *HNS) uplinks() []model.Uplink {
	if h.o.Uplinks == nil {
		return nil
	}
	out, err := h.o.Uplinks()
	if err != nil {
		h.log.Warn("the host's interfaces are not known, networks find no uplink", "error", err)
	}
	return out
}

// portPicker asks the hands in the words of the model.
type portPicker struct{ Ports }

// Free tries what the hands offer until all of want can have it.
func (p portPicker) Free(want []model.HostPort, taken func(uint16) bool) (uint16, error) {
	var last error
	for range 256 {
		port, err := p.Ports.Free(want[0].Proto, want[0].Addr)
		if err != nil {
			return 0, err
		}
		if taken(port) {
			continue
		}
		ok := true
		for _, w := range want[1:] {
			w.Port = port
			if last = p.Ports.Check(w); last != nil {
				ok = false
				break
			}
		}
		if ok {
			return port, nil
		}
	}
	return 0, errors.Join(errors.New("256 ports tried"), last)
}

// execute commits next and makes it so, or undoes both.
func (h *HNS) execute(ctx context.Context, old, next model.World) error {
	changes := next.Changes()
	if err := h.save(changes, next.Numbers(), eventsOf(next)); err != nil {
		return step(hcn.HCN_E_REGKEY_FAILURE, "store", err)
	}
	err := failpoint.Hit("network.committed")
	if err == nil && slices.ContainsFunc(changes, func(c model.Change) bool { return !c.Quiet }) {
		err = h.apply(ctx, next.Desired(), false)
	}
	if err == nil {
		clean := next.Clean()
		h.world.Store(&clean)
		return nil
	}
	return h.undo(ctx, old, next, err)
}

// undo takes a committed change back. The numbers that it handed out stay used up,
// so that nothing half made is met by what comes next.
func (h *HNS) undo(ctx context.Context, old, next model.World, cause error) error {
	back := old.With(next.Numbers())
	status := int64(uint32(hcn.E_FAIL))
	var re resource.Error
	if errors.As(cause, &re) {
		if r, ok := re.Record().(hcn.Record); ok {
			status = int64(r.ErrorCode)
		}
	}
	if err := h.save(next.Undo(old), back.Numbers(), inverse(next, status)); err != nil {
		// Store and World agree on the new state; the kernel will be made so.
		clean := next.Clean()
		h.world.Store(&clean)
		h.setTrouble(fmt.Errorf("undo: store: %w (after: %w)", err, cause))
		h.log.Error("undo failed, the change stays", "error", err, "cause", cause)
		return fmt.Errorf("%w; undo: store: %w", cause, err)
	}
	h.world.Store(&back)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyLimit)
	defer cancel()
	if err := h.apply(ctx, back.Desired(), true); err != nil {
		h.setTrouble(fmt.Errorf("undo: %w (after: %w)", err, cause))
		h.log.Error("undo failed, the kernel is repaired at the next change", "error", err, "cause", cause)
		return fmt.Errorf("%w; undo: %w", cause, err)
	}
	return cause
}

// apply has the hands make want true; h.mu is held. again gives Names and Ports
// everything, also what they have.
func (h *HNS) apply(ctx context.Context, want model.Desired, again bool) error {
	if err := h.holdPorts(ctx, want.HostPorts, again); err != nil {
		return err
	}
	if err := failpoint.Hit("network.attach"); err != nil {
		return step(hcn.E_FAIL, "failpoint", err)
	}
	facts, err := h.o.Compartments.Ensure(ctx, want)
	h.facts.Store(&facts)
	if err != nil {
		return step(hcn.HCN_E_NAMESPACE_ATTACH_FAILED, "compartments", err)
	}
	if err := failpoint.Hit("network.ensured"); err != nil {
		return step(hcn.E_FAIL, "failpoint", err)
	}
	if err := h.program(ctx, want, facts); err != nil {
		return err
	}
	if err := failpoint.Hit("network.applied"); err != nil {
		return step(hcn.E_FAIL, "failpoint", err)
	}
	h.nameThem(want, again)
	if err := h.o.Compartments.Prune(ctx, want); err != nil {
		// What is left over carries our name; the next Prune meets it again.
		h.log.Warn("devices or namespaces are left over", "error", err)
		h.setTrouble(fmt.Errorf("prune: %w", err))
		return nil
	}
	h.setTrouble(nil)
	if err := failpoint.Hit("network.pruned"); err != nil {
		return step(hcn.E_FAIL, "failpoint", err)
	}
	return nil
}

// program compiles and applies the switch's tables.
func (h *HNS) program(ctx context.Context, want model.Desired, facts vswitch.Facts) error {
	if h.o.ACLDefaultDeny {
		denyByDefault(want.Switch.ACLs)
	}
	if h.o.Outside != nil {
		want.Switch.ACLs = append(want.Switch.ACLs, *h.o.Outside)
		want.Switch.OutsideACLs = []vswitch.ACLID{h.o.Outside.ID}
	}
	tables, err := h.compiler.Compile(want.Switch, facts)
	if err != nil {
		return step(hcn.E_FAIL, "switch", err)
	}
	if err := h.o.Datapath.Apply(ctx, tables); err != nil {
		return step(hcn.E_FAIL, "datapath", err)
	}
	h.tables.Store(&tables)
	if h.o.Announce != nil {
		h.o.Announce(want.Switch.Announced, tables.Uplinks)
	}
	return nil
}

// denyByDefault makes sets drop what their rules are not about. Tiers, which are one
// stage together, end in what the next stage says.
func denyByDefault(sets []vswitch.ACLSet) {
	for i := range sets {
		s := &sets[i]
		for _, r := range s.Rules {
			switch {
			case s.Stage != 0:
			case r.Direction == vswitch.ACLIn:
				s.DefaultIn = vswitch.ACLBlock
			default:
				s.DefaultOut = vswitch.ACLBlock
			}
		}
	}
}

func step(code hcn.ErrorCode, name string, err error) error {
	return &stepError{&model.Error{Code: code, Text: fmt.Sprintf("%s: %v", name, err)}, err}
}

// holdPorts gives Ports the wanted list if it differs. Only ports that were not
// held before make it fail: for others it was said at the time.
func (h *HNS) holdPorts(ctx context.Context, want []model.HostPort, again bool) error {
	if h.o.Ports == nil || !again && h.given && slices.Equal(want, h.ports) {
		return nil
	}
	before := h.ports
	errs := h.o.Ports.Set(ctx, want)
	h.ports = want
	for i, err := range errs {
		if err == nil {
			continue
		}
		if slices.Contains(before, want[i]) || again {
			h.log.Warn("a published port is held by another program", "object", want[i].Object, "port", want[i].Port, "error", err)
			continue
		}
		return step(hcn.HCN_E_PORT_ALREADY_EXISTS, "published port", err)
	}
	return nil
}

// nameThem gives Names the wanted lists if they differ, and Leases and Clients theirs.
func (h *HNS) nameThem(want model.Desired, again bool) {
	if h.o.Leases != nil {
		h.o.Leases.Set(want.Leases)
	}
	if h.o.Clients != nil {
		h.o.Clients.Set(want.Clients)
	}
	same := !again && h.given && slices.EqualFunc(want.Names, h.names, sameNames) && slices.EqualFunc(want.Resolvers, h.resolver, sameResolver)
	h.given = true
	if same || h.o.Names == nil {
		return
	}
	h.o.Names.Set(want.Names, want.Resolvers)
	h.names, h.resolver = want.Names, want.Resolvers
}

// sameNames compares lists, at once where both are the same memory.
func sameNames(a, b []model.NameRecord) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, sameName))
}

func sameName(a, b model.NameRecord) bool {
	return a.Name == b.Name && a.Network == b.Network && a.Alias == b.Alias && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Servers, b.Servers)
}

func sameResolver(a, b model.Resolver) bool {
	return a.Network == b.Network && a.Domain == b.Domain && slices.Equal(a.Listen, b.Listen) && slices.Equal(a.Through, b.Through) && slices.Equal(a.Clients, b.Clients) &&
		slices.Equal(a.Upstream, b.Upstream)
}

// reset zeroes the counters of ports that were attached anew.
func (h *HNS) reset(next model.World) {
	for _, e := range next.Events() {
		if e.Type != hcn.EventNetworkEndpointAttached {
			continue
		}
		if ep, ok := next.Endpoint(e.ID); ok {
			if err := h.o.Datapath.ResetStats(ep.Port); err != nil {
				h.log.Debug("counters are not reset", "endpoint", e.ID, "error", err)
			}
		}
	}
}

func eventsOf(w model.World) []store.Event {
	var out []store.Event
	for _, e := range w.Events() {
		out = append(out, store.Event{Type: e.Type, Name: e.Name, Kind: string(e.Kind), ID: e.ID, Data: e.Data})
	}
	return out
}

// inverse tells followers of events that what they heard was undone.
func inverse(w model.World, status int64) []store.Event {
	pairs := map[uint32]struct {
		typ  uint32
		name string
	}{
		hcn.EventNetworkCreate:           {hcn.EventNetworkDelete, "NetworkDelete"},
		hcn.EventNetworkDelete:           {hcn.EventNetworkCreate, "NetworkCreate"},
		hcn.EventNamespaceCreate:         {hcn.EventNamespaceDelete, "NamespaceDelete"},
		hcn.EventNamespaceDelete:         {hcn.EventNamespaceCreate, "NamespaceCreate"},
		hcn.EventEndpointCreate:          {hcn.EventEndpointDelete, "EndpointDelete"},
		hcn.EventEndpointDelete:          {hcn.EventEndpointCreate, "EndpointCreate"},
		hcn.EventNetworkEndpointAttached: {hcn.EventNetworkEndpointDetached, "NetworkEndpointDetached"},
		hcn.EventNetworkEndpointDetached: {hcn.EventNetworkEndpointAttached, "NetworkEndpointAttached"},
		hcn.EventLoadBalancerCreate:      {hcn.EventLoadBalancerDelete, "LoadBalancerDelete"},
		hcn.EventLoadBalancerDelete:      {hcn.EventLoadBalancerCreate, "LoadBalancerCreate"},
		hcn.EventLoadBalancerModify:      {hcn.EventLoadBalancerModify, "LoadBalancerModify"},
		hcn.EventSdnRouteCreate:          {hcn.EventSdnRouteDelete, "SdnRouteDelete"},
		hcn.EventSdnRouteDelete:          {hcn.EventSdnRouteCreate, "SdnRouteCreate"},
		hcn.EventSdnRouteModify:          {hcn.EventSdnRouteModify, "SdnRouteModify"},
		hcn.EventGuestServiceCreate:      {hcn.EventGuestServiceDelete, "GuestNetworkServiceDelete"},
		hcn.EventGuestServiceDelete:      {hcn.EventGuestServiceCreate, "GuestNetworkServiceCreate"},
		hcn.EventGuestServiceState:       {hcn.EventGuestServiceState, "GuestNetworkServiceStateChanged"},
		hcn.EventGuestServiceInterface:   {hcn.EventGuestServiceInterface, "GuestNetworkServiceInterfaceStateChanged"},
		hcn.EventServiceCreate:           {hcn.EventServiceDelete, "ServiceDelete"},
		hcn.EventServiceDelete:           {hcn.EventServiceCreate, "ServiceCreate"},
		hcn.EventServiceModify:           {hcn.EventServiceModify, "ServiceModify"},
		hcn.EventEndpointModify:          {hcn.EventEndpointModify, "EndpointModify"},
		hcn.EventNetworkModify:           {hcn.EventNetworkModify, "NetworkModify"},
		hcn.EventNamespaceModify:         {hcn.EventNamespaceModify, "NamespaceModify"},
	}
	var out []store.Event
	for _, e := range slices.Backward(w.Events()) {
		if p, ok := pairs[e.Type]; ok {
			out = append(out, store.Event{Type: p.typ, Name: p.name, Kind: string(e.Kind), ID: e.ID, Status: status})
		}
	}
	return out
}
