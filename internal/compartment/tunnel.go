// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// tunnelMTU is the most a VXLAN device takes (ETH_MAX_MTU). The switch says how
// much fits to each tunnel end; the device must not know better.
const tunnelMTU = 65535

type tunnelRecord struct {
	want   model.Tunnel
	broken bool
}

// ensureTunnel makes a VXLAN device without an idea of its own where frames go
// (collect-metadata mode: the programs say it for each), or adopts it.
func (h *Host) ensureTunnel(n *model.Tunnel) error {
	rec := h.tunnels[n.Name]
	if rec != nil && !rec.broken && rec.want == *n {
		return nil
	}
	if rec == nil {
		rec = &tunnelRecord{}
		h.tunnels[n.Name] = rec
	}
	rec.want, rec.broken = *n, true
	l, err := findLink(h.nl, n.Name)
	if err != nil {
		return err
	}
	if l != nil && (!isTunnel(l, n) || h.reaper.pending(l.Attrs().Index)) {
		if err := h.deleteNow(l.Attrs().Index, n.Name); err != nil {
			return err
		}
		l = nil
	}
	if l == nil {
		attrs := netlink.NewLinkAttrs()
		if err := failpoint.Hit("compartment.call"); err != nil {
			return err
		}
		attrs.Name, attrs.MTU = n.Name, tunnelMTU
		// Senders over IPv6 need not sum the outer datagram (RFC 6935).
		v := &netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(n.UDPPort), UDP6ZeroCSumRx: true}
		if err := h.nl.LinkAdd(v); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add tunnel %s: another device takes VXLAN on UDP port %d; remove it or choose another port: %w", n.Name, n.UDPPort, err)
		} else if err != nil {
			return fmt.Errorf("add tunnel %s: %w", n.Name, err)
		}
		l = v
	} else if err := fit(h.nl, l, [6]byte{}, tunnelMTU); err != nil {
		return err
	}
	index := l.Attrs().Index
	h.setDevice(n.Name, index)
	// The host's stack has no business with it.
	if err := h.sysctl6(n.Name, "disable_ipv6", "1"); err != nil {
		return err
	}
	if err := h.join(index, n.Name); err != nil {
		return err
	}
	if err := setUp(h.nl, index, n.Name); errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is taken by a socket of the host: %w", n.UDPPort, err)
	} else if err != nil {
		return err
	}
	rec.broken = false
	return nil
}

// isTunnel reports whether a device that is there can serve as n.
func isTunnel(l netlink.Link, n *model.Tunnel) bool {
	v, ok := l.(*netlink.Vxlan)
	return ok && v.FlowBased && v.Port == int(n.UDPPort) && v.UDP6ZeroCSumRx && !v.Learning
}
