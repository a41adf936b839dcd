// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Kind names a collection; it is also the bucket of its rows.
type Kind string

// Kinds.
const (
	Networks      Kind = "networks"
	Endpoints     Kind = "endpoints"
	Namespaces    Kind = "namespaces"
	LoadBalancers Kind = "loadbalancers"
	SDNRoutes     Kind = "sdnroutes"
	Reservations  Kind = "ports"
	GuestServices Kind = "guestnetworkservices"
	Services      Kind = "services"
)

// World is every object of one host. Make it with New or Load. It is a value: verbs
// return the next one.
type World struct {
	inst instance.Instance

	networks      pmap[*Network]
	endpoints     pmap[*Endpoint]
	namespaces    pmap[*Namespace]
	loadBalancers pmap[*LoadBalancer]
	sdnRoutes     pmap[*SDNRoute]
	reservations  pmap[*Reservation]
	guestServices pmap[*GuestService]
	services      pmap[*Service]

	// Indexes; each follows from the rows.
	byName    pmap[string]         // network name -> id
	addrs     pmap[string]         // network id / address bytes -> endpoint id
	macs      pmap[string]         // network id / MAC bytes -> endpoint id
	members   pmap[string]         // network id / sequence -> endpoint id
	remotes   pmap[string]         // network id / address as 16 bytes / sequence -> remote endpoint id
	far       pmap[vswitch.Remote] // network id / address as 16 bytes -> as the switch of an overlay has it
	farWays   pmap[vswitch.Route]  // likewise, of those outside the subnets
	published pmap[publish]        // family proto port / address as 16 bytes / kind id -> who
	balanced  pmap[string]         // endpoint id / load balancer id -> the latter
	routed    pmap[string]         // endpoint id / SDN route id -> the latter
	named     pmap[string]         // endpoint name 0 id -> id
	serviceBy pmap[string]         // service name -> id
	serving   pmap[string]         // address of a service -> its id
	awaited   pmap[string]         // backend as a service has it 0 service id -> the latter
	hops      pmap[int]            // network id / next hop of an SDN route as 16 bytes -> how many
	numbersIn [numberSets]pmap[struct{}]
	plugged   *plugged   // what endpoints and namespaces add to Desired
	balancing *balancing // what load balancers and services add to Desired

	// aclSets are the sets of rules that endpoints refer to, by their digest; aclHeld
	// and ruleHeld say which of them has a number.
	aclSets           pmap[aclSet]
	aclHeld, ruleHeld pmap[string]

	natPools pmap[natPool] // by VirtualIP

	// released is the quarantine of addresses: network id / address bytes -> when.
	// It is not stored: a restart ends it.
	released pmap[time.Time]
	sweepAt  time.Time
	lastMAC  pmap[ipam.MAC] // network id -> last given out

	numbers Numbers
	loading bool
	changes history[Change]
	events  history[Event]
}

// Network is a stored row.
type Network struct {
	Doc      NetworkDoc
	Number   vswitch.NetworkID
	Zone     vswitch.Zone
	HostPort vswitch.PortID // 0 = no host vNIC
	Tunnel   vswitch.PortID `json:",omitempty"` // of an overlay: shared by all of a UDP port
	Sequence uint64
	Created  time.Time
	Body     string // digest of the create
	// Uplink is the interface of the host that it is bound to; "" where the type has none.
	Uplink string `json:",omitempty"`
	// Segments are the switch's numbers of its segments of the uplink, by VLAN (0 =
	// untagged); Number is one of them. Networks of one uplink may share them.
	Segments map[uint16]vswitch.NetworkID `json:",omitempty"`
	// ProviderFilled: the ProviderAddress policy in Doc is of our making.
	ProviderFilled bool `json:",omitempty"`

	// SetNumbers are the switch's numbers of SetPolicies, by their Id, and of farSet.
	SetNumbers map[string]vswitch.AddrSetID `json:",omitempty"`

	subnets []subnet
	sets    map[string]*addrSet
	acl     []aclRule // of every endpoint

	sourceMAC ipam.MAC        // that stands for endpoints outside; zero = the uplink's
	asked     []vswitch.Asked // who stands for addresses that nobody here has
	overlay   overlayNet
	compiled  netPart
}

// subnet is a Subnet, parsed.
type subnet struct {
	id      string
	pool    ipam.Pool
	gateway netip.Addr // also where it is not reserved
	vsid    uint32     // of an overlay
	pools   map[string]netip.Prefix
	vlan    uint16
	dhcp    bool // its addresses are the segment's DHCP server's to give
}

// Endpoint is a stored row.
type Endpoint struct {
	Doc EndpointDoc
	// Port is the endpoint's number at the switch for as long as it lives; 0 where
	// it is remote.
	Port     vswitch.PortID
	Sequence uint64
	Created  time.Time
	Body     string
	// InheritDNS: the Dns in Doc is the network's.
	InheritDNS bool `json:",omitempty"`
	// Lease is of an endpoint that has its IPv4 address by DHCP; nil = it has not.
	// OwnRoutes: the Routes in its Doc are the client's, not those it was lent.
	Lease     *DHCPLease `json:",omitempty"`
	OwnRoutes bool       `json:",omitempty"`
	// Instance counts attachments, for statistics that restart with each.
	Instance uint32 `json:",omitempty"`
	// ACLs are its sets of rules, in the order they are asked.
	ACLs []ACLRef `json:",omitempty"`
	// NATPools are those of its VirtualIPs.
	NATPools []NATPoolRef `json:",omitempty"`
	// VM is its port where a virtual machine has its vNIC.
	VM *VMPort `json:",omitempty"`
	// Uplink is the one interface of the host that it uses (InterfaceConstraint); "" = any.
	Uplink string `json:",omitempty"`

	mac      ipam.MAC
	addrs    []netip.Prefix // address and length, in order of IpConfigurations
	vlan     uint16         // its frames' tag at the uplink; 0 = none
	aliases  []string
	mappings []mapping
	ways     []vswitch.Route // by SDNRoute policies
	provider netip.Addr      // of a remote endpoint: the tunnel end of its host
	compiled endpointPart
}

// Namespace is a stored row.
type Namespace struct {
	Doc      NamespaceDoc
	Sequence uint64
	Created  time.Time
	Body     string
	// Foreign: NetNsPath was handed in.
	Foreign bool `json:",omitempty"`
	// NICs are the attached endpoints in order; Index is the n of eth<n>.
	NICs       []NIC    `json:",omitempty"`
	Containers []string `json:",omitempty"`
	// Plug is the owner given to Plug, and what it made; empty otherwise.
	Plug          string   `json:",omitempty"`
	PlugEndpoints []string `json:",omitempty"`
	// Taken: a network stack of its own, a library OS's, speaks for the vNICs. Their
	// addresses are in it, and the kernel must have none or it would answer too.
	Taken bool `json:",omitempty"`
	// Redirected: it has or had Redirects.
	Redirected bool `json:",omitempty"`

	compiled Compartment
}

// NIC is an endpoint's place in a namespace.
type NIC struct {
	Endpoint string
	Index    int
}

// Input is what a verb needs besides the document.
type Input struct {
	Now   time.Time
	Owner string        // default owner
	NewID func() string // a fresh GUID, lower case
	// Avoid tells every route and address of the host: automatic prefixes keep
	// clear of them, explicit ones that overlap are refused. nil = none.
	Avoid func() []netip.Prefix
	// Ports knows what others hold on the host; nil = nothing.
	Ports Ports
	// Uplinks are the interfaces that networks can be bound to, as they are now; nil = none.
	Uplinks func() []Uplink
	// Services are what services are given from.
	Services ServicePools
	// Leased are leases that were got for a NeedsLease.
	Leased []DHCPClient
	// Users are numbers of users of this host, by SID.
	Users map[string]uint32
	// IsHost tells whether an address is one of the host's own; nil = none is.
	IsHost func(netip.Addr) bool
}

// Ports is what the model asks about ports of the host outside the World.
type Ports interface {
	// Check fails if somebody else holds p.
	Check(p HostPort) error
	// Free returns a port that nobody holds for any of want, whose Port is not set,
	// and that taken does not refuse.
	Free(want []HostPort, taken func(port uint16) bool) (uint16, error)
}

// Change is one row written, or deleted (Row nil).
type Change struct {
	Kind Kind
	ID   string
	Row  any // *Network, *Endpoint, *Namespace, *LoadBalancer, *SDNRoute, *Reservation, *GuestService, *Service
	// Quiet: nothing that the hands made follows from it.
	Quiet bool
}

// Event is one fact for the event ring.
type Event struct {
	Type uint32
	Name string
	Kind Kind
	ID   string
	Data json.RawMessage
}

// New returns an empty World of the instance whose names it compiles.
func New(inst instance.Instance) World { return World{inst: inst} }

// Rows are what a store holds.
type Rows struct {
	Networks      []*Network
	Endpoints     []*Endpoint
	Namespaces    []*Namespace
	LoadBalancers []*LoadBalancer
	SDNRoutes     []*SDNRoute
	Reservations  []*Reservation
	GuestServices []*GuestService
	Services      []*Service
}

// Load makes a World of stored rows. The error names a row that contradicts the others.
func Load(inst instance.Instance, numbers Numbers, rows Rows) (World, error) {
	w := New(inst)
	w.numbers, w.loading = numbers, true
	for _, n := range rows.Networks {
		c := *n
		if err := c.parse(); err != nil {
			return World{}, fmt.Errorf("stored network %s: %w", n.Doc.Id, err)
		}
		w.putNetwork(&c)
	}
	// Endpoints look up their namespace, and namespaces are compiled from their endpoints.
	for _, ns := range rows.Namespaces {
		c := *ns
		w.namespaces = w.namespaces.set(c.Doc.Id, &c)
	}
	endpoints := slices.Clone(rows.Endpoints)
	slices.SortFunc(endpoints, func(a, b *Endpoint) int { return cmp.Compare(a.Sequence, b.Sequence) })
	for _, e := range endpoints {
		c := *e
		n, ok := w.networks.get(c.Doc.HostComputeNetwork)
		if !ok {
			return World{}, fmt.Errorf("stored endpoint %s: its network %s is missing", c.Doc.Id, c.Doc.HostComputeNetwork)
		}
		err := c.parse(n)
		if err == nil && !c.IsRemote() {
			err = w.refer(&c, n)
		}
		if err != nil {
			return World{}, fmt.Errorf("stored endpoint %s: %w", c.Doc.Id, err)
		}
		w.putEndpoint(&c)
	}
	for _, ns := range rows.Namespaces {
		c := *ns
		w.putNamespace(&c)
	}
	for _, r := range rows.SDNRoutes {
		c := *r
		n, _ := w.networks.get(c.Doc.HostComputeNetwork)
		if err := c.parse(n); err != nil {
			return World{}, fmt.Errorf("stored SDN route %s: %w", c.Doc.ID, err)
		}
		w.putSDNRoute(&c)
	}
	for _, lb := range rows.LoadBalancers {
		c := *lb
		if err := c.parse(); err != nil {
			return World{}, fmt.Errorf("stored load balancer %s: %w", c.Doc.Id, err)
		}
		w.putLoadBalancer(&c)
	}
	for _, r := range rows.Services {
		c := *r
		if err := c.parse(); err != nil {
			return World{}, fmt.Errorf("stored service %s: %w", c.Doc.ID, err)
		}
		w.putService(&c)
	}
	w.balancing = w.balancing.of(w.loadBalancers, w.services)
	for _, r := range rows.Reservations {
		c := *r
		w.putReservation(&c)
	}
	for _, g := range rows.GuestServices {
		w.putGuestService(g)
	}
	w.loading = false
	w.plugAll()
	return w, nil
}

// Changes since the last Clean: the newest row of each object, in order of first change.
func (w World) Changes() []Change {
	all := w.changes.all()
	last := make(map[string]int, len(all))
	var out []Change
	for _, c := range all {
		k := string(c.Kind) + c.ID
		if i, ok := last[k]; ok {
			c.Quiet = c.Quiet && out[i].Quiet
			out[i] = c
			continue
		}
		last[k] = len(out)
		out = append(out, c)
	}
	return out
}

// Events since the last Clean.
func (w World) Events() []Event { return w.events.all() }

// Numbers to store with the changes.
func (w World) Numbers() Numbers { return w.numbers }

// Clean returns the World without memory of how it came about.
func (w World) Clean() World {
	w.changes, w.events = history[Change]{}, history[Event]{}
	return w
}

// Undo returns the changes that lead back from w to old: the inverse of w.Changes().
func (w World) Undo(old World) []Change {
	out := w.Changes()
	for i, c := range out {
		out[i].Row = old.row(c.Kind, c.ID)
	}
	return out
}

// row is a stored row, nil where there is none.
func (w World) row(k Kind, id string) any {
	switch k {
	case Networks:
		return rowOf(w.networks, id)
	case Endpoints:
		return rowOf(w.endpoints, id)
	case Namespaces:
		return rowOf(w.namespaces, id)
	case LoadBalancers:
		return rowOf(w.loadBalancers, id)
	case SDNRoutes:
		return rowOf(w.sdnRoutes, id)
	case Reservations:
		return rowOf(w.reservations, id)
	case GuestServices:
		return rowOf(w.guestServices, id)
	case Services:
		return rowOf(w.services, id)
	}
	return nil
}

func rowOf[R any](rows pmap[*R], id string) any {
	if r, ok := rows.get(id); ok {
		return r
	}
	return nil
}

// With returns w with numbers that are at least those of later, so that what a
// verb that was undone had handed out is not handed out again at once.
func (w World) With(later Numbers) World {
	w.numbers = later
	return w
}

func (w *World) changed(k Kind, id string, row any) {
	if w.loading {
		return
	}
	w.changes = w.changes.add(Change{Kind: k, ID: id, Row: row})
}

func (w *World) event(typ uint32, name string, k Kind, id string, data any) {
	raw, err := Encode(data)
	if err != nil {
		raw = nil
	}
	w.events = w.events.add(Event{typ, name, k, id, raw})
}

// Network by id.
func (w World) Network(id string) (*Network, bool) { return w.networks.get(strings.ToLower(id)) }

// Endpoint by id.
func (w World) Endpoint(id string) (*Endpoint, bool) { return w.endpoints.get(strings.ToLower(id)) }

// Namespace by id.
func (w World) Namespace(id string) (*Namespace, bool) { return w.namespaces.get(strings.ToLower(id)) }

// NetworkNamed finds by exact name.
func (w World) NetworkNamed(name string) (*Network, bool) {
	id, ok := w.byName.get(name)
	if !ok || name == "" {
		return nil, false
	}
	return w.networks.get(id)
}

// AllNetworks in order of creation.
func (w World) AllNetworks() []*Network {
	return sorted(w.networks, func(n *Network) uint64 { return n.Sequence })
}

// AllEndpoints in order of creation.
func (w World) AllEndpoints() []*Endpoint {
	return sorted(w.endpoints, func(e *Endpoint) uint64 { return e.Sequence })
}

// AllNamespaces in order of creation.
func (w World) AllNamespaces() []*Namespace {
	return sorted(w.namespaces, func(n *Namespace) uint64 { return n.Sequence })
}

func sorted[V any](m pmap[V], seq func(V) uint64) []V {
	out := make([]V, 0, m.len())
	for _, v := range m.all {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b V) int { return cmp.Compare(seq(a), seq(b)) })
	return out
}

// EndpointsOf a network in order of creation.
func (w World) EndpointsOf(network string) []*Endpoint {
	var out []*Endpoint
	for _, id := range w.members.prefixed(network + "/") {
		if e, ok := w.endpoints.get(id); ok {
			out = append(out, e)
		}
	}
	return out
}
