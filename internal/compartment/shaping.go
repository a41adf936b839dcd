// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// shaping is what the limits of a port need of devices, by name and ifindex: a
// queue on the vNIC's host side, and a pair whose near end has one.
type shaping struct {
	ingress, egress uint64 // bytes a second
	index           int    // 0 = not there
	near, far       string
	nearIndex       int
	farIndex        int
}

func (h *Host) shapingOf(p *vswitch.Port) shaping {
	s := shaping{ingress: p.IngressBps, egress: p.EgressBps, index: h.devices[p.Interface]}
	if s.egress != 0 {
		s.near, s.far = p.Shaper, p.ShaperPeer
		s.nearIndex, s.farIndex = h.devices[s.near], h.devices[s.far]
	}
	return s
}

// shaperMTU is more than any vNIC sends: the pair must never be what refuses a packet.
const shaperMTU = 65535

// ensureShaping makes the limits of a port true. The devices of the pair are
// ready before the switch hears of them; Prune takes away what is not wanted.
func (h *Host) ensureShaping(p *vswitch.Port) error {
	was, limited := h.shaped[p.Interface]
	if !limited && p.IngressBps == 0 && p.EgressBps == 0 {
		return nil
	}
	want := h.shapingOf(p)
	if limited && want == was {
		return nil
	}
	delete(h.shaped, p.Interface)
	if want.index == 0 {
		return nil // a tap that somebody else makes, later
	}
	if want.egress != 0 {
		if err := h.ensureShaper(&want); err != nil {
			return err
		}
	}
	if err := h.limit(want.index, p.Interface, want.ingress); err != nil {
		return err
	}
	if want.ingress != 0 || want.egress != 0 {
		h.shaped[p.Interface] = want
	}
	return nil
}

func (h *Host) ensureShaper(s *shaping) (err error) {
	if s.nearIndex, err = h.ensurePair(s.near, s.far, vswitch.MAC{}, shaperMTU); err != nil {
		return err
	}
	s.farIndex = h.devices[s.far]
	for _, name := range []string{s.near, s.far} {
		if err := h.sysctl6(name, "disable_ipv6", "1"); err != nil {
			return err
		}
	}
	if err := h.limit(s.nearIndex, s.near, s.egress); err != nil {
		return err
	}
	if err := h.join(s.farIndex, s.far); err != nil {
		return err
	}
	if err := setUp(h.nl, s.farIndex, s.far); err != nil {
		return err
	}
	return setUp(h.nl, s.nearIndex, s.near)
}

const (
	// A queue's burst must take the largest GSO packet whole (64 KiB and headers),
	// and what the rate brings in a tick of the slowest usual kernel (HZ=250).
	burstLeast = 66 << 10
	ticksPerS  = 250
	// Behind it waits as much as is sent in a twentieth of a second, at least twice
	// the burst: enough for TCP to keep the rate.
	queuePerS = 20
)

// limit puts a token bucket of rate bytes a second on a device, 0 takes it away.
func (h *Host) limit(index int, name string, rate uint64) error {
	if rate == 0 {
		if !h.queued[index] {
			return nil
		}
		h.view.expectQdisc(index)
		err := h.nl.QdiscDel(&netlink.Tbf{QdiscAttrs: tbfAttrs(index)})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("take the limit off %s: %w", name, err)
		}
		delete(h.queued, index)
		return nil
	}
	burst := max(burstLeast, rate/ticksPerS)
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	q := &netlink.Tbf{
		QdiscAttrs: tbfAttrs(index), Rate: rate,
		Buffer: netlink.Xmittime(rate, uint32(burst)), Limit: uint32(min(max(2*burst, rate/queuePerS), 1<<31)),
	}
	if err := h.nl.QdiscReplace(q); err != nil {
		return fmt.Errorf("limit %s to %d bytes a second: %w", name, rate, err)
	}
	h.queued[index] = true
	return nil
}

// queueHandle is 1:0, by which the queues of devices of ours are known as ours.
const queueHandle = 1 << 16

func tbfAttrs(index int) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_ROOT, Handle: queueHandle}
}

// unlimit takes off devices that stay the limits that an earlier life left.
func (h *Host) unlimit(want model.Desired) error {
	limited := map[string]bool{}
	for p := range want.Switch.Limited() {
		if p.IngressBps != 0 {
			limited[p.Interface] = true
		}
		if p.EgressBps != 0 {
			limited[p.Shaper] = true
		}
	}
	var errs []error
	for name, index := range h.devices {
		if h.queued[index] && !limited[name] {
			errs = append(errs, h.limit(index, name, 0))
		}
	}
	return errors.Join(errs...)
}
