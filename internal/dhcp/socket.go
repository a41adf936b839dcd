// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// listen opens a socket that hears the datagrams to a UDP port which come by a device,
// in a VLAN (0 = untagged), before the switch and the host's firewall do; what it
// sends leaves past both.
func listen(device *net.Interface, port, vlan uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // nothing until it is bound
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), device.Name)
	prog := filter(port, vlan)
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	for _, o := range []int{unix.PACKET_IGNORE_OUTGOING, unix.PACKET_QDISC_BYPASS} { // Linux 4.20, 3.14
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1)
		}
	}
	if err == nil {
		// Every protocol, in network order: what is bound to one comes after the switch.
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index})
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("packet socket", err)
	}
	return f, nil
}

// vlanTag is where a filter reads a frame's tag, which the kernel has taken out of it;
// 0 = there is none, or it says a priority only (linux/filter.h: SKF_AD_OFF + SKF_AD_VLAN_TAG).
const vlanTag = 0xfffff000 + 44

// filter passes whole UDP datagrams over IPv4 to a port, in one VLAN.
func filter(port, vlan uint16) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: vlanTag},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xfff},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 10, K: uint32(vlan)},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 8, K: unix.ETH_P_IP},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethLen + 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 6, K: unix.IPPROTO_UDP},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: ethLen + 6},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 4, K: 0x3fff},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethLen},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: ethLen + 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(port)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}
