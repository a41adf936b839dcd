// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"fmt"
	"os"
	"strings"

	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// checkNATPorts looks whether outbound NAT and sockets of the host may take the
// same port of an address: the answers to the one would go to the other.
func checkNATPorts() host.Check {
	const dir = "/proc/sys/net/ipv4/"
	local, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return host.Check{Name: "NAT ports", State: host.Warn, Found: err.Error(), Do: "mount /proc"}
	}
	reserved, err := os.ReadFile(dir + "ip_local_reserved_ports")
	if err != nil {
		return host.Check{Name: "NAT ports", State: host.Warn, Found: err.Error(), Do: "mount /proc"}
	}
	return natPorts(string(local), string(reserved))
}

// natPorts is told net.ipv4.ip_local_port_range, which the kernel gives ports to
// sockets of both families from, and ip_local_reserved_ports, which it leaves out
// of it; see the kernel's networking/ip-sysctl.
func natPorts(local, reserved string) host.Check {
	c := host.Check{Name: "NAT ports", State: host.OK}
	const natLow, natHigh = int(vswitch.NATLow), int(vswitch.NATHigh)
	var low, high int
	if _, err := fmt.Sscan(local, &low, &high); err != nil {
		c.State, c.Found, c.Do = host.Warn, fmt.Sprintf("net.ipv4.ip_local_port_range is %q", strings.TrimSpace(local)), "set it to two numbers"
		return c
	}
	c.Found = fmt.Sprintf("outbound NAT takes %d-%d, sockets of the host get %d-%d (net.ipv4.ip_local_port_range)", natLow, natHigh, low, high)
	if low > natHigh || high < natLow {
		return c
	}
	free := map[int]bool{} // of NAT's ports, those that no socket gets
	for _, r := range compartment.ReservedPorts(reserved) {
		for p := max(int(r[0]), natLow); p <= min(int(r[1]), natHigh); p++ {
			free[p] = true
		}
	}
	for p := max(low, natLow); p <= min(high, natHigh); p++ {
		if free[p] {
			continue
		}
		list := fmt.Sprintf("%d-%d", natLow, natHigh)
		if old := strings.TrimSpace(reserved); old != "" {
			list = old + "," + list
		}
		c.State = host.Warn
		c.Found += fmt.Sprintf("; both take %d", p)
		c.Do = fmt.Sprintf("answers may go to the wrong one: sysctl -w net.ipv4.ip_local_reserved_ports=%s, or a narrower ip_local_port_range; and the same in /etc/sysctl.d", list)
		return c
	}
	c.Found += ", those of NAT left out (net.ipv4.ip_local_reserved_ports)"
	return c
}
