// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

const (
	labEndpoints = 10
	labNetworks  = 4
	labUplinks   = 3
	labShapers   = 3 // of the first endpoints
)

// lab is the real programs in a network namespace of their own, and the devices
// that random States plug ports into. Everything runs on its locked thread.
type lab struct {
	t       testing.TB
	do      chan func()
	coll    *ebpf.Collection
	tags    *bpfrun.Tagger
	fib     *datapath.FIB
	held    []io.Closer // sockets on ports of NAT
	sockets int         // how often explain met one of them
	tunnel  *bpfrun.Tunneller
	index   map[string]int
	mac     map[string]vswitch.MAC
	now     vswitch.Tables
	secs    uint64
	prio    uint32 // of the packet that was put in last, as it left
}

func endpointDev(i int) string { return fmt.Sprintf("e%d", i) }
func shaperDev(i int) string   { return fmt.Sprintf("s%d", i) }
func switchDev(i int) string   { return fmt.Sprintf("h%d", i) }
func nicDev(i int) string      { return fmt.Sprintf("h%d.p", i) }
func uplinkDev(i int) string   { return fmt.Sprintf("u%d", i) }

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: eBPF and network namespaces")
	}
	l := &lab{t: t, do: make(chan func()), index: map[string]int{}, mac: map[string]vswitch.MAC{}}
	spec, err := bpf.LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["unit"].Set(uint32(1)); err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = l.devices()
		}
		if err == nil {
			l.coll, err = ebpf.NewCollection(spec)
		}
		if err == nil { // nothing is reaped: the dead count in quotas here as there
			err = l.coll.Maps["reap"].Put(uint32(bpf.SwitchGhReapAtGH_REAP_BEAT), uint32(1<<30))
		}
		if err == nil {
			l.tags, err = bpfrun.NewTagger(l.coll.Programs["ep_in"], l.coll.Programs["uplink_in"])
		}
		if err == nil {
			l.fib, err = datapath.NewFIB()
		}
		if err == nil {
			err = l.hold()
		}
		if err == nil {
			l.tunnel, err = bpfrun.NewTunneller(l.coll.Programs["ep_in"])
		}
		ready <- err
		for f := range l.do {
			f()
		}
		close(done)
	}()
	err = <-ready
	t.Cleanup(func() {
		close(l.do)
		<-done
		for _, c := range l.held {
			c.Close()
		}
		if l.tags != nil {
			l.tags.Close()
		}
		if l.coll != nil {
			l.coll.Close()
		}
		if l.fib != nil {
			l.fib.Close()
		}
		if l.tunnel != nil {
			l.tunnel.Close()
		}
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return l
}

// hold binds some ports that NAT would take, by hand.
func (l *lab) hold() error {
	for _, port := range []int{20000, 20001, 25000, 12345} {
		p, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		l.held = append(l.held, p)
		t, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		l.held = append(l.held, t)
	}
	return nil
}

// in runs f on the lab's thread; it must not end the test.
func (l *lab) in(f func()) {
	end := make(chan struct{})
	l.do <- func() { defer close(end); f() }
	<-end
}

func (l *lab) devices() error {
	var b strings.Builder
	pair := func(name string, mac vswitch.MAC) {
		fmt.Fprintf(&b, "link add name %s address %v type veth peer name %s.p\nlink set %s up\nlink set %s.p up\n", name, mac, name, name, name)
		l.mac[name] = mac
	}
	fmt.Fprintln(&b, "link set lo up")
	pair(tunnelDev, vswitch.MAC{2, 4, 0, 0, 0, 1})
	pair("anchor", vswitch.MAC{2, 9, 0, 0, 0, 1})
	for i := range labEndpoints {
		pair(endpointDev(i), vswitch.MAC{2, 1, 0, 0, 0, byte(i)})
	}
	for i := range labShapers {
		pair(shaperDev(i), vswitch.MAC{2, 4, 0, 0, 0, byte(i)})
	}
	for i := range labNetworks {
		pair(switchDev(i), vswitch.MAC{2, 2, 0, 0, 0, byte(i)})
		fmt.Fprintf(&b, "addr add 192.168.%d.1/24 dev %s\n", 100+i, nicDev(i))
	}
	for i := range labUplinks {
		pair(uplinkDev(i), vswitch.MAC{2, 3, 0, 0, 0, byte(i)})
		fmt.Fprintf(&b, "addr add 10.%d.0.4/24 dev %s\naddr add fd00:a%d::4/64 dev %s nodad\n", i, uplinkDev(i), i, uplinkDev(i))
	}
	fmt.Fprint(&b, `route add default via 10.0.0.254 dev u0
route add default via inet6 fd00:a0::fe dev u0 metric 9
route add 203.0.113.0/24 via 10.1.0.254 dev u1 mtu lock 1300
route add 203.0.114.0/24 via inet6 fd00:a2::fe dev u2
route add prohibit 198.51.100.0/24
route add blackhole 198.51.101.0/24
route add 198.51.102.0/24 dev anchor.p
-6 route add default via fd00:a0::fe dev u0
-6 route add 2001:db8:1::/48 via fd00:a1::fe dev u1 mtu 1400
-6 route add prohibit 2001:db8:2::/48
neigh add 10.0.0.254 lladdr 02:00:00:00:00:98 dev u0
`)
	// -6 is an option of ip itself, not of a line.
	var v4, v6 []string
	for line := range strings.Lines(b.String()) {
		if rest, ok := strings.CutPrefix(line, "-6 "); ok {
			v6 = append(v6, rest)
		} else {
			v4 = append(v4, line)
		}
	}
	for _, run := range []struct {
		in   string
		args []string
	}{
		{strings.Join(v4, ""), []string{"ip", "-batch", "-"}},
		{strings.Join(v6, ""), []string{"ip", "-6", "-batch", "-"}},
		{"", []string{"sysctl", "-qw", "net.ipv4.conf.anchor.forwarding=1", "net.ipv6.conf.anchor.forwarding=1"}},
	} {
		cmd := exec.Command(run.args[0], run.args[1:]...)
		cmd.Stdin = strings.NewReader(run.in)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", run.args, err, out)
		}
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		l.index[i.Name] = i.Index
	}
	return nil
}

// apply makes the maps hold t, as the daemon's Apply does.
func (l *lab) apply(t vswitch.Tables) error {
	d := vswitch.Diff(l.now, t)
	for _, s := range d.Steps {
		m := l.coll.Maps[s.Map]
		for i := range s.Rows {
			k, v := s.At(i)
			var err error
			if v == nil {
				err = m.Delete(k)
			} else {
				err = m.Put(k, v)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.Map, err)
			}
		}
	}
	for _, e := range d.Epochs {
		var n uint32
		if err := l.coll.Maps["epoch"].Lookup(e, &n); err != nil {
			return err
		}
		if err := l.coll.Maps["epoch"].Put(e, n+1); err != nil {
			return err
		}
	}
	l.now = t
	return l.clock(0)
}

// twist changes some rows to what Compile does not make (yet): small pools,
// busy ports, ports with a rate.
// What it returns takes that back.
func (l *lab) twist(r *rand.Rand, rows *vswitch.Rows) (straighten func() error, err error) {
	var undo []func() error
	straighten = func() error {
		var errs []error
		for _, f := range undo {
			errs = append(errs, f())
		}
		undo = nil
		return errors.Join(errs...)
	}
	put := func(m string, k, was, is any) error {
		undo = append(undo, func() error { return l.coll.Maps[m].Put(k, was) })
		return l.coll.Maps[m].Put(k, is)
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(rows.NATPool)) {
		if was := rows.NATPool[id]; one(r, 3) {
			is := was
			is.Lo, is.Hi = 40000, uint16(40000+r.IntN(2))
			rows.NATPool[id] = is
			errs = append(errs, put("natpool", id, was, is))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(rows.Port)) {
		was := rows.Port[id]
		is := was
		if !one(r, 8) {
			continue
		}
		is.Flags |= uint8(bpf.SwitchGhPortFlagsGH_PORT_GUARD)
		is.Pps = uint32(1 + r.IntN(1000)) // each packet finds the bucket level
		rows.Port[id] = is
		errs = append(errs, put("port", id, was, is))
	}
	if one(r, 4) { // a crowded table, in which some ports have their share
		for i, n := range []uint32{110000, 30000} {
			errs = append(errs, put("fill", uint32(i), uint32(0), n))
		}
		for id := range rows.Port {
			if one(r, 4) {
				errs = append(errs, put("pflows", id, uint32(0), pickOf(r, []uint32{9000, ^uint32(2)})))
			}
		}
		if one(r, 2) {
			errs = append(errs, put("pflows", uint32(0), uint32(0), uint32(70000)))
		}
	}
	if one(r, 20) { // counted too low
		errs = append(errs, put("fill", uint32(r.IntN(2)), uint32(0), ^uint32(2)))
	}
	return straighten, errors.Join(errs...)
}

// clock moves time on.
func (l *lab) clock(by uint64) error {
	l.secs += by
	var c bpf.Cfg
	if err := l.coll.Maps["cfg"].Lookup(uint32(0), &c); err != nil {
		return err
	}
	c.ClockOffsetNs = l.secs * 1e9
	return l.coll.Maps["cfg"].Put(uint32(0), c)
}

func (l *lab) clear() error {
	for _, name := range []string{"flow4", "flow6", "frag4", "frag6", "affinity"} {
		m := l.coll.Maps[name]
		for {
			k, err := m.NextKeyBytes(nil)
			if err != nil {
				return err
			}
			if k == nil {
				break
			}
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
	}
	return nil
}

// run puts a frame in by the real program.
func (l *lab) run(p Packet, port uint32) (ret uint32, res bpf.Result, out []byte, err error) {
	if err := l.coll.Maps["result"].Put(uint32(0), bpf.Result{}); err != nil {
		return 0, res, nil, err
	}
	for _, id := range []uint32{port, uint32(labTunnel)} {
		if err := l.coll.Maps["rate"].Put(id, bpf.Rate{}); err != nil {
			return 0, res, nil, err
		}
	}
	prog, number := l.coll.Programs["ep_in"], 0
	if p.Uplink {
		prog, number = l.coll.Programs["uplink_in"], 1
	}
	if p.Tunnel != nil {
		if prog, err = l.tunnel.Program(p.Tunnel.VNI, p.Tunnel.From); err != nil {
			return 0, res, nil, err
		}
	}
	ctx := bpfrun.Context{Ifindex: uint32(p.Ifindex), IngressIfindex: uint32(p.Ifindex)}
	var after bpfrun.Context
	if p.VLAN {
		ret, out, after, err = l.tags.Run(number, p.TCI, &ctx, p.Frame, 256)
	} else {
		ret, out, after, err = bpfrun.Run(prog, &ctx, p.Frame, 256)
	}
	l.prio = after.Priority
	if err != nil {
		return ret, res, out, err
	}
	return ret, res, out, l.coll.Maps["result"].Lookup(uint32(0), &res)
}

// The lab is Live and FIB for Explain: what the kernel has at this moment.

func (l *lab) Flow4(k bpf.FlowKey4) (v bpf.Flow4, ok bool) {
	return v, l.coll.Maps["flow4"].Lookup(&k, &v) == nil
}

func (l *lab) Flow6(k bpf.FlowKey6) (v bpf.Flow6, ok bool) {
	return v, l.coll.Maps["flow6"].Lookup(&k, &v) == nil
}

func (l *lab) Frag4(k bpf.FragKey4) (v bpf.FragVal, ok bool) {
	return v, l.coll.Maps["frag4"].Lookup(&k, &v) == nil
}

func (l *lab) Frag6(k bpf.FragKey6) (v bpf.FragVal, ok bool) {
	return v, l.coll.Maps["frag6"].Lookup(&k, &v) == nil
}

func (l *lab) Affinity(k bpf.AffinityKey) (v bpf.AffinityVal, ok bool) {
	return v, l.coll.Maps["affinity"].Lookup(&k, &v) == nil
}

func (l *lab) Epoch(i uint32) (n uint32) {
	_ = l.coll.Maps["epoch"].Lookup(i, &n)
	return n
}

func (l *lab) Flows(port uint32) (n uint32) {
	_ = l.coll.Maps["pflows"].Lookup(port, &n)
	return n
}

func (l *lab) Fill(family uint8) (n uint32) {
	_ = l.coll.Maps["fill"].Lookup(uint32(family/6), &n)
	return n
}

func (l *lab) Second() uint32 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts)
	return uint32((uint64(ts.Nano()) + l.secs*1e9) / 1e9)
}

func (l *lab) Lookup(q FIBQuery) (FIBRoute, bool) {
	a, ok, err := l.fib.Lookup(q.Anchor, q.Src, q.Dst, q.Protocol, q.TOS)
	if err != nil {
		panic(err)
	}
	return FIBRoute(a), ok
}

func (l *lab) Socket(proto uint8, local, remote netip.AddrPort) bool {
	is, err := l.fib.Socket(proto, local, remote)
	if err != nil {
		panic(err)
	}
	l.sockets += btoi(is)
	return is
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// scene is a random switch and the words its packets are made of.
type scene struct {
	state  vswitch.State
	facts  vswitch.Facts
	tables vswitch.Tables
	rows   *vswitch.Rows
	ports  []scenePort
	addrs  []netip.Addr
}

type scenePort struct {
	ifindex int // where what it sends is taken up: its device, or its shaper's far end
	device  int // its device
	uplink  bool
	mac, gw vswitch.MAC
	addrs   []netip.Addr
	l2      bool // its network forwards by MAC
	net     vswitch.NetworkID
	tag     uint16 // its VLAN of a trunk
}
