// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Ensure makes and changes what want says and the kernel has not, and removes
// nothing that want leaves out (Prune does). It looks at what differs from the
// last call only; the first call looks at the kernel. The facts are valid also
// with an error, which joins what went wrong with each object; the others are
// done all the same.
func (h *Host) Ensure(ctx context.Context, want model.Desired) (vswitch.Facts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ensure(ctx, want)
}

// Verify is Ensure without trust in what was done before.
func (h *Host) Verify(ctx context.Context, want model.Desired) (vswitch.Facts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	return h.ensure(ctx, want)
}

func (h *Host) ensure(ctx context.Context, want model.Desired) (vswitch.Facts, error) {
	first := !h.loaded
	if err := h.load(); err != nil {
		return h.facts(), fmt.Errorf("compartments: %w", err)
	}
	h.noteLosses()
	h.view.bind(want.Switch.Networks)
	if err := h.ensureAnchor(); err != nil {
		return h.facts(), fmt.Errorf("compartments: anchor: %w", err)
	}
	follow := h.view.mtus()
	var errs []error
	for i := range want.HostNICs {
		if err := ctx.Err(); err != nil {
			return h.facts(), errors.Join(append(errs, err)...)
		}
		n := &want.HostNICs[i]
		if err := h.ensureNIC(n, n.Fit(follow.least)); err != nil {
			errs = append(errs, fmt.Errorf("host vNIC %s: %w", n.Name, err))
		}
	}
	for i := range want.Tunnels {
		if err := h.ensureTunnel(&want.Tunnels[i]); err != nil {
			errs = append(errs, fmt.Errorf("tunnel %s: %w", want.Tunnels[i].Name, err))
		}
	}
	for i := range want.Taps {
		t := &want.Taps[i]
		if err := h.ensureTap(t, t.Fit(follow.at(t.Uplink))); err != nil {
			errs = append(errs, fmt.Errorf("tap %s of endpoint %s: %w", t.Name, t.Endpoint, err))
		}
	}
	if err := h.ensureCompartments(ctx, want, follow, first); err != nil {
		errs = append(errs, err)
	}
	if err := ctx.Err(); err != nil {
		return h.facts(), errors.Join(append(errs, err)...)
	}
	ports := want.Switch.Limited()
	if len(h.shaped) > 0 { // some of which may have their bounds no more
		ports = want.Switch.AllPorts()
	}
	for p := range ports {
		if err := h.ensureShaping(p); err != nil {
			errs = append(errs, fmt.Errorf("limits of port %d (%s): %w", p.ID, p.Object, err))
		}
	}
	if first {
		if err := h.unlimit(want); err != nil {
			errs = append(errs, err)
		}
	}
	return h.facts(), errors.Join(errs...)
}

// noteLosses marks what the watcher saw others take away.
func (h *Host) noteLosses() {
	lost, all := h.view.losses()
	if len(lost) == 0 && !all {
		return
	}
	h.kept = nil
	byIndex := make(map[int]string, len(h.devices))
	for name, index := range h.devices {
		byIndex[index] = name
	}
	if all { // events were missed: look at everything of ours once more
		h.log.Warn("network events were missed, looking again")
		devices := h.devices
		h.forgetDevices()
		h.loaded = false
		if err := h.load(); err != nil {
			h.devices, h.told = devices, nil
			h.log.Error("look at devices again", "err", err)
			return
		}
		for name, index := range devices {
			if h.devices[name] != index {
				lost = append(lost, loss{name: name, index: index, device: true})
			}
		}
		for _, n := range h.nics {
			n.broken = true
		}
		for _, n := range h.tunnels {
			n.broken = true
		}
		for _, t := range h.taps {
			t.broken = true
		}
		if !h.joined[h.anchor] {
			h.anchor = 0
		}
		for _, c := range h.comps {
			for port, v := range c.vnics {
				if v.want.Host || !h.joined[h.devices[port]] {
					c.broken, v.broken = true, true
				}
			}
		}
		for port, s := range h.shaped {
			s.index = 0 // equals nothing that is there, so its queues are set once more
			h.shaped[port] = s
		}
	}
	owner := map[string]func(){}
	for _, n := range h.nics {
		owner[n.want.Name] = func() { n.broken = true }
		owner[n.want.SwitchName] = owner[n.want.Name]
	}
	for name, n := range h.tunnels {
		owner[name] = func() { n.broken = true }
	}
	for name, t := range h.taps {
		owner[name] = func() { t.broken = true }
	}
	for _, c := range h.comps {
		for _, v := range c.vnics {
			for _, end := range endsOf(&v.want) {
				owner[end] = func() { c.broken, v.broken = true, true }
			}
		}
	}
	for port, s := range h.shaped {
		again := func() { delete(h.shaped, port) }
		owner[s.near], owner[s.far] = again, again
		if of := owner[port]; of != nil {
			owner[port] = func() { of(); again() }
		} else {
			owner[port] = again
		}
	}
	for _, l := range lost {
		name, ours := byIndex[l.index]
		if !ours {
			continue // pruned by ourselves, or made again since
		}
		h.log.Warn("a device of ours was changed by somebody else, repairing", "device", name, "deleted", l.device)
		delete(h.joined, l.index)
		delete(h.queued, l.index)
		if l.device && h.devices[name] == l.index {
			h.dropDevice(name)
		}
		if l.index == h.anchor || name == h.inst.AnchorPeer() {
			h.anchor = 0
		}
		if mark := owner[name]; mark != nil {
			mark()
		}
	}
}

// ensureAnchor makes the pair that keeps the block alive. It joins before any
// other port, so that the block and its filter outlast them all.
func (h *Host) ensureAnchor() error {
	if h.anchor != 0 {
		return nil
	}
	name, peer := h.inst.AnchorDevice(), h.inst.AnchorPeer()
	index, err := h.ensurePair(name, peer, vswitch.MAC{}, 1500)
	if err != nil {
		return err
	}
	// Forwarding on the input device is what lets bpf_fib_lookup answer.
	if err := h.sysctl4(name, "forwarding", "1"); err != nil {
		return err
	}
	if err := h.sysctl6(name, "addr_gen_mode", "1", "accept_ra", "0", "disable_ipv6", "0", "forwarding", "1"); err != nil {
		return err
	}
	if err := h.sysctl6(peer, "disable_ipv6", "1"); err != nil {
		return err
	}
	if err := h.join(index, name); err != nil {
		return err
	}
	for dev, i := range map[string]int{name: index, peer: h.devices[peer]} {
		if err := setUp(h.nl, i, dev); err != nil {
			return err
		}
	}
	h.anchor = index
	return nil
}

// ensurePair makes near and far, both in the host's namespace, or adopts them
// when they are the ends of one veth, and returns near's index.
func (h *Host) ensurePair(near, far string, mac vswitch.MAC, mtu int) (int, error) {
	a, err := findLink(h.nl, near)
	if err != nil {
		return 0, err
	}
	b, err := findLink(h.nl, far)
	if err != nil {
		return 0, err
	}
	if a != nil && b != nil && paired(a, b) && !h.reaper.pending(a.Attrs().Index) && !h.reaper.pending(b.Attrs().Index) {
		h.setDevice(near, a.Attrs().Index)
		h.setDevice(far, b.Attrs().Index)
		if err := fit(h.nl, a, mac, mtu); err != nil {
			return 0, err
		}
		return a.Attrs().Index, fit(h.nl, b, vswitch.MAC{}, mtu)
	}
	if a != nil {
		if err := h.deleteNow(a.Attrs().Index, near); err != nil {
			return 0, err
		}
	}
	if b != nil {
		if err := h.deleteNow(b.Attrs().Index, far); err != nil {
			return 0, err
		}
	}
	index, err := h.addVeth(end{name: near, mac: mac, mtu: mtu}, end{name: far, mtu: mtu, ns: -1})
	if err != nil {
		return 0, err
	}
	h.setDevice(near, index)
	if b, err = findLink(h.nl, far); err != nil {
		return 0, err
	}
	if b == nil {
		return 0, fmt.Errorf("device %s is gone: %w", far, errdefs.ErrUnavailable)
	}
	h.setDevice(far, b.Attrs().Index)
	return index, nil
}

func (h *Host) ensureNIC(n *model.HostNIC, mtu int) error {
	rec := h.nics[n.Name]
	if rec != nil && !rec.broken && rec.mtu == mtu && sameNIC(&rec.want, n) {
		return nil
	}
	if rec == nil {
		rec = &nicRecord{}
		h.nics[n.Name] = rec
	}
	rec.want, rec.mtu, rec.broken = *n, mtu, true
	index, err := h.ensurePair(n.Name, n.SwitchName, n.MAC, mtu)
	if err != nil {
		return err
	}
	// The switch side has no business with the host's stack.
	if err := h.sysctl6(n.SwitchName, "disable_ipv6", "1"); err != nil {
		return err
	}
	if err := h.hostSide(n.Name, n.Addrs); err != nil {
		return err
	}
	switchIndex := h.devices[n.SwitchName]
	if err := h.join(switchIndex, n.SwitchName); err != nil {
		return err
	}
	if err := setUp(h.nl, switchIndex, n.SwitchName); err != nil {
		return err
	}
	if err := setUp(h.nl, index, n.Name); err != nil {
		return err
	}
	if err := fill(h.nl, index, content{addrs: n.Addrs}, false); err != nil {
		return err
	}
	rec.broken = false
	return nil
}

// hostSide sets up a device that has addresses of a network in the host's stack.
func (h *Host) hostSide(name string, addrs []netip.Prefix) error {
	// Loose reverse path: what the switch sends may come from any compartment.
	// ARP speaks only of the network's own address, whatever else the host has.
	if err := h.sysctl4(name, "rp_filter", "2", "arp_announce", "2", "arp_ignore", "1",
		"accept_redirects", "0", "send_redirects", "0"); err != nil {
		return err
	}
	off := "1"
	for _, a := range addrs {
		if a.Addr().Is6() {
			off = "0"
		}
	}
	return h.sysctl6(name, "accept_ra", "0", "router_solicitations", "0", "accept_dad", "0", "dad_transmits", "0",
		"accept_redirects", "0", "disable_ipv6", off)
}

// keptPart is a part of the compartments that is as wanted.
type keptPart struct {
	part []model.Compartment
	ends int // how many ends of its vNICs are in the host's namespace; -1 = not counted
}

// ensureCompartments brings all in line, but looks into no part that was as wanted
// the last time and is the same one again.
func (h *Host) ensureCompartments(ctx context.Context, want model.Desired, follow *mtus, first bool) error {
	var errs []error
	ensure := func(list []model.Compartment) (whole bool) {
		whole = true
		for i := range list {
			if err := ctx.Err(); err != nil {
				return false
			}
			if err := h.ensureCompartment(&list[i], follow, first); err != nil {
				errs = append(errs, fmt.Errorf("compartment %s: %w", list[i].ID, err))
				whole = false
			}
		}
		return whole
	}
	was := h.kept
	if h.follows != follow {
		was = nil
	}
	h.kept, h.follows = make([]*keptPart, len(want.CompartmentParts)), follow
	for k, part := range want.CompartmentParts {
		if k < len(was) && was[k].holds(part) {
			h.kept[k] = was[k]
		} else if ensure(part) {
			h.kept[k] = &keptPart{part, -1}
		}
	}
	ensure(want.Compartments)
	return errors.Join(errs...)
}

// holds reports whether k is of the part, without a look at what is in it.
func (k *keptPart) holds(part []model.Compartment) bool {
	return k != nil && len(k.part) == len(part) && (len(part) == 0 || &k.part[0] == &part[0])
}

// ensureCompartment brings one compartment in line.
func (h *Host) ensureCompartment(c *model.Compartment, follow *mtus, first bool) error {
	rec := h.comps[c.ID]
	if rec != nil && !rec.broken && rec.follows == follow && rec.path == c.Path && same(rec.last, c.VNICs, sameVNIC) &&
		same(rec.redirects, c.Redirects, sameRedirect) {
		rec.last = c.VNICs
		return nil
	}
	changed := rec == nil || slices.ContainsFunc(c.VNICs, func(v model.VNIC) bool { return rec.vnics[v.PortName] == nil })
	if rec == nil {
		rec = &compRecord{id: c.ID, vnics: map[string]*record{}}
		h.comps[c.ID] = rec
	}
	rec.path, rec.foreign, rec.broken = c.Path, c.Foreign, true
	if delete(h.foreign, c.ID); c.Foreign {
		h.foreign[c.ID] = rec
	}
	ns, fresh, err := h.namespaceFor(c)
	if errors.Is(err, errdefs.ErrNotFound) && (first || !changed) {
		// Whoever handed it in took it away; that must not stop the others, and
		// its endpoints go when their owner says so.
		for i := range c.VNICs {
			rec.vnics[c.VNICs[i].PortName] = &record{want: c.VNICs[i], broken: true}
		}
		if !rec.dead {
			h.log.Warn("a compartment's namespace is gone", "compartment", c.ID, "path", c.Path)
		}
		rec.dead, rec.broken, rec.follows, rec.last = true, false, follow, c.VNICs
		rec.redirects, rec.looked = c.Redirects, false
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.close()
	rec.dead = false
	if err := h.ensureRedirects(ns, c, rec, fresh); err != nil {
		return err
	}
	for i := range c.VNICs {
		v := &c.VNICs[i]
		mtu := v.Fit(follow.at(v.Uplink))
		r := rec.vnics[v.PortName]
		if r != nil && !r.broken && r.mtu == mtu && sameVNIC(&r.want, v) {
			continue
		}
		if r == nil {
			r = &record{}
			rec.vnics[v.PortName] = r
		}
		r.want, r.mtu, r.broken = *v, mtu, true
		if err := h.ensureVNIC(ns, v, mtu, fresh); err != nil {
			return fmt.Errorf("vNIC %s: %w", v.Name, err)
		}
		r.broken = false
	}
	rec.last, rec.follows, rec.broken = c.VNICs, follow, false
	return nil
}

// namespaceFor opens the compartment's namespace and makes it when it is ours and
// not there; fresh says that it is empty.
func (h *Host) namespaceFor(c *model.Compartment) (ns *namespace, fresh bool, err error) {
	there, err := isNamespace(c.Path)
	if err != nil {
		return nil, false, err
	}
	if there {
		if ns, err = openAt(c.Path); err != nil || c.Foreign {
			return ns, false, err
		}
		if err := loopbackUp(ns.nl); err != nil { // killed in between
			ns.close()
			return nil, false, err
		}
		return ns, false, nil
	}
	if c.Foreign {
		return nil, false, fmt.Errorf("no network namespace at %s: %w", c.Path, errdefs.ErrNotFound)
	}
	if ns, err = h.pool.take(); err != nil {
		return nil, false, err
	}
	if err := ns.mountAt(c.Path); err != nil {
		ns.close()
		return nil, false, err
	}
	if err := failpoint.Hit("compartment.namespace"); err != nil {
		ns.close()
		return nil, false, err
	}
	return ns, true, nil
}

// ensureVNIC makes or adopts one interface. The host side is in the block and up
// before the other end can send its first packet.
func (h *Host) ensureVNIC(ns *namespace, v *model.VNIC, mtu int, fresh bool) error {
	index, inner, err := h.adopt(ns, v, mtu, fresh)
	if err != nil {
		return err
	}
	made := index == 0
	if made {
		if index, err = h.addVNIC(ns, v, mtu); err != nil {
			return err
		}
		h.setDevice(v.PortName, index)
		if err := failpoint.Hit("compartment.device"); err != nil {
			return err
		}
	}
	if err := h.join(index, v.PortName); err != nil {
		return err
	}
	if err := h.sysctl6(v.PortName, "disable_ipv6", "1"); err != nil {
		return err
	}
	if !made || v.Alias != "" {
		if err := h.setAlias(index, v.PortName, v.Alias); err != nil {
			return err
		}
	}
	if err := setUp(h.nl, index, v.PortName); err != nil {
		return err
	}
	if made {
		l, err := findLink(ns.nl, v.Name)
		if err != nil {
			return err
		}
		if l == nil {
			return fmt.Errorf("device %s is gone: %w", v.Name, errdefs.ErrUnavailable)
		}
		inner = l.Attrs().Index
	}
	if v.Host {
		h.setDevice(v.Name, inner)
		if err := h.hostSide(v.Name, v.Addrs); err != nil {
			return err
		}
	}
	if err := setUp(ns.nl, inner, v.Name); err != nil {
		return err
	}
	return fill(ns.nl, inner, contentOf(*v), made)
}

// adopt finds the pair when both ends are where they belong and fits them; it
// clears away a half of it, and answers 0 when there is none.
func (h *Host) adopt(ns *namespace, v *model.VNIC, mtu int, fresh bool) (index, inner int, err error) {
	if _, known := h.devices[v.PortName]; !known {
		return 0, 0, nil
	}
	near, err := findLink(h.nl, v.PortName)
	if err != nil || near == nil {
		return 0, 0, err
	}
	if !fresh {
		far, err := findLink(ns.nl, v.Name)
		if err != nil {
			return 0, 0, err
		}
		if far != nil && paired(near, far) {
			h.setDevice(v.PortName, near.Attrs().Index)
			if err := fit(h.nl, near, vswitch.MAC{}, mtu); err != nil {
				return 0, 0, err
			}
			return near.Attrs().Index, far.Attrs().Index, fit(ns.nl, far, v.MAC, mtu)
		}
	}
	if err := h.deleteNow(near.Attrs().Index, v.PortName); err != nil {
		return 0, 0, err // it is still ours to remove
	}
	h.dropDevice(v.PortName)
	return 0, 0, nil
}

// addVNIC makes the pair. A name may still be taken by a device that was pruned
// and is not gone yet: then it goes now.
func (h *Host) addVNIC(ns *namespace, v *model.VNIC, mtu int) (int, error) {
	near, far := end{name: v.PortName, mtu: mtu}, end{name: v.Name, mac: v.MAC, mtu: mtu, ns: ns.fd}
	index, err := h.addVeth(near, far)
	if !errors.Is(err, unix.EEXIST) {
		return index, err
	}
	if old, ferr := findLink(h.nl, v.PortName); ferr != nil {
		return 0, ferr
	} else if old != nil {
		if err := h.deleteNow(old.Attrs().Index, v.PortName); err != nil {
			return 0, err
		}
	}
	if err := h.clear(ns, v.Name); err != nil {
		return 0, err
	}
	return h.addVeth(near, far)
}

// clear removes an interface of a compartment, if it is the end of a pair of ours.
func (h *Host) clear(ns *namespace, name string) error {
	old, err := findLink(ns.nl, name)
	if err != nil || old == nil {
		return err
	}
	near, err := h.nl.LinkByIndex(old.Attrs().ParentIndex)
	if err != nil || !h.inst.OwnsDevice(near.Attrs().Name) || !paired(near, old) {
		// Or it goes this very moment, its other end first: that was pruned.
		ctx, cancel := context.WithTimeout(context.Background(), goneLimit)
		defer cancel()
		if err := h.reaper.settle(ctx); err != nil {
			return fmt.Errorf("wait for devices that go: %w", err)
		}
		still, err := findLink(ns.nl, name)
		if err == nil && still != nil && still.Attrs().Index == old.Attrs().Index {
			err = fmt.Errorf("interface %s is there already and not ours: %w", name, errdefs.ErrAlreadyExists)
		}
		return err
	}
	if _, used := h.devices[near.Attrs().Name]; used && !h.reaper.pending(near.Attrs().Index) {
		h.log.Warn("an unwanted vNIC is in the way", "device", near.Attrs().Name)
	}
	if err := h.deleteNow(near.Attrs().Index, near.Attrs().Name); err != nil {
		return err
	}
	h.dropDevice(near.Attrs().Name)
	return nil
}

// goneLimit ends the wait for devices that are being deleted.
const goneLimit = 5 * time.Second
