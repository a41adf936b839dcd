// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// movedPrefix begins the name of the pin of a link on its way to the front.
const movedPrefix = "moved_"

// moveTCXFirst gets our program before the others of a device. A link keeps its
// place, and a program can be at a device only once; so another instance of the
// program, over the same maps, is attached at the head, and only then the old
// link goes. In between both are there, which does no harm: what the first
// leaves to others the second leaves too.
func (d *Datapath) moveTCXFirst(ifindex int) error {
	p, err := d.otherUplinkProgram(ifindex)
	if err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if err != nil {
		return err
	}
	defer l.Close()
	path := d.linkPin(uplinkPin(ifindex))
	way := d.linkPin(movedPrefix + uplinkPin(ifindex))
	if err := detachPin(way); err != nil { // of a move that was killed
		return err
	}
	if err := l.Pin(way); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	if err := detachPin(path); err != nil {
		return err
	}
	return os.Rename(way, path)
}

// otherUplinkProgram is the instance of the uplinks' program that is not at work
// at a device. The second one is loaded when it is asked for.
func (d *Datapath) otherUplinkProgram(ifindex int) (*ebpf.Program, error) {
	l, err := link.LoadPinnedLink(d.linkPin(uplinkPin(ifindex)), nil)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	first, err := d.gen.program(uplinkProgram)
	if err != nil {
		return nil, err
	}
	if info.Program != programID(first) {
		return first, nil
	}
	if d.gen.second != nil {
		return d.gen.second, nil
	}
	spec, err := d.loadSpec()
	if err != nil {
		return nil, err
	}
	ps := spec.Programs[uplinkProgram]
	for i := range ps.Instructions {
		ins := &ps.Instructions[i]
		if !ins.IsLoadFromMap() {
			continue
		}
		m := d.gen.coll.Maps[ins.Reference()]
		if m == nil {
			return nil, fmt.Errorf("map %s: not in the object", ins.Reference())
		}
		if err := ins.AssociateMap(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", ins.Reference(), err)
		}
	}
	p, err := ebpf.NewProgram(ps)
	if err != nil {
		return nil, fmt.Errorf("load %s again: %w", uplinkProgram, err)
	}
	// Pinned with its generation, which is known by its programs.
	if err := p.Pin(filepath.Join(d.gen.dir, "progs", uplinkProgram+"_second")); err != nil {
		p.Close()
		return nil, err
	}
	d.gen.second = p
	return p, nil
}
