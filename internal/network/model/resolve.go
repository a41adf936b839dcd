// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

// ResolverConfig is what an endpoint's workload puts into resolv.conf: its own Dns,
// or the resolver on its network's gateway, which forwards to the network's servers.
func (w World) ResolverConfig(e *Endpoint) (servers, search, options []string) {
	d := e.Doc.Dns
	servers, search, options = d.ServerList, d.Search, d.Options
	n, ok := w.networks.get(e.Doc.HostComputeNetwork)
	if ok && n.HostPort != 0 && (e.InheritDNS || len(d.ServerList) == 0) {
		servers = nil
		for _, g := range n.gateways() {
			for _, a := range e.addrs {
				if a.Addr().Is4() == g.Is4() {
					servers = append(servers, g.String())
					break
				}
			}
		}
	}
	if len(search) == 0 && d.Domain != "" {
		search = []string{d.Domain}
	}
	return servers, search, options
}

// FindNetwork resolves a reference of a document: a GUID, or a name, with "name:"
// before it or not.
func (w World) FindNetwork(ref string) (*Network, error) { return w.findNetwork(ref) }
