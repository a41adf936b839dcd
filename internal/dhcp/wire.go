// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// ears are packet sockets on uplinks. Each costs every packet there a look, so clients
// of one segment share it, and it is open while one of them waits for an answer.
type ears struct {
	mu sync.Mutex
	on map[segment]*ear
}

// segment of an uplink; VLAN 0 = untagged.
type segment struct {
	uplink string
	vlan   uint16
}

type ear struct {
	socket *os.File
	dev    *net.Interface
	wires  map[*uplinkWire]bool // guarded by ears.mu
}

// uplinkWire is what one client has of an ear.
type uplinkWire struct {
	all *ears
	ear *ear
	at  segment
	mac vswitch.MAC  // of the client
	own vswitch.MAC  // source of its frames
	in  chan message // closed with the ear's socket
}

// backlog is how many messages wait for a client; more are lost, as on any wire.
const backlog = 8

// open opens the way to the segment of a client's endpoint.
func (e *ears) open(c model.DHCPClient) (wire, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := segment{c.Uplink, c.VLAN}
	o := e.on[at]
	if o == nil {
		dev, err := net.InterfaceByName(c.Uplink)
		if err != nil || len(dev.HardwareAddr) != 6 {
			return nil, unix.ENODEV
		}
		f, err := listen(dev, clientPort, c.VLAN)
		if err != nil {
			return nil, err
		}
		o = &ear{socket: f, dev: dev, wires: map[*uplinkWire]bool{}}
		e.on[at] = o
		go e.read(at, o)
	}
	w := &uplinkWire{all: e, ear: o, at: at, mac: c.MAC, own: c.MAC, in: make(chan message, backlog)}
	if c.AsUplink {
		w.own = vswitch.MAC(o.dev.HardwareAddr)
	}
	o.wires[w] = true
	// Some servers send to the client's MAC whatever it asks for.
	if err := o.hear(unix.PACKET_ADD_MEMBERSHIP, c.MAC); err != nil {
		e.leave(w)
		return nil, err
	}
	return w, nil
}

// hear has the device take frames to a MAC, or no more.
func (o *ear) hear(how int, mac vswitch.MAC) error {
	raw, err := o.socket.SyscallConn()
	if err != nil {
		return err
	}
	req := unix.PacketMreq{Ifindex: int32(o.dev.Index), Type: unix.PACKET_MR_UNICAST, Alen: 6}
	copy(req.Address[:], mac[:])
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, how, &req) }); err != nil {
		return err
	}
	return os.NewSyscallError("packet membership", serr)
}

// read hands messages to the clients they are for. It ends with the socket, or the device.
func (e *ears) read(at segment, o *ear) {
	buf := make([]byte, 2048)
	for {
		n, err := o.socket.Read(buf)
		e.mu.Lock()
		if err != nil {
			o.socket.Close()
			if e.on[at] == o {
				delete(e.on, at)
			}
			for w := range o.wires {
				close(w.in)
			}
			clear(o.wires)
			e.mu.Unlock()
			return
		}
		if m := messageIn(buf[:n], clientPort, dhcpv4.OpcodeBootReply); m != nil {
			for w := range o.wires {
				if w.mac == vswitch.MAC(m.ClientHWAddr) {
					select {
					case w.in <- message{m, vswitch.MAC(buf[6:12])}:
					default:
					}
				}
			}
		}
		e.mu.Unlock()
	}
}

// leave gives up a client's part; the last one takes the socket along. e.mu is held.
func (e *ears) leave(w *uplinkWire) {
	if !w.ear.wires[w] {
		return // it broke
	}
	delete(w.ear.wires, w)
	if len(w.ear.wires) == 0 {
		w.ear.socket.Close()
		delete(e.on, w.at)
	}
}

func (w *uplinkWire) heard() <-chan message { return w.in }

func (w *uplinkWire) send(m *dhcpv4.DHCPv4, from netip.Addr, to server) error {
	if to == (server{}) {
		to = server{broadcast, everybody}
	}
	f := datagram(to.mac, w.own, netip.AddrPortFrom(from, clientPort), netip.AddrPortFrom(to.addr, serverPort), m.ToBytes())
	_, err := w.ear.socket.Write(tagged(f, w.at.vlan))
	return err
}

func (w *uplinkWire) close() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	if w.ear.wires[w] {
		_ = w.ear.hear(unix.PACKET_DROP_MEMBERSHIP, w.mac) // it ends with the socket at the latest
	}
	w.all.leave(w)
}
