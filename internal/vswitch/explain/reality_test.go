// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// reality is the lab with everything in its place: the programs are attached as
// the daemon attaches them, and the far ends of all devices are elsewhere, as
// containers and the wire are. Frames are sent and seen there.
type reality struct {
	lab
	dp   *datapath.Datapath
	ends map[string]int // raw sockets by the switch's device
	// own are the host's vNICs, which look for neighbours when they like.
	own map[[6]byte]bool
	// from is the sender of the frame that was sent last.
	from []byte
}

func newReality(t *testing.T) (*reality, *nettest.NS) {
	nettest.RequireRoot(t)
	host, far := nettest.NewNS(t), nettest.NewNS(t)
	r := &reality{lab: lab{t: t, index: map[string]int{}, mac: map[string]vswitch.MAC{}}, ends: map[string]int{}, own: map[[6]byte]bool{}}
	tag := fmt.Sprintf("%04x", os.Getpid()&0xffff)
	o := datapath.Options{Pins: "/sys/fs/bpf/gatehouse-explain-" + tag, Block: 0x47500000 | uint32(os.Getpid()&0xffff)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%+v", err)
		}
	}
	must(host.Do(r.devices))
	// Nothing speaks but the test: no neighbour discovery of the kernel's own at
	// ports, and known neighbours at uplinks.
	quiet := []string{"set -e"}
	sh := func(format string, args ...any) { quiet = append(quiet, fmt.Sprintf(format, args...)) }
	for name := range r.index {
		if name[0] == 's' { // a shaper: both ends of it here, its far end a port
			sh("ip link set %s mtu 4000; echo 1 > /proc/sys/net/ipv6/conf/%s/disable_ipv6", name, name)
			if strings.HasSuffix(name, ".p") {
				sh("tc qdisc add dev %s ingress_block %d clsact", name, o.Block)
			}
		}
		if !strings.ContainsRune("ehut", rune(name[0])) {
			continue
		}
		sh("ip link set %s mtu 4000", name)
		if name[0] == 'e' || name == tunnelDev || name[0] == 'h' && !strings.HasSuffix(name, ".p") {
			sh("echo 1 > /proc/sys/net/ipv6/conf/%s/disable_ipv6", name)
		}
		if strings.HasSuffix(name, ".p") && name[0] != 'h' {
			sh("ip link set %s netns %s", name, far.Path())
		}
		if (name[0] == 'e' || name[0] == 'h' || name == tunnelDev) && !strings.HasSuffix(name, ".p") {
			sh("tc qdisc add dev %s ingress_block %d clsact", name, o.Block)
		}
	}
	sh("tc qdisc add dev anchor ingress_block %d clsact", o.Block)
	for i := range labUplinks {
		for _, a := range neighboursOf(i) {
			sh("ip neigh replace %s lladdr 02:00:00:00:00:98 dev u%d nud permanent", a, i)
		}
	}
	script := func(ns *nettest.NS, lines []string) {
		out, err := ns.Command("sh", "-c", strings.Join(lines, "\n")).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	script(far, []string{"echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"})
	script(host, quiet)
	t.Cleanup(func() {
		for _, fd := range r.ends {
			unix.Close(fd)
		}
		if r.fib != nil {
			r.fib.Close()
		}
		if r.dp != nil {
			r.dp.Close()
		}
		if err := datapath.Destroy(o); err != nil {
			t.Error(err)
		}
	})
	open := func(name, far string) error {
		i, err := net.InterfaceByName(far)
		if err != nil {
			return err
		}
		if out, err := exec.Command("ip", "link", "set", far, "up", "mtu", "4000").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		r.ends[name] = fd
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		if name[0] == 'h' {
			r.own[[6]byte(i.HardwareAddr)] = true
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: i.Index})
	}
	for name := range r.index {
		if strings.HasSuffix(name, ".p") || name == "anchor" || name == "lo" || !strings.ContainsRune("ehut", rune(name[0])) {
			continue
		}
		at := far
		if name[0] == 'h' {
			at = host
		}
		must(at.Do(func() error { return open(name, name+".p") }))
	}
	must(host.Do(func() (err error) {
		if r.dp, err = datapath.Open(o); err != nil {
			return err
		}
		if r.fib, err = datapath.NewFIB(); err != nil {
			return err
		}
		r.coll = &ebpf.Collection{Maps: map[string]*ebpf.Map{}}
		for _, pattern := range []string{"state/*/*", "gen/*/maps/*"} {
			pins, _ := filepath.Glob(filepath.Join(o.Pins, pattern))
			for _, pin := range pins {
				m, err := ebpf.LoadPinnedMap(pin, nil)
				if err != nil {
					return err
				}
				t.Cleanup(func() { m.Close() })
				r.coll.Maps[filepath.Base(pin)] = m
			}
		}
		return nil
	}))
	return r, host
}

func htons(v uint16) uint16 { return be(v) }

// seenFrame is a frame that came to a far end.
type seenFrame struct {
	at   string
	data []byte
	tag  uint16 // beside it
}

// tagOf is the VLAN tag in the control messages of a packet socket: struct
// tpacket_auxdata, linux/if_packet.h.
func tagOf(oob []byte) uint16 {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		const status, tci = 0, 16
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 &&
			binary.NativeEndian.Uint32(m.Data[status:])&unix.TP_STATUS_VLAN_VALID != 0 {
			return binary.NativeEndian.Uint16(m.Data[tci:])
		}
	}
	return 0
}

// collect reads what arrived within wait; it returns early when n have.
func (r *reality) collect(n int, wait time.Duration) (seen []seenFrame) {
	buf, oob := make([]byte, 65536), make([]byte, 128)
	for end := time.Now().Add(wait); ; {
		for name, fd := range r.ends {
			for {
				size, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
				if err != nil {
					break
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
					continue
				}
				if f := (seenFrame{name, bytes.Clone(buf[:size]), tagOf(oob[:oobn])}); !r.noise(f) {
					seen = append(seen, f)
				}
			}
		}
		if len(seen) >= n && n > 0 || time.Now().After(end) {
			return seen
		}
	}
}

// noise is what the host's own stack says unasked: it looks for neighbours and
// routers, at its uplinks and its vNICs.
func (r *reality) noise(f seenFrame) bool {
	if len(f.data) < 14 || r.own[[6]byte(f.data[6:])] && f.data[0]&1 != 0 {
		return true
	}
	if f.at[0] == 'e' {
		// What the host says to all reaches ports of networks bound to its uplink.
		return f.data[0]&1 != 0 && !bytes.Equal(f.data[6:12], r.from) && slices.ContainsFunc(r.uplinkMACs(), func(m vswitch.MAC) bool { return m == [6]byte(f.data[6:12]) })
	}
	arp := u16(f.data[12:]) == ethARP
	solicits := len(f.data) > 54 && u16(f.data[12:]) == ethIP6 && f.data[20] == protoICMP6 && (f.data[54] == 135 || f.data[54] == 136)
	return f.at[0] == 'u' && f.data[0]&1 != 0 || arp || solicits
}

func (r *reality) uplinkMACs() (all []vswitch.MAC) {
	for i := range labUplinks {
		all = append(all, r.mac[uplinkDev(i)])
	}
	return all
}

func isICMP(f []byte) bool {
	return len(f) > 54 && (u16(f[12:]) == ethIP6 && f[20] == protoICMP6 || u16(f[12:]) == ethIP && f[23] == protoICMP)
}

// drops is how often each reason was counted at each port.
func (r *reality) drops() (map[bpf.DropKey]uint64, error) {
	n := map[bpf.DropKey]uint64{}
	var k bpf.DropKey
	var v []bpf.DropVal
	it := r.coll.Maps["drops"].Iterate()
	for it.Next(&k, &v) {
		for _, x := range v {
			n[k] += x.Packets
		}
	}
	return n, it.Err()
}

// try sends one frame and compares what happens with what Explain says.
func (r *reality) try(s *scene, at scenePort, tr *traffic, frame []byte) (string, error) {
	port := s.rows.IfPort[uint32(at.ifindex)]
	if err := r.coll.Maps["rate"].Put(port, bpf.Rate{}); err != nil {
		return "", err
	}
	if sub := s.rows.Segment[vswitch.SegmentKey{At: uint16(port), Vlan: at.tag}]; at.tag != 0 {
		if err := r.coll.Maps["rate"].Put(sub, bpf.Rate{}); err != nil {
			return "", err
		}
	}
	r.collect(0, 0)
	before, err := r.drops()
	if err != nil {
		return "", err
	}
	p := Packet{Ifindex: at.ifindex, Uplink: at.uplink, Frame: bytes.Clone(frame)}
	if tr.tagged && len(frame) > 14 && at.ifindex != r.index[tunnelDev] {
		p.VLAN, p.TCI = true, tr.tci
		frame = slices.Concat(frame[:12], []byte{0x81, 0, byte(tr.tci >> 8), byte(tr.tci)}, frame[12:])
	}
	t := Explain(Switch{Rows: s.rows, Live: r, FIB: r}, p)
	name := r.device(at.device)
	r.from = bytes.Clone(p.Frame[6:min(12, len(p.Frame))])
	second := r.Second()
	if _, err := unix.Write(r.ends[name], frame); err != nil {
		return "not sent", nil //nolint:nilerr // the kernel refuses frames that no device carries
	}
	n := 0
	switch {
	case t.Verdict == Forward && t.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_NEIGH && !r.neighbour(t):
	case r.toStack(s, t):
	case t.Verdict == Forward, (t.Verdict == Reply || t.Answer != "") && name[0] == 'e':
		n = 1
	case t.Verdict == Flood:
		n = t.Raw.Copies
	}
	n += len(t.Raw.Mirrors)
	// All of it happens inside of the write, but for what a busy CPU puts off.
	seen := r.collect(n, 200*time.Microsecond)
	if len(seen) < n && t.Verdict != Flood {
		seen = append(seen, r.collect(n-len(seen), 50*time.Millisecond)...)
	}
	after, err := r.drops()
	if err != nil {
		return "", err
	}
	what := string(t.Verdict)
	if t.Verdict == Drop {
		what += " " + t.Reason
	}
	rest, diff := r.withoutCopies(s, t, p.Frame, seen)
	if diff == "" {
		diff = r.differs(s, t, name, rest, before, after, n-len(t.Raw.Mirrors))
	}
	if diff != "" {
		if r.Second() != second {
			return "the second changed meanwhile", nil
		}
		var b strings.Builder
		for _, f := range seen {
			fmt.Fprintf(&b, "\n  at %s: %x", f.at, f.data)
		}
		return what, fmt.Errorf("%s\nsent at %s: %x%s\n%v", diff, name, frame, b.String(), t)
	}
	return what, nil
}

func (r *reality) device(ifindex int) string {
	for name, i := range r.index {
		if i == ifindex {
			return name
		}
	}
	return ""
}

// toStack: it is for the host behind an uplink that its network is bound to.
func (r *reality) toStack(s *scene, t Trace) bool {
	return t.Verdict == Forward && t.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_INGRESS &&
		bpf.PortKind(s.rows.Port[uint32(t.Out)].Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK
}

// differs says what happened otherwise than explained, "" for nothing. What the
// host's stack answers to what it got is none of the switch's.
func (r *reality) differs(s *scene, t Trace, in string, seen []seenFrame, before, after map[bpf.DropKey]uint64, want int) string {
	toHost := t.Verdict == Pass || t.Verdict == Flood || r.toStack(s, t)
	if t.Verdict == Forward {
		toHost = bpf.PortKind(s.rows.Port[uint32(t.Out)].Kind) == bpf.SwitchGhPortKindGH_PORT_HOST
	}
	counted := uint64(0)
	for k, n := range after {
		if k.Port == uint16(t.In) { // at other ports the host speaks when it likes
			counted += n - before[k]
		}
	}
	key := bpf.DropKey{Port: uint16(t.In), Reason: uint8(t.Raw.Reason), Layer: uint8(t.Raw.Layer)}
	switch {
	case t.Verdict == Drop && after[key]-before[key] != 1:
		return fmt.Sprintf("drop %v: counted %d times", key, after[key]-before[key])
	case t.Verdict == Drop && counted != 1 && in[0] != 'h', t.Verdict != Drop && !toHost && counted != 0:
		return fmt.Sprintf("%d drops were counted", counted)
	}
	if toHost && t.Verdict != Forward || r.toStack(s, t) {
		return ""
	}
	switch t.Verdict {
	case Forward:
		row := s.rows.Port[uint32(t.Out)]
		out := r.device(int(row.Ifindex))
		i := slices.IndexFunc(seen, func(f seenFrame) bool { return f.at == out })
		if i < 0 {
			if out[0] == 'u' && t.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_NEIGH && !r.neighbour(t) {
				return ""
			}
			if out[0] != 'e' && t.Raw.Layer == layL2 { // ARP and ND there are taken for noise
				return ""
			}
			return "it did not arrive at " + out
		}
		seen = slices.DeleteFunc(seen, func(f seenFrame) bool { // the host gives up on earlier fragments
			return f.at != out && f.at[0] != 'e' && isICMP(f.data)
		})
		i = slices.IndexFunc(seen, func(f seenFrame) bool { return f.at == out })
		if !toHost && len(seen) != 1 {
			return fmt.Sprintf("%d frames arrived", len(seen))
		}
		res := bpf.Result{OutKind: uint32(t.Raw.OutKind), OutIfindex: t.Raw.OutIfindex, OutPort: uint32(t.Out), Flow: uint32(t.Raw.Via), Tag: seen[i].tag}
		res.Tun, res.Vtep = t.Raw.VNI, t.Raw.VTEP // a plain device stands for the tunnel's
		if t.Raw.NextHop.IsValid() {
			res.Nh.B = t.Raw.NextHop.As16()
		}
		return forwardDiffers(t, res, seen[i].data)
	case Reply:
		if in[0] == 'e' && (len(seen) != 1 || seen[0].at != in) {
			return "it was not answered at " + in
		}
	case Drop:
		for _, f := range seen {
			if f.at[0] != 'e' && isICMP(f.data) { // the host gives up on earlier fragments
				continue
			}
			if t.Answer == "" || f.at != in {
				return "a dropped packet made a frame at " + f.at
			}
		}
		if len(seen) < want && in[0] == 'e' {
			return "the sender was not told"
		}
	}
	return ""
}

// neighboursOf is whose link address an uplink knows.
func neighboursOf(uplink int) []string {
	return []string{fmt.Sprintf("10.%d.0.254", uplink), fmt.Sprintf("10.%d.0.9", uplink), fmt.Sprintf("fd00:a%d::fe", uplink), fmt.Sprintf("fd00:a%d::9", uplink)}
}

// neighbour tells whether the next hop's link address is known.
func (r *reality) neighbour(t Trace) bool {
	for i := range labUplinks {
		if slices.Contains(neighboursOf(i), t.Raw.NextHop.String()) {
			return true
		}
	}
	return false
}

// TestReality holds Explain against what really happens to packets: programs
// attached as in production, frames sent and received at the far ends.
func TestReality(t *testing.T) {
	r, host := newReality(t)
	packets, seed := env("GATEHOUSE_REALITY_PACKETS", 2000), env("GATEHOUSE_EXPLAIN_SEED", 1)
	const perScene = 200
	seen := map[string]int{}
	for n := uint64(0); n < packets/perScene; n++ {
		err := host.Do(func() error { return r.scene(seed+n, perScene, seen) })
		if err != nil {
			t.Fatalf("scene %d: %v", seed+n, err)
		}
	}
	t.Log(seen)
	for _, want := range []string{"forward", "pass", "flood", "drop NO_ROUTE", "drop SPOOF_IP", "drop NOSTATE"} {
		if seen[want] == 0 {
			t.Errorf("never seen: %s", want)
		}
	}
}

func (r *reality) scene(seed uint64, packets int, seen map[string]int) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s, err := r.newScene(rnd)
	if err != nil {
		return err
	}
	apply := func() error { return r.dp.Apply(context.Background(), s.tables) }
	if err := errors.Join(r.clear(), apply()); err != nil {
		return err
	}
	tr := &traffic{scene: s, r: rnd}
	for i := range packets {
		if one(rnd, 40) {
			if err := errors.Join(s.change(rnd), apply()); err != nil {
				return err
			}
		}
		at, frame := tr.next()
		what, err := r.try(s, at, tr, frame)
		if err != nil {
			return fmt.Errorf("packet %d: %w", i, err)
		}
		seen[what]++
	}
	return nil
}
