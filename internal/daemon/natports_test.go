// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/door/host"
)

func TestNATPorts(t *testing.T) {
	for _, c := range []struct {
		local, reserved string
		want, found, do string
	}{
		{"32768\t60999\n", "\n", host.OK, "10000-29999, sockets of the host get 32768-60999", ""},
		{"1024 9999", "", host.OK, "1024-9999", ""},
		{"30000 60999", "", host.OK, "", ""},
		{"15000\t64000\n", "\n", host.Warn, "10000-29999, sockets of the host get 15000-64000 (net.ipv4.ip_local_port_range); both take 15000", "sysctl -w net.ipv4.ip_local_reserved_ports=10000-29999,"},
		{"1024 65535", "", host.Warn, "both take 10000", "reserved_ports=10000-29999,"},
		{"29999 65535", "", host.Warn, "both take 29999", ""},
		{"1024 10000", "", host.Warn, "both take 10000", ""},
		{"1024 65535", "10000-29999\n", host.OK, "left out", ""},
		{"1024 65535", "8080,9148-12000,12001,12002-40000\n", host.OK, "left out", ""},
		{"1024 65535", "8080,10000-20000\n", host.Warn, "both take 20001", "reserved_ports=8080,10000-20000,10000-29999,"},
		{"nonsense", "", host.Warn, "nonsense", ""},
	} {
		got := natPorts(c.local, c.reserved)
		if got.State != c.want || !strings.Contains(got.Found, c.found) || !strings.Contains(got.Do, c.do) || (got.Do == "") != (c.want == host.OK) {
			t.Errorf("range %q, reserved %q: %+v; want %s, %q, %q", c.local, c.reserved, got, c.want, c.found, c.do)
		}
	}
}
