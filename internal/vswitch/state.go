// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"
)

// PortID is the stable number of a switch port. It is part of the stored model,
// never derived from the kernel, and indexes the port map. 0 is "any uplink";
// endpoint and host ports are 1..MaxPorts-1, uplinks are handed out from the top
// of the range by Compile, which sees them as Facts.
type PortID uint16

// Zone separates overlapping address spaces. Zone 0 is the host's own: the
// uplinks and every address of the host. Every other zone belongs to one network.
type Zone uint16

// NetworkID is the stable index of a network in the data plane; 0 is none.
type NetworkID uint16

// MAC is an Ethernet address in wire order.
type MAC [6]byte

// MaxPorts is the size of the port map.
const MaxPorts = 4096

// UplinkAny is the PortID that stands for "whichever uplink" in flow keys, so
// that a reply may come in by another uplink than the request went out.
const UplinkAny PortID = 0

// PortKind says what is plugged into a port. Values are shared with the C side
// (enum gh_port_kind) and never renumbered.
type PortKind uint8

const (
	PortNone      PortKind = 0
	PortContainer PortKind = 1 // veth whose peer lives in another network namespace
	PortVM        PortKind = 2 // tap
	PortHost      PortKind = 3 // switch side of a network's host vNIC pair
	PortUplink    PortKind = 4
	PortTunnel    PortKind = 5
)

// NetFlags configure the one pipeline for a network type (enum gh_net_flags).
type NetFlags uint32

const (
	NetSNAT    NetFlags = 1 << 0 // traffic leaving the network's prefixes by an uplink is source-NATed (NAT)
	NetHostNIC NetFlags = 1 << 1 // the host has a vNIC (the gateway address) on it
	NetUplink  NetFlags = 1 << 2 // traffic may leave by uplinks at all
	NetFlood   NetFlags = 1 << 3 // broadcast and multicast reach the network's other ports, and its uplink

	// NetL2 forwards frames by destination MAC and leaves MACs and TTL alone.
	// Unknown MACs are behind the uplink that Network.Uplink names, or nobody's.
	NetL2 NetFlags = 1 << 4
	// NetMACRewrite: outside, one MAC, the uplink's or Network.WireMAC, stands for every
	// endpoint's, which are told apart by address. ARP and ND for them are answered with it.
	NetMACRewrite NetFlags = 1 << 5
	// NetNoLocal switches nothing here: what goes from one port to another leaves
	// by the uplink, and the fabric sends it back.
	NetNoLocal NetFlags = 1 << 6
	// NetARPPass forwards ARP and ND, whose senders are checked, instead of
	// answering them.
	NetARPPass NetFlags = 1 << 7
	// NetDHCP: the host hears at the vNICs who asks a DHCP server there is (IPv4); such a
	// frame to all goes to nobody else, and is no drop.
	NetDHCP NetFlags = 1 << 8
	// NetNoHost: the host behind the Uplink is no member, so that it and the endpoints
	// do not reach each other there.
	NetNoHost NetFlags = 1 << 9
)

// State is what the switch of one host should be. It is a value: Compile neither
// keeps nor changes it.
type State struct {
	Networks []Network
	Ports    []Port
	Mappings []PortMapping
	// PortParts are more ports and mappings, in parts that States share: nil, or one
	// that is never changed. A Compiler that met the same one at its place looks into
	// it only where something else changed that its ports depend on.
	PortParts []*PortPart
	NATPools  []NATPool
	Services  []Service
	// ServiceParts are more services, in parts that States share: nil, or one that is
	// never changed. A Compiler that met the same one at its place does not look into it.
	ServiceParts []*ServicePart
	Announced    []Announcement
	ACLs         []ACLSet
	// OutsideACLs are asked about what clients beyond the uplinks begin with services
	// and published ports, as they send it: rules with ACLOut and ViewOriginal, whose
	// Local is the client and whose Remote is what it calls. What is the host's own
	// affair is never asked about. At most MaxPortACLs.
	OutsideACLs []ACLID
	AddrSets    []AddrSet
	Tunnels     []Tunnel
	Remotes     []Remote
}

// Network is one address space and its switch.
type Network struct {
	ID    NetworkID
	Zone  Zone
	Name  string // for people; appears in explain and drawings only
	Flags NetFlags
	// MTU in bytes of IP packet; 0 = that of the Uplink it is bound to, else the smallest
	// of those that have addresses, else 1500.
	MTU      uint16
	Subnets  []Subnet
	HostPort PortID // the port of the host vNIC; 0 = none

	// With NetSNAT, what leaves by an uplink shows an address of NATPool; 0, or a
	// pool without addresses of the family: the uplink's own. Destinations in
	// NATExceptions see the endpoint's own address instead; where NATDestinations
	// are given only these see the pool's. The longer prefix decides. With NetL2 the
	// host's routes lead what is translated; the rest goes by MAC, like the subnets.
	NATPool         NATPoolID
	NATExceptions   []netip.Prefix
	NATDestinations []netip.Prefix
	Overlay         // reaching other hosts; zero = this host alone
	// Routes come beside the subnets, which are local, and the way out that
	// NetUplink gives. The longest prefix decides.
	Routes []Route
	// Uplink is the host's interface that a network with NetL2 is bound to: its
	// frames leave and come in there. "" = none. One that is not in the Facts is
	// no error: until it comes nothing passes there.
	Uplink string
	// WireMAC stands for the endpoints at the Uplink instead of its own, with NetMACRewrite;
	// zero = the uplink's. What leaves by the host's routes has the uplink's all the same.
	WireMAC MAC
	// Asked are the MACs that ARP and ND for addresses which nobody here has are answered
	// with. The longest prefix decides.
	Asked []Asked
	// VLAN is the tag of the network's frames at the uplink, 1-4094; 0 = none.
	// Ports never see it.
	VLAN uint16
}

// Asked is who stands for the addresses of a prefix.
type Asked struct {
	Prefix netip.Prefix
	MAC    MAC
}

// Subnet is a prefix that is local to the network and the gateway address the
// host vNIC holds in it (invalid = none).
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	// VNI that frames to the subnet's endpoints on other hosts bear; 0 = none. Only
	// with a Network.Tunnel, where every subnet needs one.
	VNI uint32
}

// Port is where something plugs in.
type Port struct {
	ID        PortID
	Kind      PortKind
	Network   NetworkID
	Object    string // endpoint GUID, or network GUID for a host port
	Interface string // host-side device; its ifindex comes from Facts
	// HostNIC is, for a PortHost, the other end of the pair: the device in the
	// host's stack that packets for the host are injected into.
	HostNIC string
	MAC     MAC          // of the vNIC behind the port
	Addrs   []netip.Addr // every address the vNIC may use as a source
	ACLs    []ACLID      // sets that packets must pass, in the order they are asked
	MACs    []MAC        // further MACs it may use; where frames go by MAC they reach it
	// AnyMAC and AnyIP switch off the checks of source MACs and of source
	// addresses, those inside ARP and ND included.
	AnyMAC, AnyIP bool
	// MTU is that of the vNIC; 0 = its network's, or where Overhead is not 0 the uplinks'
	// less that, if it is smaller.
	MTU, Overhead uint16
	// Up is false while the port is made or taken away: nothing passes.
	Up bool
	// IngressBps and EgressBps bound the bytes a second towards the vNIC and from it;
	// 0 = no bound. The first is a queue on Interface. The second is one on the device
	// Shaper, into which the switch sends what comes by Interface; it goes on where it
	// comes out, at Shaper's other end ShaperPeer. Whoever makes the vNIC makes these.
	IngressBps, EgressBps uint64
	Shaper, ShaperPeer    string
	// PPS is how many packets a second the vNIC may send, with bursts of a tenth of a
	// second; more are dropped (METER). A guard against floods: TCP suffers from it.
	// 0 = no bound.
	PPS uint32
	// Class 1:n of an uplink's HTB (or other classful queue) with handle 1: gets what
	// the port sends; 0 = none in particular.
	Class uint16
	// MaxFlows bounds the conversations the port begins. 0 = no bound while the flow
	// tables have room; in a crowded one its share (bpf.Share).
	MaxFlows uint32
	// NATPool shows this endpoint outside with another pool than its network's;
	// 0 = the network's.
	NATPool NATPoolID
	// NATShare is how many percent of the ports of each address outside, whichever it
	// is shown with, are for its conversations: a run of them that its address chooses
	// and that others may use, too. 0 = all.
	NATShare uint8
	// NAT says, before its network does, by which address outside sees this endpoint.
	// The longest prefix among them decides; where none matches, the network. Where
	// the network translates nothing (no NetSNAT) they alone do, and lead out by the
	// host's routes what else would go by MAC or nowhere.
	NAT []NATRule
	// Proxies get what it begins instead of who is asked.
	Proxies []Proxy
	// Mirror is the port of a container or virtual machine that gets a copy of what
	// the vNIC sends, before any layer, and of what is delivered to it; 0 = none.
	// Copies are best effort and bear the MACs of the original. A port that is
	// mirrored itself cannot be one.
	Mirror PortID
	// Forward makes it a router's: it may send with sources that are not its own,
	// and be the next hop of a Route. Of a host port: the host routes for others.
	Forward bool
	// Host: the vNIC is in the host's own stack. Where frames go by MAC it may be others'
	// gateway: what it would only send on by their network's Uplink leaves there at once,
	// so that answers find the conversation, and under outbound NAT if there is one. What
	// a RouteHost leads to reaches the host.
	Host bool
	// Uplink is the one interface that its traffic may leave and come in by; "" = any. One
	// that is not in the Facts is none. It does not lead there: the host's routes do.
	Uplink string
	// Routes of this port alone, before those of its network.
	Routes []Route
	// Trunk is the port whose vNIC this one shares: its frames bear the tag VLAN there
	// (1-4094), and none where its network is. So a trunk carries the VLANs for which
	// there are such ports, each in a network of its own, with MACs, addresses, rules
	// and counters of its own; other tags are refused. The trunk's own frames, which
	// have no tag, are its native VLAN. 0 = a port with a vNIC. Interface, queues and
	// rates are the trunk's.
	Trunk PortID
	VLAN  uint16
	// TaggedOnly makes it a trunk without a native VLAN: it has no addresses, gets
	// nothing, and what it sends without a tag is refused.
	TaggedOnly bool
}

// NATRule is what destinations outside that are in Prefix see of an endpoint.
type NATRule struct {
	Prefix netip.Prefix
	Own    bool      // its own address
	Pool   NATPoolID // else an address of this pool; 0 = of the port's, its network's or the uplink's
}

// ownRoutes: the port has a table of its own.
func (p *Port) ownRoutes() bool { return len(p.Routes)+len(p.NAT) > 0 }

// PortMapping publishes Port/Proto of the host to an endpoint: a Service with one
// backend whose number follows from what is published.
type PortMapping struct {
	Object   string     // endpoint GUID
	Proto    uint8      // 6, 17 or 132
	HostAddr netip.Addr // invalid or unspecified = every host address of Addr's family; loopback = host processes only
	HostPort uint16
	Port     PortID // target port
	Addr     netip.Addr
	AddrPort uint16
}

// Facts are what only the kernel knows.
type Facts struct {
	// Ifindex of every host-side device of ours that exists, by name.
	Ifindex map[string]int
	// Devices is another number whenever Ifindex has changed; 0 = nobody counts.
	Devices uint64
	// Uplinks are the host's other interfaces that carry addresses or that networks
	// name, in ifindex order: what traffic may leave by and published ports are
	// reached through.
	Uplinks []Uplink
	// HostAddrs is every local address of the host's namespace except loopback
	// and link-local, gateway addresses on our own vNICs included.
	HostAddrs []netip.Addr
	// Anchor is the ifindex of our device with forwarding enabled, which FIB
	// look-ups name as their input.
	Anchor int
	// LocalPortLow and LocalPortHigh bound what the kernel gives to sockets of its
	// own choice (net.ipv4.ip_local_port_range); 0 = Linux's default.
	LocalPortLow, LocalPortHigh uint16
	// LocalReserved are the first and the last of ports that it leaves out of these
	// (net.ipv4.ip_local_reserved_ports).
	LocalReserved [][2]uint16
	// Routes is another number whenever the host's routes have changed: where traffic
	// goes that leaves by uplinks and tunnels is asked of them anew.
	Routes uint64
	// NetnsCookie of the namespace the daemon runs in: socket hooks apply to it only.
	NetnsCookie uint64
}

// Uplink is one host interface that is not ours.
type Uplink struct {
	Name    string
	Ifindex int
	MAC     MAC
	MTU     uint16
	Addrs   []netip.Prefix
}
