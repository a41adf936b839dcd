// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package network is the host networking service. It takes a verb, asks the model
// for the next World, commits it to the store, and has the hands make it so:
// published ports, compartments, the switch's tables, names. It answers when all
// of that is done; a verb that fails at any step is undone, store and kernel.
//
// It is not the rules (package model), nor the kernel (the hands, which are
// interfaces here and joined by the daemon).
//
// Be aware:
//   - one lock serialises transactions. Verbs that wait for it are taken together:
//     one commit to disk and one apply for all of them.
//   - readers take no lock: the current World is in an atomic pointer and changes
//     after the kernel did.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Compartments are the hands that make network namespaces and devices.
type Compartments interface {
	// Ensure makes and changes what want says and removes nothing. The facts are
	// valid also with an error.
	Ensure(ctx context.Context, want model.Desired) (vswitch.Facts, error)
	// Prune removes what is ours and not in want.
	Prune(ctx context.Context, want model.Desired) error
	// Leaving is closed when nobody meets any more what Prune removed where people
	// look; nil where it removed no such thing.
	Leaving() <-chan struct{}
}

// Datapath are the hands that hold the switch's tables in the kernel.
type Datapath interface {
	// Apply makes the kernel's tables so; as often as asked.
	Apply(ctx context.Context, t vswitch.Tables) error
	// ResetStats zeroes the counters of a port that is used anew.
	ResetStats(port vswitch.PortID) error
}

// Names are the hands that answer DNS.
type Names interface {
	// Set replaces all names and resolvers.
	Set(names [][]model.NameRecord, resolvers []model.Resolver)
}

// Leases are the hands that answer DHCP.
type Leases interface {
	// Set replaces all leases.
	Set(leases []model.Lease)
}

// Clients are the hands that ask DHCP servers on behalf of endpoints.
type Clients interface {
	// Acquire asks for a lease for an endpoint that is not in the World yet, and
	// returns when it has one, or nobody answered in time.
	Acquire(ctx context.Context, c model.DHCPClient) (model.DHCPLease, error)
	// Release gives back what was acquired for an endpoint that was then not made.
	Release(c model.DHCPClient)
	// Set replaces all clients: each keeps its lease, and who is not there any more
	// gives it back. What becomes of a lease is told to HNS.Lend. It waits for nobody.
	Set(want []model.DHCPClient)
}

// Ports are the hands that hold published ports on the host.
type Ports interface {
	// Set holds exactly want. It returns nil, or one entry for each of want, nil
	// where the port is held.
	Set(ctx context.Context, want []model.HostPort) []error
	// Check says whether a port could be held now.
	Check(p model.HostPort) error
	// Free finds a port that can be held.
	Free(proto uint8, addr netip.Addr) (uint16, error)
}

// PortCounters count what passed a port, seen from the vNIC: received is towards it.
type PortCounters struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	RxDrops, TxDrops   uint64
}

// Options of the service. Instance, Store, Compartments and Datapath are needed.
type Options struct {
	Instance     instance.Instance
	Store        *store.DB
	Compartments Compartments
	Datapath     Datapath
	Names        Names   // nil = none
	Leases       Leases  // nil = none
	Clients      Clients // nil = no endpoint gets an address by DHCP
	Ports        Ports   // nil = nothing is held
	// Stats reads the counters of a port; nil = statistics are all zero.
	Stats func(vswitch.PortID) (PortCounters, error)
	// Sight looks at flows and routes for Explain; nil = there are none.
	Sight Sight
	// Outside decides who beyond the uplinks reaches what is published: its ID is
	// model.OutsideACL, its rules are numbered from model.FirstOutsideRule. nil = everybody.
	Outside *vswitch.ACLSet
	// ACLDefaultDeny: in a direction for which a stage has rules, what none of them
	// is about is dropped, as Windows Server 2025 does; by default it passes.
	ACLDefaultDeny bool
	// Announce tells neighbours of addresses at uplinks, all there are each time; it
	// does not wait. nil = they must ask.
	Announce func([]vswitch.Announcement, []vswitch.UplinkPort)
	// Services are the pools that services are given from.
	Services model.ServicePools
	// Users are numbers of users of this host, by the SID that documents name them by.
	Users map[string]uint32
	// HostRoutes are the prefixes that the host routes by devices that are not
	// ours; nil = read from /proc/net.
	HostRoutes func() ([]netip.Prefix, error)
	// Uplinks are the interfaces of the host that networks can be bound to; nil = none.
	Uplinks func() ([]model.Uplink, error)
	// BootID tells one boot of the host from another: networks with the flag
	// EnableNonPersistent end with it. "" = not asked.
	BootID string
	// NoDefaultNetwork leaves out the network "nat" at the first start.
	NoDefaultNetwork bool
	// DefaultNetwork is the document of that network; nil = NAT, subnets chosen.
	DefaultNetwork []byte
	Log            *slog.Logger     // nil = discard
	Now            func() time.Time // nil = time.Now
	NewID          func() string    // nil = random GUIDs
}

// applyLimit ends an apply that hangs, so that a verb is answered at all.
const applyLimit = 60 * time.Second

// HNS is the service. Make it with New, then Start.
type HNS struct {
	o   Options
	log *slog.Logger

	world atomic.Pointer[model.World]
	facts atomic.Pointer[vswitch.Facts]
	// tables are what the switch was last given; nil = nothing yet.
	tables atomic.Pointer[vswitch.Tables]
	// trouble is why the kernel may not be as desired; nil = it is.
	trouble atomic.Pointer[string]
	stopped atomic.Bool

	// queue holds verbs that wait for the transaction lock; guarded by queueMu.
	queueMu sync.Mutex
	queue   []*verb

	// mu is the transaction lock: it guards the fields below, and is held over
	// store and kernel.
	mu       sync.Mutex
	compiler vswitch.Compiler
	names    [][]model.NameRecord // as last given to Names
	resolver []model.Resolver
	ports    []model.HostPort // as last given to Ports
	given    bool             // Names and Ports were given anything
}

// New makes a service that does nothing until Start.
func New(o Options) *HNS {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	h := &HNS{o: o, log: o.Log}
	w := model.New(o.Instance)
	h.world.Store(&w)
	h.facts.Store(&vswitch.Facts{})
	return h
}

// World is the current one: what the kernel was last made to be.
func (h *HNS) World() model.World { return *h.world.Load() }

// Facts are those of the last apply.
func (h *HNS) Facts() vswitch.Facts { return *h.facts.Load() }

// Trouble says why the kernel may not be as desired; "" = it is.
func (h *HNS) Trouble() string {
	if t := h.trouble.Load(); t != nil {
		return *t
	}
	return ""
}

// Stop refuses new verbs and waits for the current ones. The kernel is left as it is:
// packets flow on.
func (h *HNS) Stop() {
	h.stopped.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
}

func (h *HNS) setTrouble(err error) {
	if err == nil {
		h.trouble.Store(nil)
		return
	}
	s := err.Error()
	h.trouble.Store(&s)
}

// stepError is a verb that failed at a step after the commit: what the client is
// told, and why.
type stepError struct {
	refusal *model.Error
	cause   error
}

func (e *stepError) Error() string { return e.refusal.Error() }

func (e *stepError) Unwrap() []error { return []error{e.refusal, e.cause} }

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}
