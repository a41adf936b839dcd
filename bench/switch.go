// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// switchHost is a host whose switch is ours, without the daemon: a namespace and a
// process in it that compiles and applies what it is told. So a measurement needs
// no document, and the switch is the one that the daemon drives.
//
//	outside -- up0 [host] gw <pair> switch -- containers
type switchHost struct {
	*node
	State vswitch.State
	Facts vswitch.Facts
	pins  string
	block uint32
	first vswitch.PortID // of the containers
	child *child
}

const (
	benchNetwork vswitch.NetworkID = 1
	hostPort     vswitch.PortID    = 1
	firstPort    vswitch.PortID    = 10
)

// subnets of a switch host number i.
func gateway4(i int) string { return fmt.Sprintf("10.%d.0.1", 100+i) }
func gateway6(i int) string { return fmt.Sprintf("fd00:%d::1", 100+i) }

// bareSwitch makes a host without networks; i numbers its block.
func (s *scope) bareSwitch(name string, i int) *switchHost {
	h := &switchHost{node: s.node(name), pins: "/sys/fs/bpf/ghbench-" + name, block: 0x67480000 + uint32(i), first: firstPort}
	h.Facts = vswitch.Facts{Ifindex: map[string]int{}}
	h.ip("link add name anchor type veth peer name anchor1", "link set dev anchor up", "link set dev anchor1 up")
	h.sysctl("net/ipv4/conf/anchor/forwarding=1", "net/ipv6/conf/anchor/forwarding=1")
	h.join("anchor")
	h.Facts.Anchor = h.Facts.Ifindex["anchor"]
	return h
}

// switchHost makes host number i with a network that has the flags.
func (s *scope) switchHost(name string, i int, flags vswitch.NetFlags) *switchHost {
	h := s.bareSwitch(name, i)
	h.ip("link add name sw type veth peer name nic", "link set dev sw up", "link set dev nic up")
	h.join("sw")
	h.Facts.Ifindex["nic"] = h.device("nic").Ifindex
	gw4, gw6 := gateway4(i), gateway6(i)
	h.addr("nic", gw4+"/16", gw6+"/64")
	h.State = vswitch.State{
		Networks: []vswitch.Network{{
			ID: benchNetwork, Zone: 1, Name: "bench", HostPort: hostPort, Flags: flags,
			Subnets: []vswitch.Subnet{subnet(gw4, 16), subnet(gw6, 64)},
		}},
		Ports: []vswitch.Port{{
			ID: hostPort, Kind: vswitch.PortHost, Network: benchNetwork, Object: "bench", Interface: "sw", HostNIC: "nic",
			MAC: mac(h.device("nic")), Up: true,
		}},
	}
	h.Facts.HostAddrs = []netip.Addr{netip.MustParseAddr(gw4), netip.MustParseAddr(gw6)}
	return h
}

func subnet(gateway string, bits int) vswitch.Subnet {
	g := netip.MustParseAddr(gateway)
	return vswitch.Subnet{Prefix: netip.PrefixFrom(g, bits).Masked(), Gateway: g}
}

func mac(d device) (m vswitch.MAC) { copy(m[:], d.mac); return m }

// join makes a device a member of the switch and a fact.
func (h *switchHost) join(dev string) {
	h.run("", "tc", "qdisc", "add", "dev", dev, "ingress_block", strconv.FormatUint(uint64(h.block), 10), "clsact")
	h.Facts.Ifindex[dev] = h.device(dev).Ifindex
}

// container plugs in a namespace; its addresses end in its port's number.
func (h *switchHost) container(name string) (*node, vswitch.Port) {
	id := h.first + vswitch.PortID(len(h.State.Ports))
	n := h.s.node(name)
	dev := fmt.Sprintf("p%d", id)
	h.s.veth(h.node, dev, n, "eth0")
	h.join(dev)
	p := vswitch.Port{
		ID: id, Kind: vswitch.PortContainer, Network: benchNetwork, Object: name, Interface: dev, MAC: mac(n.device("eth0")), Up: true,
	}
	h.address(n, &p)
	h.State.Ports = append(h.State.Ports, p)
	return n, p
}

// hostOf is address number n of a subnet.
func hostOf(sub vswitch.Subnet, n int) netip.Addr {
	a := sub.Prefix.Addr().As16()
	a[15] = byte(n)
	if sub.Prefix.Addr().Is4() {
		return netip.AddrFrom16(a).Unmap()
	}
	return netip.AddrFrom16(a)
}

// address gives a port the addresses of its number, and its far end too.
func (h *switchHost) address(n *node, p *vswitch.Port) {
	for _, sub := range h.State.Networks[0].Subnets {
		addr := hostOf(sub, int(p.ID))
		p.Addrs = append(p.Addrs, addr)
		n.addr("eth0", netip.PrefixFrom(addr, sub.Prefix.Bits()).String())
		if sub.Gateway.IsValid() {
			n.ip(fmt.Sprintf("route add default via %s dev eth0", sub.Gateway))
		}
	}
}

// uplink makes a device of the host that carries these addresses an uplink.
func (h *switchHost) uplink(dev string, cidrs ...string) {
	d := h.device(dev)
	h.addr(dev, cidrs...)
	u := vswitch.Uplink{Name: dev, Ifindex: d.Ifindex, MAC: mac(d), MTU: d.MTU}
	for _, c := range cidrs {
		p := netip.MustParsePrefix(c)
		u.Addrs = append(u.Addrs, p)
		h.Facts.HostAddrs = append(h.Facts.HostAddrs, p.Addr())
	}
	h.Facts.Uplinks = append(h.Facts.Uplinks, u)
}

// publish maps a port of the host to the same port of a container, TCP and UDP.
func (h *switchHost) publish(p vswitch.Port, port uint16) {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for _, a := range p.Addrs {
			h.State.Mappings = append(h.State.Mappings, vswitch.PortMapping{
				Object: p.Object, Proto: proto, HostPort: port, Port: p.ID, Addr: a, AddrPort: port,
			})
		}
	}
}

// order is one line for the process in the namespace, answer what comes back.
type order struct {
	Options *datapath.Options `json:",omitempty"`
	State   vswitch.State
	Facts   vswitch.Facts
	Drops   bool
	Sweep   bool
}

type answer struct {
	Err            string
	Compile, Apply time.Duration
	Rows           int64
	Drops          string
}

type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
}

// start loads the programs. The switch and its pins end with the subject.
func (h *switchHost) start() {
	if h.s.err != nil {
		return
	}
	self, err := os.Executable()
	if err != nil {
		h.s.fail(err)
		return
	}
	w := h.in(self, "peer", "switch")
	c := &child{cmd: exec.Command(w[0], w[1:]...)}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		h.s.fail(err)
		return
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		h.s.fail(err)
		return
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	h.s.fail(h.s.b.begin(c.cmd))
	if h.s.err != nil {
		return
	}
	h.child = c
	h.s.b.defer_(func() {
		c.in.Close() // which has it destroy the switch
		t := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
		_ = c.cmd.Wait()
		t.Stop()
		os.RemoveAll(h.pins)
	})
	_, err = h.order(order{Options: &datapath.Options{Pins: h.pins, Block: h.block}})
	h.s.fail(err)
}

func (h *switchHost) order(o order) (answer, error) {
	var a answer
	if err := h.child.enc.Encode(o); err != nil {
		return a, fmt.Errorf("switch of %s: %w", h.name, err)
	}
	if err := h.child.dec.Decode(&a); err != nil {
		return a, fmt.Errorf("switch of %s: %w", h.name, err)
	}
	if a.Err != "" {
		return a, fmt.Errorf("switch of %s: %s", h.name, a.Err)
	}
	return a, nil
}

// apply makes the host's State so.
func (h *switchHost) apply() (a answer) {
	if h.s.err != nil {
		return a
	}
	if h.child == nil {
		h.start()
	}
	if h.s.err == nil {
		var err error
		a, err = h.order(order{State: h.State, Facts: h.Facts})
		h.s.fail(err)
	}
	return a
}

func (h *switchHost) drops() (string, error) {
	a, err := h.order(order{Drops: true})
	return a.Drops, err
}

// forgetFlows empties the flow tables and has the sweeper count anew.
func (h *switchHost) forgetFlows() error {
	err := errors.Join(emptyMap[bpf.FlowKey4, bpf.Flow4](h.pins, bpf.SwitchMapFlow4), emptyMap[bpf.FlowKey6, bpf.Flow6](h.pins, bpf.SwitchMapFlow6))
	if err == nil {
		_, err = h.order(order{Sweep: true})
	}
	return err
}

func emptyMap[K, V any](pins, name string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "state", "v"+bpf.StateLayout, name), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	keys, values := make([]K, 4096), make([]V, 4096)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
		if n == 0 {
			return nil
		}
	}
}

// switchChild obeys orders until its input ends.
func switchChild() error {
	var (
		c     vswitch.Compiler
		parts serviceParts
		d     *datapath.Datapath
		o     datapath.Options
		in    = json.NewDecoder(os.Stdin)
		out   = json.NewEncoder(os.Stdout)
	)
	cookie, err := netnsCookie()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	defer func() {
		cancel()
		if d != nil {
			<-done
			d.Close()
			_ = datapath.Destroy(o)
		}
	}()
	for {
		var w order
		if err := in.Decode(&w); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var a answer
		err := func() error {
			switch {
			case w.Options != nil:
				o = *w.Options
				if err := datapath.Destroy(o); err != nil { // of a bench that was killed
					return err
				}
				if d, err = datapath.Open(o); err != nil {
					return err
				}
				go func() { _ = d.Run(ctx); close(done) }()
				return nil
			case w.Sweep:
				_, err := d.Sweep()
				return err
			case w.Drops:
				all, err := d.Drops()
				if err != nil {
					return err
				}
				var lines []string
				for _, x := range all[:min(5, len(all))] {
					lines = append(lines, fmt.Sprintf("port %d: %s in %s × %d", x.Port, x.Reason, x.Layer, x.Packets))
				}
				a.Drops = strings.Join(lines, "; ")
				return nil
			}
			w.Facts.NetnsCookie = cookie
			parts.take(&w.State)
			rows, t0 := d.Metrics().RowsWritten, time.Now()
			t, err := c.Compile(w.State, w.Facts)
			if err != nil {
				return err
			}
			t1 := time.Now()
			if err := d.Apply(ctx, t); err != nil {
				return err
			}
			a.Compile, a.Apply, a.Rows = t1.Sub(t0), time.Since(t1), d.Metrics().RowsWritten-rows
			return nil
		}()
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// serviceParts hands services over as the daemon does, whose model keeps the parts in
// which nothing changed; what comes as JSON is another State as a whole.
type serviceParts [256]*vswitch.ServicePart

func (p *serviceParts) take(s *vswitch.State) {
	var in [len(p)][]vswitch.Service
	for _, x := range s.Services {
		i := int(x.ID) % len(p)
		in[i] = append(in[i], x)
	}
	for i, list := range in {
		switch was := p[i]; {
		case list == nil:
			p[i] = nil
		case was == nil || !reflect.DeepEqual(was.Services, list):
			p[i] = vswitch.NewServicePart(list)
		}
	}
	s.Services, s.ServiceParts = nil, slices.Clone(p[:])
}

// netnsCookie names the namespace of this process, SO_NETNS_COOKIE.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// path is the way between two places through this host's switch.
func (h *switchHost) path(name string, client, server *node, dev string, addr4, addr6 string) *path {
	return &path{name: name, client: client, server: server, dev: dev, addr4: addr4, addr6: addr6, flush: h.forgetFlows, fresh: true, why: h.drops, pins: []string{h.pins}}
}

func (h *switchHost) addrsOf(id vswitch.PortID) (string, string) {
	i := slices.IndexFunc(h.State.Ports, func(p vswitch.Port) bool { return p.ID == id })
	a := h.State.Ports[i].Addrs
	return a[0].String(), a[1].String()
}
