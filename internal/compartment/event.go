// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// event applies one message of rtnetlink(7). changed: links or addresses of
// others did; told: watchers should hear of it whatever the facts are. Messages
// that are too short or make no sense are as good as none. v.mu is held.
func (v *view) event(m *syscall.NetlinkMessage) (changed, told bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return v.linkEvent(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return v.addrEvent(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		changed := v.routeEvent(m)
		if changed {
			v.routes++
		}
		return false, changed
	case unix.RTM_DELQDISC:
		return false, v.qdiscEvent(m)
	}
	return false, false
}

func (v *view) linkEvent(m *syscall.NetlinkMessage) (changed, told bool) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return false, false
	}
	info := (*unix.IfInfomsg)(unsafe.Pointer(&m.Data[0]))
	index := int(info.Index)
	if info.Family != unix.AF_UNSPEC { // a bridge's port, told of in the bridge's family
		return false, false
	}
	if m.Header.Type == unix.RTM_DELLINK {
		l, known := v.links[index]
		delete(v.links, index)
		delete(v.addrs, index)
		delete(v.lifted, index)
		if v.expected[index] {
			delete(v.expected, index)
			return false, false
		}
		if known && l.ours {
			v.lost = append(v.lost, loss{name: l.name, index: index, device: true})
			return false, true
		}
		return known, false
	}
	l := link{
		up: info.Flags&unix.IFF_UP != 0, loopback: info.Flags&unix.IFF_LOOPBACK != 0,
		ethernet: info.Type == unix.ARPHRD_ETHER, carrier: info.Flags&unix.IFF_LOWER_UP != 0,
	}
	for kind, value := range attributes(m.Data[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			if len(value) == len(l.mac) {
				copy(l.mac[:], value)
			}
		case unix.IFLA_MTU:
			if len(value) >= 4 {
				l.mtu = int(binary.NativeEndian.Uint32(value))
			}
		}
	}
	l.ours = v.owns(l.name)
	old, known := v.links[index]
	v.links[index] = l
	if known && old == l {
		return false, false
	}
	return !l.ours || known && !old.ours, false
}

func (v *view) addrEvent(m *syscall.NetlinkMessage) (changed, told bool) {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false, false
	}
	info := (*unix.IfAddrmsg)(unsafe.Pointer(&m.Data[0]))
	index := int(info.Index)
	var local, remote netip.Addr
	for kind, value := range attributes(m.Data[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			remote, _ = netip.AddrFromSlice(value)
		}
	}
	if !local.IsValid() { // IPv6 has it only when there is a peer
		local = remote
	}
	p := netip.PrefixFrom(local, int(info.Prefixlen))
	if !p.IsValid() {
		return false, false
	}
	del := m.Header.Type == unix.RTM_DELADDR
	if l := v.links[index]; l.ours {
		if del && !v.expected[index] && !kernelsOwn(local) {
			v.lost = append(v.lost, loss{name: l.name, index: index})
			return false, true
		}
		return false, false
	}
	a := address{p, isGlobal(info.Scope)}
	have := slices.Index(v.addrs[index], a)
	switch {
	case del && have >= 0:
		v.addrs[index] = slices.Delete(v.addrs[index], have, have+1)
	case !del && have < 0:
		v.addrs[index] = append(v.addrs[index], a)
	default:
		return false, false // its lifetime changed
	}
	return true, false
}

// routeEvent: others' routes, which change where outbound traffic goes.
func (v *view) routeEvent(m *syscall.NetlinkMessage) bool {
	if len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	info := (*unix.RtMsg)(unsafe.Pointer(&m.Data[0]))
	if info.Flags&unix.RTM_F_CLONED != 0 || info.Protocol == unix.RTPROT_KERNEL {
		return false // cached, or a consequence of an address we hear of
	}
	switch info.Type {
	case unix.RTN_UNICAST, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
	default:
		return false // local
	}
	for kind, value := range attributes(m.Data[unix.SizeofRtMsg:]) {
		if kind == unix.RTA_OIF && len(value) >= 4 {
			return !v.links[int(binary.NativeEndian.Uint32(value))].ours
		}
	}
	return true
}

// qdiscEvent: "tc qdisc del" by somebody who did not know what it was for.
func (v *view) qdiscEvent(m *syscall.NetlinkMessage) bool {
	if len(m.Data) < nl.SizeofTcMsg {
		return false
	}
	index := int(nl.DeserializeTcMsg(m.Data).Ifindex)
	l := v.links[index]
	if !l.ours || v.expected[index] {
		return false
	}
	for kind, value := range attributes(m.Data[nl.SizeofTcMsg:]) {
		if kind != nl.TCA_KIND {
			continue
		}
		name := unix.ByteSliceToString(value)
		if name == "tbf" && v.lifted[index] {
			delete(v.lifted, index)
			return false
		}
		if name == "clsact" || name == "tbf" {
			v.lost = append(v.lost, loss{name: l.name, index: index})
			return true
		}
	}
	return false
}

// typeMask leaves out the flags of an attribute's type: NLA_TYPE_MASK,
// linux/netlink.h.
const typeMask = 0x3fff

// attributes walks over type and value of netlink attributes (struct nlattr,
// linux/netlink.h) and stops at the first that does not fit; the last may lack
// its padding.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) & typeMask
			if size < unix.NLA_HDRLEN || size > len(b) || !yield(kind, b[unix.NLA_HDRLEN:size]) {
				return
			}
			b = b[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
		}
	}
}
