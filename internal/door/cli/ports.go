// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// publish is one port of the host that leads to one of the container.
type publish struct {
	Proto    uint32 // 6, 17, 132
	HostIP   netip.Addr
	HostPort uint16 // 0 = the daemon chooses
	Port     uint16
}

// parsePublish reads -p: [IP:][HOST:]CTR[/PROTO], where HOST and CTR are ports or
// ranges of equal length and an IPv6 address stands in brackets.
func parsePublish(arg string) ([]publish, error) {
	bad := func(why string) ([]publish, error) {
		return nil, fmt.Errorf("-p %q: %s; write HOST:CTR, IP:HOST:CTR or CTR, with /udp or /sctp if it is not TCP", arg, why)
	}
	spec, name, hasProto := strings.Cut(arg, "/")
	proto := uint32(6)
	if hasProto {
		switch strings.ToLower(name) {
		case "tcp":
		case "udp":
			proto = 17
		case "sctp":
			proto = 132
		default:
			return bad(fmt.Sprintf("unknown protocol %q", name))
		}
	}
	var ip netip.Addr
	if rest, ok := strings.CutPrefix(spec, "["); ok {
		a, after, ok := strings.Cut(rest, "]")
		if !ok || !strings.HasPrefix(after, ":") {
			return bad("an IPv6 address ends with ]:")
		}
		v, err := netip.ParseAddr(a)
		if err != nil || !v.Is6() {
			return bad(fmt.Sprintf("%q is not an IPv6 address", a))
		}
		ip, spec = v, after[1:]
		if strings.Count(spec, ":") != 1 {
			return bad("after the address come HOST:CTR")
		}
	} else if strings.Count(spec, ":") == 2 {
		a, after, _ := strings.Cut(spec, ":")
		v, err := netip.ParseAddr(a)
		if err != nil {
			return bad(fmt.Sprintf("%q is not an IP address", a))
		}
		ip, spec = v, after
	} else if strings.Count(spec, ":") > 2 {
		return bad("an IPv6 address stands in brackets")
	}
	host, ctr, both := strings.Cut(spec, ":")
	if !both {
		host, ctr = "", host
	}
	cLo, cHi, err := portRange(ctr)
	if err != nil {
		return bad("container port " + err.Error())
	}
	if host == "" {
		var out []publish
		for p := int(cLo); p <= int(cHi); p++ {
			out = append(out, publish{proto, ip, 0, uint16(p)})
		}
		return out, nil
	}
	hLo, hHi, err := portRange(host)
	if err != nil {
		return bad("host port " + err.Error())
	}
	if hHi-hLo != cHi-cLo {
		return bad(fmt.Sprintf("%d host ports for %d container ports", int(hHi-hLo)+1, int(cHi-cLo)+1))
	}
	var out []publish
	for i := 0; i <= int(hHi-hLo); i++ {
		out = append(out, publish{proto, ip, hLo + uint16(i), cLo + uint16(i)})
	}
	return out, nil
}

func portRange(s string) (lo, hi uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	if lo, err = port(a); err != nil {
		return 0, 0, err
	}
	if hi, err = port(b); err != nil {
		return 0, 0, err
	}
	if hi < lo {
		return 0, 0, fmt.Errorf("range %q runs backwards", s)
	}
	return lo, hi, nil
}

func port(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not within 1..65535", s)
	}
	return uint16(n), nil
}

// protoName is the name of an IP protocol as people write it after a port.
func protoName(p uint32) string {
	switch p {
	case 0, 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.FormatUint(uint64(p), 10)
}
