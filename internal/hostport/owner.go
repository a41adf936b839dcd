// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hostport

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// findOwner looks for the process that has a port; "" when it cannot be found:
// a socket bound but not listening is in no table of /proc.
func findOwner(k key) (process string, pid int) {
	inodes := map[string]bool{}
	for _, name := range map[uint8][]string{
		unix.IPPROTO_TCP: {"tcp", "tcp6"}, unix.IPPROTO_UDP: {"udp", "udp6"},
	}[k.proto] {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if err != nil {
			continue
		}
		for _, s := range parseSockets(f) {
			if s.port == k.port && s.inode != "0" && overlap(s.addr, k.addr) {
				inodes["socket:["+s.inode+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return "", 0
	}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return "", 0
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + d.Name()
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // ended, or not ours to see
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && inodes[to] {
				comm, _ := os.ReadFile(dir + "/comm")
				return strings.TrimSpace(string(comm)), pid
			}
		}
	}
	return "", 0
}

func overlap(a, b netip.Addr) bool {
	return !a.IsValid() || !b.IsValid() || a.IsUnspecified() || a == b
}

type socket struct {
	addr  netip.Addr
	port  uint16
	inode string
}

// parseSockets reads /proc/net/{tcp,udp}{,6}, proc_net_tcp(5):
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//	 0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17634 ...
//
// Lines that are not like this are passed over.
func parseSockets(r io.Reader) []socket {
	var all []socket
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		addr, port, ok := parseLocal(f[1])
		if !ok {
			continue
		}
		all = append(all, socket{addr: addr, port: port, inode: f[9]})
	}
	return all
}

// parseLocal: the address is written as 32-bit words in the machine's byte order.
func parseLocal(s string) (netip.Addr, uint16, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.Addr{}, 0, false
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.Addr{}, 0, false
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr.Unmap(), uint16(p), true
}
