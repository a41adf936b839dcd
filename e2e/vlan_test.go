// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcn"
)

// ears hears every frame that comes in by a device of a network namespace.
func ears(t *testing.T, netns, device string) int {
	t.Helper()
	fd, err := within(netns, func() (int, error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return -1, err
		}
		i, err := net.InterfaceByName(device)
		if err == nil {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
				unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}),
				unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}))
		}
		return fd, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// tagOf is the VLAN of the first frame heard that speaks of an IPv4 address as its
// sender: -1 where it has none, -2 where nothing is heard.
func tagOf(fd int, sender string) int {
	want := net.ParseIP(sender).To4()
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		n, o, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
		if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || n < 34 || ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		source := buf[26:30] // of IPv4, after 14 bytes of Ethernet
		if binary.BigEndian.Uint16(buf[12:]) == unix.ETH_P_ARP {
			source = buf[28:32]
		}
		if !bytes.Equal(source, want) {
			continue
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:o])
		for _, m := range msgs { // struct tpacket_auxdata (linux/if_packet.h)
			if m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 && binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				return int(binary.NativeEndian.Uint16(m.Data[16:]))
			}
		}
		return -1
	}
	return -2
}

// TestVLANs: subnets and endpoints of one network in several VLANs of its uplink, and
// another network of the same prefix on the same wire.
//
//covers:subnet VLAN
//covers:endpoint VLAN
func TestVLANs(t *testing.T) {
	for _, typ := range []string{"Transparent", "L2Bridge"} {
		t.Run(typ, func(t *testing.T) {
			b := newDocBench(t)
			x := b.path(b.out)
			b.serve(x)
			wire := ears(t, x, "wire")
			network := func(name, subnets string) string {
				var n struct{ ID string }
				b.must("POST", "/networks", fmt.Sprintf(`{"Name":%q,"Type":%q,"Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"wire"}}],"Ipams":[{"Subnets":[%s]}]}`, name, typ, subnets), &n)
				t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
				return n.ID
			}
			const plain = `{"IpAddressPrefix":"198.51.100.0/24"}`
			one := network("one", plain+`,{"IpAddressPrefix":"198.51.101.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":5}}]}`)
			two := network("two", plain)
			type place struct{ id, netns, addr string }
			put := func(network, addr, policies string) place {
				t.Helper()
				var ns struct{ ID, NetNsPath string }
				b.must("POST", "/namespaces", `{}`, &ns)
				b.spaces = append(b.spaces, ns.ID)
				var e struct{ ID string }
				b.must("POST", "/networks/"+network+"/endpoints", fmt.Sprintf(`{"HostComputeNamespace":%q,"IpConfigurations":[{"IpAddress":%q}],"Policies":[%s]}`, ns.ID, addr, policies), &e)
				b.serve(ns.NetNsPath)
				return place{e.ID, ns.NetNsPath, addr}
			}
			a := put(one, "198.51.100.10", "")
			five, also := put(one, "198.51.101.10", ""), put(one, "198.51.101.11", "")
			nine := put(one, "198.51.100.11", `{"Type":"VLAN","Settings":{"IsolationId":9}}`)
			other := put(two, "198.51.100.12", "")
			b.refusedBy(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "POST", "/networks/"+two+"/endpoints", `{"IpConfigurations":[{"IpAddress":"198.51.100.10"}]}`)

			for _, way := range [][2]string{{a.netns, outV4}, {x, a.addr}, {a.netns, other.addr}, {other.netns, a.addr}, {other.netns, outV4}, {five.netns, also.addr}} {
				b.reaches(way[0], way[1]+":80")
			}
			b.unreached(nine.netns, a.addr+":80")
			b.unreached(a.netns, nine.addr+":80")
			for who, want := range map[place]int{a: -1, nine: 9, five: 5} {
				to := outV4
				if who == five {
					to = "198.51.101.99"
				}
				go func() { _, _ = ask(who.netns, to+":80") }()
				if got := tagOf(wire, who.addr); got != want {
					t.Errorf("frames of %s have tag %d on the wire, want %d", who.addr, got, want)
				}
			}
			// Moved while it is there.
			b.must("POST", "/endpoints/"+nine.id+"/modify", `{"ResourceType":"Policy","RequestType":"Remove","Settings":{"Policies":[{"Type":"VLAN"}]}}`, nil)
			b.reaches(nine.netns, a.addr+":80")
			b.reaches(x, nine.addr+":80")
		})
	}
}
