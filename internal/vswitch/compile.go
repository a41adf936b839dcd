// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

const (
	// MaxNetworks is the size of the net map (GH_MAX_NETS).
	MaxNetworks = 1024
	// MaxUplinks bounds how many host interfaces are uplinks: each takes two of
	// the natpool map's first 256 entries, of which the very first means none.
	MaxUplinks = 127
	// FirstUplinkPort and above are handed out to uplinks by Compile; the ports of
	// a State are below.
	FirstUplinkPort PortID = MaxPorts - MaxUplinks

	// NATLow and NATHigh bound the source ports of outbound NAT. They lie between
	// what services commonly listen on and what the kernel hands out itself:
	// 30000-32767 are NodePorts, 32768-60999 the default ip_local_port_range. So
	// neither a socket of the host nor a NodePort meets a translated flow.
	NATLow, NATHigh uint16 = 10000, 29999

	// MaxFlood is how many ports of a network get a copy of a broadcast; the
	// programs copy to no more (GH_FLOOD_MAX).
	MaxFlood = 256

	// defaultMTU serves a host without uplinks: Ethernet's.
	defaultMTU = 1500
	// minMTU4 is what RFC 791 section 3.2 demands of every link, minMTU6 is
	// RFC 8200 section 5.
	minMTU4, minMTU6 = 68, 1280

	// eventRate is how many drop events a second one reason at one port may send.
	eventRate = 10
)

// Compile returns the content of every configuration map for a State and the
// Facts. It is Compiler.Compile without memory.
//
// Errors are of class errdefs.ErrInvalidArgument and say which object is wrong.
// A port whose device is not in the Facts is no error: devices come and go
// beside us. Its rows are there, but nothing passes.
func Compile(s State, f Facts) (Tables, error) { return new(Compiler).Compile(s, f) }

// Compiler compiles one State after another and makes only the rows of objects
// that changed, or whose network, device or uplink did. What it returns is always
// what Compile would. The zero value is ready; it is not for concurrent use.
type Compiler struct {
	nets      map[NetworkID]*netMemo
	ports     map[PortID]*portMemo
	portParts []*portPartMemo // as in the State
	uplinks   uplinkMemo
	pools     poolMemo
	hosts     hostMemo
	mappings  mappingMemo
	services  servicesMemo
	announced announceMemo
	inside    insideMemo
	addrSets  addrSetMemo
	acls      aclMemo
	outside   outsideMemo
	flooded   floodMemo
	overlay   overlayMemo

	// Who holds what may be held once. Maintained together with ports.
	addrOwner    map[AddrKey]PortID
	ifindexOwner map[uint32]PortID
	macOwner     map[FdbKey]PortID
	wireOwner    map[WireIPKey]PortID
	vlanOwner    map[SegmentKey]PortID // of trunks

	round    uint64          // marks what the current State still has
	devices  uint64          // Facts.Devices of the last round
	contexts uint64          // the round in which what a network is to its ports last changed
	moved    map[PortID]bool // ports that this round compiled anew, or that went
	tables   Tables          // of the last success
}

// Compile returns the Tables of s and f. After an error the Compiler starts
// from nothing.
func (c *Compiler) Compile(s State, f Facts) (Tables, error) {
	t, err := c.compile(s, f)
	if err != nil {
		*c = Compiler{}
		return Tables{}, errdefs.ErrInvalidArgument.WithMessage("compile: " + err.Error())
	}
	c.tables = t
	return t, nil
}

func (c *Compiler) compile(s State, f Facts) (Tables, error) {
	if c.nets == nil {
		*c = Compiler{
			nets: map[NetworkID]*netMemo{}, ports: map[PortID]*portMemo{},
			addrOwner: map[AddrKey]PortID{}, ifindexOwner: map[uint32]PortID{}, macOwner: map[FdbKey]PortID{}, wireOwner: map[WireIPKey]PortID{},
			vlanOwner: map[SegmentKey]PortID{},
			flooded:   floodMemo{map[PortID]NetworkID{}, map[NetworkID][]PortID{}},
		}
	}
	c.round++
	t := c.tables
	steps := []func(State, Facts, *Tables) error{
		c.compileUplinks, c.compileHost, c.compilePools, c.compileVTEPs, c.compileNetworks, c.compileAddrSets, c.compileACLs, c.compileOutside, c.compilePorts,
		c.compileOverlay, c.compileFloods,
		c.compileServices, c.compileInside, c.compileAnnounced, c.compileFIB,
	}
	for _, step := range steps {
		if err := step(s, f, &t); err != nil {
			return Tables{}, err
		}
	}
	return t, nil
}

// invalid makes an error that begins with the field it is about.
func invalid(format string, args ...any) error { return fmt.Errorf(format, args...) }

// with returns m with one key changed; m itself belongs to Tables handed out.
// shared tells whether m still does.
func with[K comparable](m map[K]*block, shared *bool, k K, b *block) map[K]*block {
	if *shared {
		m = maps.Clone(m)
		*shared = false
	}
	if m == nil {
		m = map[K]*block{}
	}
	if b == nil {
		delete(m, k)
	} else {
		m[k] = b
	}
	return m
}

// hostMemo is the host itself: its addresses and the one cfg row.
type hostMemo struct {
	addrs  []netip.Addr
	anchor int
	cookie uint64
	udp    [MaxTunnels]uint16
	made   bool
}

func (c *Compiler) compileHost(s State, f Facts, t *Tables) error {
	m := &c.hosts
	udp := tunnelPorts(s.Tunnels)
	if !m.made || m.anchor != f.Anchor || m.cookie != f.NetnsCookie || m.udp != udp {
		if f.Anchor < 0 {
			return invalid("Facts.Anchor %d: not an ifindex", f.Anchor)
		}
		t.cfg = &block{global: true, rows: rows{cfg: []Entry[uint32, CfgRow]{{0, CfgRow{
			NetnsCookie: f.NetnsCookie, AnchorIfindex: uint32(f.Anchor), EventRate: eventRate, TunnelBe: udp,
		}}}}}
		m.anchor, m.cookie, m.udp = f.Anchor, f.NetnsCookie, udp
	}
	if !m.made || !slices.Equal(m.addrs, f.HostAddrs) {
		b := &block{global: true}
		seen := map[netip.Addr]bool{}
		for i, a := range f.HostAddrs {
			if err := checkUnicast(a); err != nil {
				return invalid("Facts.HostAddrs[%d]: %w", i, err)
			}
			if seen[a] {
				continue // the same address on two interfaces
			}
			seen[a] = true
			b.addr = append(b.addr, Entry[AddrKey, AddrRow]{addrKey(zoneHost, a), AddrRow{Flags: addrHost}})
		}
		t.host = b
		m.addrs = slices.Clone(f.HostAddrs)
	}
	m.made = true
	return nil
}
