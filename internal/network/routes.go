// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"bufio"
	"encoding/hex"
	"io"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/instance"
)

// hostRoutes reads the prefixes of the host's main tables, without those of our
// own devices.
func hostRoutes(inst instance.Instance) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, f := range []struct {
		path  string
		parse func(io.Reader, func(string) bool) []netip.Prefix
	}{
		{"/proc/thread-self/net/route", parseRoutes4},
		{"/proc/thread-self/net/ipv6_route", parseRoutes6},
	} {
		r, err := os.Open(f.path)
		if os.IsNotExist(err) {
			continue // a kernel without that family
		}
		if err != nil {
			return nil, err
		}
		out = append(out, f.parse(r, inst.OwnsDevice)...)
		r.Close()
	}
	return out, nil
}

// parseRoutes4 reads /proc/net/route (fib_route_seq_show, net/ipv4/fib_trie.c):
// device, destination and, in the eighth column, mask, as the hex digits of
// the numbers in memory.
func parseRoutes4(r io.Reader, ours func(string) bool) []netip.Prefix {
	var out []netip.Prefix
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || ours(f[0]) {
			continue
		}
		dst, err1 := strconv.ParseUint(f[1], 16, 32)
		mask, err2 := strconv.ParseUint(f[7], 16, 32)
		if err1 != nil || err2 != nil {
			continue // the heading
		}
		a := netip.AddrFrom4([4]byte{byte(dst), byte(dst >> 8), byte(dst >> 16), byte(dst >> 24)})
		out = append(out, netip.PrefixFrom(a, bits.OnesCount32(uint32(mask))).Masked())
	}
	return out
}

// parseRoutes6 reads /proc/net/ipv6_route (ipv6_route_native_seq_show,
// net/ipv6/ip6_fib.c): destination, length in hex, and the device at the end.
func parseRoutes6(r io.Reader, ours func(string) bool) []netip.Prefix {
	var out []netip.Prefix
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || ours(f[9]) || f[9] == "lo" {
			continue
		}
		raw, err1 := hex.DecodeString(f[0])
		n, err2 := strconv.ParseUint(f[1], 16, 8)
		a, ok := netip.AddrFromSlice(raw)
		if err1 != nil || err2 != nil || !ok || n > 128 || a.IsLinkLocalUnicast() || a.IsMulticast() {
			continue
		}
		out = append(out, netip.PrefixFrom(a, int(n)).Masked())
	}
	return out
}
