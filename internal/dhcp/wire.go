// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"net"
	"net/netip"
	"os"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// uplinkWire is a packet socket on an uplink.
type uplinkWire struct {
	socket *os.File
	own    vswitch.MAC // source of the frames
	vlan   uint16
	in     chan message
	end    chan struct{}
}

// openWire opens the way to the segment of a client's endpoint.
func openWire(c model.DHCPClient) (wire, error) {
	dev, err := net.InterfaceByName(c.Uplink)
	if err != nil || len(dev.HardwareAddr) != 6 {
		return nil, unix.ENODEV
	}
	f, err := listen(c.Uplink, clientPort, c.VLAN)
	if err != nil {
		return nil, err
	}
	w := &uplinkWire{socket: f, own: c.MAC, vlan: c.VLAN, in: make(chan message), end: make(chan struct{})}
	if c.AsUplink {
		w.own = vswitch.MAC(dev.HardwareAddr)
	}
	// Some servers send to the client's MAC whatever it asks for.
	if err := hearMAC(f, dev.Index, c.MAC); err != nil {
		f.Close()
		return nil, err
	}
	go w.read(c.MAC)
	return w, nil
}

// hearMAC has the device take frames to a MAC as long as the socket is open.
func hearMAC(f *os.File, ifindex int, mac vswitch.MAC) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	req := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_UNICAST, Alen: 6}
	copy(req.Address[:], mac[:])
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &req)
	})
	if err == nil {
		err = serr
	}
	return err
}

// read ends with the socket.
func (w *uplinkWire) read(mac vswitch.MAC) {
	defer close(w.in)
	buf := make([]byte, 2048)
	for {
		n, err := w.socket.Read(buf)
		if err != nil {
			return
		}
		m := messageIn(buf[:n], clientPort, dhcpv4.OpcodeBootReply, mac)
		if m == nil {
			continue
		}
		select {
		case w.in <- message{m, vswitch.MAC(buf[6:12])}:
		case <-w.end:
			return
		}
	}
}

func (w *uplinkWire) heard() <-chan message { return w.in }

func (w *uplinkWire) send(m *dhcpv4.DHCPv4, from netip.Addr, to server) error {
	if to == (server{}) {
		to = server{broadcast, everybody}
	}
	f := datagram(to.mac, w.own, netip.AddrPortFrom(from, clientPort), netip.AddrPortFrom(to.addr, serverPort), m.ToBytes())
	_, err := w.socket.Write(tagged(f, w.vlan))
	return err
}

func (w *uplinkWire) close() {
	close(w.end)
	w.socket.Close()
}
