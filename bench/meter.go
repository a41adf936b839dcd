// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Return values of tc programs, linux/pkt_cls.h.
const (
	tcOK   = 0
	tcShot = 2
)

// skbLen is the offset of len in struct __sk_buff, linux/bpf.h.
const skbLen = 0

// meter counts the small datagrams that arrive at a device and takes them away,
// so that the receiver costs next to nothing and only the way is measured.
type meter struct {
	hits *ebpf.Map
	prog *ebpf.Program
}

// frameSizes of newFlows and udpSource, IPv4 and IPv6.
var frameSizes = []int32{14 + 20 + 8 + payload, 14 + 40 + 8 + payload}

func newMeter() (*meter, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	hits, err := ebpf.NewMap(&ebpf.MapSpec{Name: "ghbench_hits", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "ghbench_meter", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbLen, asm.Word),
		asm.JEq.Imm(asm.R2, frameSizes[0], "count"),
		asm.JEq.Imm(asm.R2, frameSizes[1], "count"),
		asm.Mov.Imm(asm.R0, tcOK),
		asm.Return(),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word).WithSymbol("count"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, hits.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, tcShot).WithSymbol("out"),
		asm.Return(),
	}})
	if err != nil {
		hits.Close()
		return nil, fmt.Errorf("load the meter: %w", err)
	}
	return &meter{hits: hits, prog: prog}, nil
}

func (m *meter) close() {
	m.hits.Close()
	m.prog.Close()
}

func (m *meter) count() uint64 {
	var all []uint64
	if m.hits.Lookup(uint32(0), &all) != nil {
		return 0
	}
	sum := uint64(0)
	for _, n := range all {
		sum += n
	}
	return sum
}

// fixedRedirect is a program that sends every packet to one device: the least a
// switch of eBPF can do. peer: into the namespace behind it.
func fixedRedirect(ifindex int, peer bool) (*ebpf.Program, error) {
	call := asm.FnRedirect
	if peer {
		call = asm.FnRedirectPeer
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "ghbench_redir", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		call.Call(),
		asm.Return(),
	}})
}

// handle is netlink inside the namespace; it closes with the subject.
func (n *node) handle() *netlink.Handle {
	if n.s.err != nil {
		return nil
	}
	ns, err := netns.GetFromPath(n.path)
	if err != nil {
		n.s.fail(fmt.Errorf("%s: %w", n.path, err))
		return nil
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		n.s.fail(fmt.Errorf("%s: netlink: %w", n.path, err))
		return nil
	}
	n.s.b.defer_(h.Close)
	return h
}

// attach runs a program on what comes in by a device.
func (n *node) attach(dev string, p *ebpf.Program) {
	h := n.handle()
	if n.s.err != nil {
		return
	}
	link, err := h.LinkByName(dev)
	if err != nil {
		n.s.fail(fmt.Errorf("%s: %s: %w", n.name, dev, err))
		return
	}
	attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	if err := h.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); err != nil && !errors.Is(err, unix.EEXIST) {
		n.s.fail(fmt.Errorf("%s: clsact on %s: %w", n.name, dev, err))
		return
	}
	err = h.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          p.FD(), Name: "ghbench", DirectAction: true,
	})
	if err != nil {
		n.s.fail(fmt.Errorf("%s: filter on %s: %w", n.name, dev, err))
	}
}

// flushConntrack forgets the connections that the namespace's netfilter tracks.
func (n *node) flushConntrack() func() error {
	h := n.handle()
	if h == nil {
		return nil
	}
	return func() error { return h.ConntrackTableFlush(netlink.ConntrackTable) }
}

// programCost is how often a program ran and how long, by the kernel's account.
type programCost struct {
	name string
	runs uint64
	ns   uint64
}

// programCosts lists the pinned programs that have run.
func programCosts(pins []string) map[ebpf.ProgramID]programCost {
	all := map[ebpf.ProgramID]programCost{}
	for i, dir := range pins {
		host := ""
		if len(pins) > 1 {
			host = fmt.Sprintf(" (host %d)", i+1)
		}
		paths, _ := filepath.Glob(filepath.Join(dir, "gen", "*", "progs", "*"))
		for _, path := range paths {
			p, err := ebpf.LoadPinnedProgram(path, nil)
			if err != nil {
				continue
			}
			if info, err := p.Info(); err == nil {
				id, _ := info.ID()
				if s, err := p.Stats(); err == nil && s.RunCount > 0 {
					all[id] = programCost{info.Name + host, s.RunCount, uint64(s.Runtime)}
				}
			}
			p.Close()
		}
	}
	return all
}

// profiler has the kernel keep the time that programs take.
type profiler struct {
	pins   []string
	before map[ebpf.ProgramID]programCost
	stats  io.Closer
}

func profile(pins []string) (*profiler, error) {
	c, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("program statistics: %w", err)
	}
	return &profiler{pins: pins, stats: c, before: programCosts(pins)}, nil
}

// end describes what the programs did for each of so many packets.
func (p *profiler) end(packets float64) string {
	after := programCosts(p.pins)
	p.stats.Close()
	var list []programCost
	for id, a := range after {
		b := p.before[id]
		a.runs, a.ns = a.runs-b.runs, a.ns-b.ns
		if float64(a.runs) > packets/20 {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b programCost) int { return int(b.ns) - int(a.ns) })
	var out []string
	for _, c := range list {
		times := ""
		if r := float64(c.runs) / packets; r < 0.95 || r > 1.05 {
			times = fmt.Sprintf(" × %.2f", r)
		}
		out = append(out, fmt.Sprintf("%s %.0f ns%s", c.name, float64(c.ns)/float64(c.runs), times))
	}
	return strings.Join(out, ", ")
}
