// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// IsRemote reports an endpoint that stands for something on another host: it has an
// address and no vNIC.
func (e *Endpoint) IsRemote() bool { return e.Doc.Flags&hcn.EndpointFlagsRemoteEndpoint != 0 }

func remoteRefused(field, what string) *Error {
	return refuseAt(hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, field, "a remote endpoint is on another host: it cannot have %s here", what)
}

// fillRemote checks a remote endpoint. Its address need not be in a subnet: control
// planes put the virtual addresses of services and public ones on the network.
// Several may have one address or one MAC, a local endpoint may have it too.
func (e *Endpoint) fillRemote(n *Network) error {
	for i := range e.Doc.IpConfigurations {
		c := &e.Doc.IpConfigurations[i]
		field := fmt.Sprintf("IpConfigurations[%d]", i)
		a, err := netip.ParseAddr(c.IpAddress)
		if err != nil || !isHost(a) {
			return refuseAt(hcn.HCN_E_INVALID_IP, field+".IpAddress", "%q is not the address of a remote endpoint", c.IpAddress)
		}
		switch sub, ok := n.subnetOf(a); {
		case int(c.PrefixLength) > a.BitLen():
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".PrefixLength", "%d is over %d", c.PrefixLength, a.BitLen())
		case c.PrefixLength != 0:
		case ok:
			c.PrefixLength = uint8(sub.pool.Prefix.Bits())
		default:
			c.PrefixLength = uint8(a.BitLen())
		}
		c.IpAddress = a.String()
	}
	if len(e.Doc.IpConfigurations) == 0 {
		return refuseAt(hcn.HCN_E_INVALID_IP, "IpConfigurations", "a remote endpoint has no address; give the one it has on its host")
	}
	if err := checkRoutes(e.Doc.Routes); err != nil {
		return err
	}
	if e.Doc.MacAddress == "" {
		return nil
	}
	m, err := ipam.ParseMAC(e.Doc.MacAddress)
	if err != nil {
		return refuseAt(hcn.E_INVALID_PARAMETER, "MacAddress", "%v", err)
	}
	if !m.IsUnicast() {
		return refuseAt(hcn.E_INVALID_PARAMETER, "MacAddress", "%s is not the address of one interface", m)
	}
	e.Doc.MacAddress = m.String()
	return nil
}

// checkRemotePolicy says whether a policy can stand on a remote endpoint.
func checkRemotePolicy(p hcn.EndpointPolicy, n *Network) error {
	if p.Type != hcn.NetworkProviderAddress {
		// What no endpoint can have is told as for any other.
		if err := checkEndpointPolicy(p, n); codeOf(err) == hcn.HCN_E_INVALID_POLICY_TYPE {
			return err
		}
		return remoteRefused("Type", fmt.Sprintf("policy %s", p.Type))
	}
	_, err := parseProvider(p)
	return err
}

// parseProvider reads a ProviderAddress policy.
func parseProvider(p hcn.EndpointPolicy) (netip.Addr, error) {
	var s hcn.ProviderAddressEndpointPolicySetting
	if err := decodeSettings(p.Settings, &s); err != nil {
		return netip.Addr{}, err
	}
	return parseHost(s.ProviderAddress, "Settings.ProviderAddress")
}

// isHost: a can be the address of something on the network.
func isHost(a netip.Addr) bool {
	return a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func parseHost(s, field string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !isHost(a) {
		return a, refuseAt(hcn.HCN_E_INVALID_POLICY, field, "%q is not the address of a host", s)
	}
	return a, nil
}

// providerOf is the tunnel end of the host that a remote endpoint is on.
func providerOf(e *Endpoint) (netip.Addr, error) {
	if !e.IsRemote() {
		return netip.Addr{}, nil
	}
	for i, p := range e.Doc.Policies {
		if p.Type == hcn.NetworkProviderAddress {
			a, err := parseProvider(p)
			return a, at(fmt.Sprintf("Policies[%d]", i), err)
		}
	}
	return netip.Addr{}, nil
}

// remoteKey orders the remote endpoints of an address by creation.
func remoteKey(network string, a netip.Addr, sequence uint64) string {
	return remotesOf(network, a) + fmt.Sprintf("%016x", sequence)
}

func remotesOf(network string, a netip.Addr) string {
	b := a.As16()
	return network + "/" + string(b[:])
}

func (w *World) isRemoteAddr(network string, a netip.Addr) bool {
	for range w.remotes.prefixed(remotesOf(network, a)) {
		return true
	}
	return false
}

// settleRemote brings far and farWays in line with the endpoints of an address. Of
// several remote ones the last made counts, a local one over all. One that is said to be
// on this host, as the addresses of services are, is nowhere else. What is outside the
// subnets is routed to, with the VNI of the first subnet of its family.
func (w *World) settleRemote(n *Network, a netip.Addr) {
	if n == nil || n.compiled.network.Tunnel == 0 {
		return
	}
	k := remotesOf(n.Doc.Id, a)
	newest := ""
	for _, id := range w.remotes.prefixed(k) {
		newest = id
	}
	e, ok := w.endpoints.get(newest)
	w.far, w.farWays = w.far.del(k), w.farWays.del(k)
	if !ok || !e.provider.IsValid() || e.provider == n.provider() || e.Doc.MacAddress == "" || w.addrs.has(addrKey(n.Doc.Id, a)) {
		return
	}
	if s, inside := n.subnetOf(a); inside {
		if a != s.gateway {
			w.far = w.far.set(k, vswitch.Remote{Network: n.Number, Addr: a, MAC: vswitch.MAC(e.mac), VTEP: e.provider})
		}
		return
	}
	i := slices.IndexFunc(n.subnets, func(s subnet) bool { return s.pool.Prefix.Addr().Is4() == a.Is4() })
	if i >= 0 && n.subnets[i].vsid != 0 {
		w.farWays = w.farWays.set(k, vswitch.Route{
			Prefix: netip.PrefixFrom(a, a.BitLen()), To: vswitch.RouteTunnel, VTEP: e.provider, VNI: n.subnets[i].vsid, MAC: vswitch.MAC(e.mac),
		})
	}
}

// settleRemotes does so for every address of an endpoint.
func (w *World) settleRemotes(e *Endpoint) {
	n, _ := w.networks.get(e.Doc.HostComputeNetwork)
	for _, p := range e.addrs {
		k := remotesOf(e.Doc.HostComputeNetwork, p.Addr())
		had := w.farWays.has(k)
		w.settleRemote(n, p.Addr())
		if w.farWays.has(k) == had {
			continue
		}
		// This or another endpoint of the address may be a backend.
		w.rebalance(e.Doc.Id)
		for _, id := range w.remotes.prefixed(k) {
			w.rebalance(id)
		}
	}
}

// followProvider does so for all remote endpoints of an overlay whose own provider
// address is another now: who is on this host follows from it, and from its family
// what is left of the MTU.
func (w *World) followProvider(n *Network) {
	for _, e := range w.EndpointsOf(n.Doc.Id) {
		if e.IsRemote() {
			w.settleRemotes(e)
		} else {
			w.refit(e.Doc.HostComputeNamespace)
		}
	}
	w.rebalanceNetwork(n.Doc.Id)
}

// holds: one of the network's subnets has the address.
func (n *Network) holds(a netip.Addr) bool {
	_, ok := n.subnetOf(a)
	return ok
}
