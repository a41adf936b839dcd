// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
)

func (a *app) networkCmd() *cobra.Command {
	c := &cobra.Command{Use: "network", Short: "networks and their switches"}
	c.AddCommand(a.networkCreate(), a.networkLs(), a.networkInspect(), a.networkRm(), a.networkGraph())
	return c
}

// networkTypes as people type them.
func networkTypes() map[string]hcn.NetworkType {
	return map[string]hcn.NetworkType{"nat": hcn.NAT, "internal": hcn.Internal, "private": hcn.Private, "transparent": hcn.Transparent,
		"l2bridge": hcn.L2Bridge, "l2tunnel": hcn.L2Tunnel, "overlay": hcn.Overlay, "ics": hcn.ICS}
}

// networkFlags are the flags of network create.
type networkFlags struct {
	typ              string
	subnets, gateway []string
	dns, search      []string
	domain           string
	uplink           string
	vlan             uint32
}

// document is pure: flags as a network document.
func (f *networkFlags) document(name string) (hcn.HostComputeNetwork, error) {
	n := hcn.HostComputeNetwork{Name: name, SchemaVersion: hcn.V2SchemaVersion()}
	t, ok := networkTypes()[strings.ToLower(f.typ)]
	if !ok {
		return n, fmt.Errorf("--type %q: no such network type; use nat, internal, private, transparent, l2bridge, l2tunnel or overlay", f.typ)
	}
	n.Type = t
	n.Dns = hcn.Dns{Domain: f.domain, Search: f.search, ServerList: f.dns}
	for _, d := range f.dns {
		if _, err := netip.ParseAddr(d); err != nil {
			return n, fmt.Errorf("--dns %q: not an IP address", d)
		}
	}
	var gws []netip.Addr
	for _, g := range f.gateway {
		a, err := netip.ParseAddr(g)
		if err != nil {
			return n, fmt.Errorf("--gateway %q: not an IP address", g)
		}
		gws = append(gws, a)
	}
	var subs, lent []hcn.Subnet
	dhcp := slices.ContainsFunc(f.subnets, func(s string) bool { return strings.EqualFold(s, "dhcp") })
	for _, s := range f.subnets {
		if strings.EqualFold(s, "dhcp") {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return n, fmt.Errorf("--subnet %q: not a prefix like 10.77.0.0/24", s)
		}
		sub := hcn.Subnet{IpAddressPrefix: s}
		for i, g := range gws {
			if p.Contains(g) {
				dst := "0.0.0.0/0"
				if g.Is6() {
					dst = "::/0"
				}
				sub.Routes = []hcn.Route{{NextHop: g.String(), DestinationPrefix: dst}}
				gws = slices.Delete(gws, i, i+1)
				break
			}
		}
		subs = append(subs, sub)
	}
	if len(gws) > 0 {
		return n, fmt.Errorf("--gateway %s: in none of the subnets", gws[0])
	}
	if f.uplink != "" {
		settings, err := json.Marshal(hcn.NetAdapterNameNetworkPolicySetting{NetworkAdapterName: f.uplink})
		if err != nil {
			return n, err
		}
		n.Policies = append(n.Policies, hcn.NetworkPolicy{Type: hcn.NetAdapterName, Settings: settings})
	}
	if f.vlan != 0 {
		if subs == nil {
			return n, errors.New("--vlan: it is the subnets' tag; give --subnet with a prefix, too")
		}
		p, err := json.Marshal(hcn.SubnetPolicy{Type: hcn.VLAN, Settings: fmt.Appendf(nil, `{"IsolationId":%d}`, f.vlan)})
		if err != nil {
			return n, err
		}
		for i := range subs {
			subs[i].Policies = append(subs[i].Policies, p)
		}
	}
	if dhcp { // IPv4 prefixes are then those that the server gives addresses of
		for _, s := range subs {
			if !strings.Contains(s.IpAddressPrefix, ":") {
				lent = append(lent, s)
			}
		}
		subs = slices.DeleteFunc(subs, func(s hcn.Subnet) bool { return !strings.Contains(s.IpAddressPrefix, ":") })
		n.Ipams = []hcn.Ipam{{Type: "Dhcp", Subnets: lent}}
	}
	if len(subs) > 0 {
		n.Ipams = append(n.Ipams, hcn.Ipam{Type: "Static", Subnets: subs})
	}
	return n, nil
}

func (a *app) networkCreate() *cobra.Command {
	var f networkFlags
	c := &cobra.Command{
		Use: "create NAME [--type TYPE] [--subnet CIDR]…", Short: "make a network", Args: args(1, 1, "one name"),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := f.document(args[0])
			if err != nil {
				return err
			}
			made, err := a.hcn().CreateNetwork(c.Context(), &n)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.Id)
			return nil
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.typ, "type", "nat", "nat, internal, private, transparent, l2bridge, l2tunnel or overlay")
	fs.StringArrayVar(&f.subnets, "subnet", nil, "address range, IPv4 or IPv6; dhcp = IPv4 addresses are the segment's DHCP server's to give; repeatable (default: chosen)")
	fs.StringArrayVar(&f.gateway, "gateway", nil, "gateway address in a subnet; repeatable (default: its first)")
	fs.StringVar(&f.uplink, "uplink", "", "interface of the host that a transparent, l2bridge or l2tunnel network is bound to (default: the default route's)")
	fs.Uint32Var(&f.vlan, "vlan", 0, "tag of its frames there, 1-4094 (default: none)")
	fs.StringArrayVar(&f.dns, "dns", nil, "DNS server that containers get; repeatable (default: the gateway)")
	fs.StringArrayVar(&f.search, "dns-search", nil, "DNS search domain; repeatable")
	fs.StringVar(&f.domain, "dns-domain", "", "DNS domain of the network")
	return c
}

// ref makes what people type into what a path takes: a GUID as it is, else a name.
func ref(s string) string {
	if _, err := uuid.Parse(s); err == nil && len(s) == 36 || strings.HasPrefix(s, "name:") {
		return s
	}
	return "name:" + s
}

// rawDocs lists a kind as the documents that came, for -o json.
func (a *app) rawDocs(ctx context.Context, kind string, q url.Values) ([]json.RawMessage, error) {
	path := "/" + kind
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	var raw []json.RawMessage
	err := a.hcn().Call(ctx, "list "+kind, "GET", path, nil, &raw)
	if raw == nil {
		raw = []json.RawMessage{}
	}
	return raw, err
}

func decodeAll[T any](raw []json.RawMessage) ([]T, error) {
	out := make([]T, len(raw))
	for i, r := range raw {
		if err := json.Unmarshal(r, &out[i]); err != nil {
			return nil, fmt.Errorf("answer: %w", err)
		}
	}
	return out, nil
}

func (a *app) networkLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list networks", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.rawDocs(c.Context(), "networks", nil)
			if err != nil {
				return err
			}
			nets, err := decodeAll[hcn.HostComputeNetwork](raw)
			if err != nil {
				return err
			}
			eps, err := a.hcn().ListEndpoints(c.Context(), hcn.HostComputeQuery{})
			if err != nil {
				return err
			}
			t, names := networkTable(nets, eps)
			return a.list(t, raw, names)
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func networkTable(nets []hcn.HostComputeNetwork, eps []hcn.HostComputeEndpoint) (*table, []string) {
	t := &table{head: []string{"NAME", "TYPE", "SUBNETS", "GATEWAY", "ENDPOINTS", "ID"}}
	var names []string
	for _, n := range nets {
		var subs, gws []string
		for _, i := range n.Ipams {
			for _, s := range i.Subnets {
				subs = append(subs, s.IpAddressPrefix)
				for _, r := range s.Routes {
					if r.DestinationPrefix == "0.0.0.0/0" || r.DestinationPrefix == "::/0" {
						gws = append(gws, r.NextHop)
					}
				}
			}
		}
		count := 0
		for _, e := range eps {
			if strings.EqualFold(e.HostComputeNetwork, n.Id) {
				count++
			}
		}
		t.add(orDash(n.Name), string(n.Type), orDash(strings.Join(subs, ",")), orDash(strings.Join(gws, ",")), fmt.Sprint(count), n.Id)
		if n.Name != "" {
			names = append(names, n.Name)
		} else {
			names = append(names, n.Id)
		}
	}
	return t, names
}

// inspectKind shows documents of a kind as they are.
func (a *app) inspectKind(ctx context.Context, kind string, ids []string) error {
	var out []json.RawMessage
	for _, id := range ids {
		var raw json.RawMessage
		if err := a.hcn().Call(ctx, "inspect", "GET", "/"+kind+"/"+url.PathEscape(ref(id)), nil, &raw); err != nil {
			return err
		}
		out = append(out, raw)
	}
	return a.json(out)
}

func (a *app) removeKind(ctx context.Context, kind string, ids []string) error {
	return a.each(ids, func(id string) error {
		return a.hcn().Call(ctx, "remove", "DELETE", "/"+kind+"/"+url.PathEscape(ref(id)), nil, nil)
	})
}

func (a *app) networkInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAME…", Short: "show a network's document", Args: args(1, -1, "one network or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectKind(c.Context(), "networks", args) },
	}
}

func (a *app) networkRm() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm [-f] NAME…", Short: "remove networks", Args: args(1, -1, "one network or more"),
		RunE: func(c *cobra.Command, args []string) error {
			if force {
				return a.removeKind(c.Context(), "networks", args)
			}
			return a.each(args, func(name string) error {
				n, err := a.hcn().Network(c.Context(), ref(name))
				if err != nil {
					return err
				}
				// The verb takes endpoints with it; people should mean that.
				eps, err := a.rawDocs(c.Context(), "endpoints", url.Values{"network": {n.Id}})
				if err != nil {
					return err
				}
				if len(eps) > 0 {
					return fmt.Errorf("network %s has %s; remove them first or use network rm -f", name, plural(len(eps), "endpoint", "endpoints"))
				}
				return a.hcn().DeleteNetwork(c.Context(), n.Id)
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "with its endpoints, attached or not")
	return c
}

func (a *app) networkGraph() *cobra.Command {
	var as string
	c := &cobra.Command{
		Use: "graph [-o text|svg|json]", Short: "the host's networks as a drawing", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			g, err := a.hcn().Graph(c.Context())
			if err != nil {
				return err
			}
			switch as {
			case "text", "":
				_, err = fmt.Fprint(a.out, drawText(g))
			case "svg":
				_, err = fmt.Fprint(a.out, drawSVG(g))
			case "json":
				err = a.json(g)
			default:
				return usage(c, fmt.Errorf("-o %q: none of text, svg, json", as))
			}
			return err
		},
	}
	c.Flags().StringVarP(&as, "output", "o", "text", "text, svg or json")
	return c
}

func (a *app) endpointCmd() *cobra.Command {
	c := &cobra.Command{Use: "endpoint", Short: "address sets of vNICs"}
	c.AddCommand(a.endpointCreate(), a.endpointLs(), a.endpointInspect(), a.endpointRm(), a.endpointAttach(true), a.endpointAttach(false))
	return c
}

func (a *app) endpointCreate() *cobra.Command {
	var network, name, namespace string
	f := runFlags{}
	c := &cobra.Command{
		Use: "create --network NET [flags]", Short: "make an endpoint", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if network == "" {
				return usage(c, errors.New("--network is needed"))
			}
			ep, err := f.endpoint()
			if err != nil {
				return err
			}
			if name != "" {
				ep["Name"] = name
			}
			if namespace != "" {
				ns, err := a.hcn().Namespace(c.Context(), ref(namespace))
				if err != nil {
					return err
				}
				ep["HostComputeNamespace"] = ns.Id
			}
			var made hcn.HostComputeEndpoint
			if err := a.hcn().Call(c.Context(), "create endpoint", "POST", "/networks/"+url.PathEscape(ref(network))+"/endpoints", ep, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.Id)
			return nil
		},
	}
	fs := c.Flags()
	fs.StringVar(&network, "network", "", "network's name or ID")
	fs.StringVar(&name, "name", "", "name, which the network's DNS answers")
	fs.StringVar(&namespace, "namespace", "", "attach it to this namespace at once")
	fs.StringVar(&f.ip, "ip", "", "IPv4 address; dhcp = ask the segment's DHCP server (default: the next free one)")
	fs.StringVar(&f.ip6, "ip6", "", "IPv6 address (default: the next free one)")
	fs.StringVar(&f.mac, "mac-address", "", "MAC address (default: the next free one)")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "HOST:CTR, IP:HOST:CTR or CTR, [/udp|/sctp]; repeatable")
	fs.StringArrayVar(&f.dns, "dns", nil, "DNS server instead of the network's; repeatable")
	fs.StringArrayVar(&f.alias, "alias", nil, "one more name; repeatable")
	return c
}

func (a *app) endpointLs() *cobra.Command {
	var network string
	c := &cobra.Command{
		Use: "ls [--network NET]", Aliases: []string{"list"}, Short: "list endpoints", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			nets, err := a.hcn().ListNetworks(ctx, hcn.HostComputeQuery{})
			if err != nil {
				return err
			}
			q := url.Values{}
			if network != "" {
				n, err := a.hcn().Network(ctx, ref(network))
				if err != nil {
					return err
				}
				q.Set("network", n.Id)
			}
			raw, err := a.rawDocs(ctx, "endpoints", q)
			if err != nil {
				return err
			}
			eps, err := decodeAll[hcn.HostComputeEndpoint](raw)
			if err != nil {
				return err
			}
			t, ids := endpointTable(eps, nets)
			return a.list(t, raw, ids)
		},
	}
	c.Flags().StringVar(&network, "network", "", "of this network only")
	a.outputFlag(c.Flags())
	return c
}

func endpointTable(eps []hcn.HostComputeEndpoint, nets []hcn.HostComputeNetwork) (*table, []string) {
	t := &table{head: []string{"ID", "NAME", "NETWORK", "ADDRESS", "MAC", "PORTS", "NAMESPACE"}}
	name := map[string]string{}
	for _, n := range nets {
		name[strings.ToLower(n.Id)] = n.Name
	}
	var ids []string
	for _, e := range eps {
		var ips, ports []string
		for _, i := range e.IpConfigurations {
			ips = append(ips, i.IpAddress)
		}
		for _, p := range e.Policies {
			var s hcn.PortMappingPolicySetting
			if p.Type == hcn.PortMapping && json.Unmarshal(p.Settings, &s) == nil {
				ports = append(ports, publishedText(hcn.GraphPublished{Protocol: s.Protocol, Address: s.VIP, Port: s.ExternalPort, To: s.InternalPort}))
			}
		}
		t.add(e.Id, orDash(e.Name), orDash(name[strings.ToLower(e.HostComputeNetwork)]), orDash(strings.Join(ips, ",")), orDash(e.MacAddress), orDash(strings.Join(ports, ", ")), orDash(e.HostComputeNamespace))
		ids = append(ids, e.Id)
	}
	return t, ids
}

func (a *app) endpointInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect ENDPOINT…", Short: "show an endpoint's document", Args: args(1, -1, "one endpoint or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectKind(c.Context(), "endpoints", args) },
	}
}

func (a *app) endpointRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm ENDPOINT…", Short: "remove endpoints", Args: args(1, -1, "one endpoint or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.removeKind(c.Context(), "endpoints", args) },
	}
}

func (a *app) endpointAttach(attach bool) *cobra.Command {
	use, what := "attach", "plug an endpoint into a namespace or a running container"
	if !attach {
		use, what = "detach", "take an endpoint out of a namespace or a running container"
	}
	return &cobra.Command{
		Use: use + " ENDPOINT NAMESPACE|CONTAINER", Short: what, Args: args(2, 2, "an endpoint, and a namespace or a container"),
		RunE: func(c *cobra.Command, args []string) error {
			ep, err := a.hcn().Endpoint(c.Context(), ref(args[0]))
			if err != nil {
				return err
			}
			ns, err := a.namespaceOf(c.Context(), args[1])
			if err != nil {
				return err
			}
			if attach {
				_, err = a.hcn().Attach(c.Context(), ns, ep.Id)
			} else {
				_, err = a.hcn().Detach(c.Context(), ns, ep.Id)
			}
			return err
		},
	}
}

// namespaceOf is the id of a namespace, named by its id or name or by a container in it.
func (a *app) namespaceOf(ctx context.Context, name string) (string, error) {
	ns, err := a.hcn().Namespace(ctx, ref(name))
	if err == nil {
		return ns.Id, nil
	}
	if !hcn.IsNotFoundError(err) {
		return "", err
	}
	p, err := a.hcs().Properties(ctx, name)
	if err != nil || p.Namespace == "" {
		return "", fmt.Errorf("%s is neither a namespace nor a container with a network; list with: gatehouse namespace ls, gatehouse ps -a", name)
	}
	return p.Namespace, nil
}

func (a *app) namespaceCmd() *cobra.Command {
	c := &cobra.Command{Use: "namespace", Short: "network namespaces that endpoints are plugged into"}
	c.AddCommand(a.namespaceCreate(), a.namespaceLs(), a.namespaceInspect(), a.namespaceRm())
	return c
}

// namespaceDoc is a namespace as this service sends it.
type namespaceDoc struct {
	hcn.HostComputeNamespace
	Name      string `json:",omitempty"`
	NetNsPath string `json:",omitempty"`
}

func (a *app) namespaceCreate() *cobra.Command {
	var name, path string
	c := &cobra.Command{
		Use: "create [--name NAME] [--path NETNS]", Short: "make a namespace, or take one in that another made", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			var made hcn.HostComputeNamespace
			d := map[string]any{"Type": hcn.NamespaceTypeHost, "SchemaVersion": hcn.V2SchemaVersion()}
			if name != "" {
				d["Name"] = name
			}
			if path != "" {
				d["NetNsPath"] = path
			}
			if err := a.hcn().Call(c.Context(), "create namespace", "POST", "/namespaces", d, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.Id)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "name")
	c.Flags().StringVar(&path, "path", "", "network namespace that another made and will remove")
	return c
}

func (a *app) namespaceLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list namespaces", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.rawDocs(c.Context(), "namespaces", nil)
			if err != nil {
				return err
			}
			ns, err := decodeAll[namespaceDoc](raw)
			if err != nil {
				return err
			}
			t := &table{head: []string{"NAME", "TYPE", "ENDPOINTS", "CONTAINERS", "ID", "PATH"}}
			var ids []string
			for _, n := range ns {
				var eps int
				var ctrs []string
				for _, r := range n.Resources {
					var d struct{ Id, ID string }
					_ = json.Unmarshal(r.Data, &d)
					if r.Type == hcn.NamespaceResourceTypeEndpoint {
						eps++
					} else {
						ctrs = append(ctrs, d.Id+d.ID)
					}
				}
				t.add(orDash(n.Name), string(n.Type), fmt.Sprint(eps), orDash(strings.Join(ctrs, ",")), n.Id, orDash(n.NetNsPath))
				ids = append(ids, n.Id)
			}
			return a.list(t, raw, ids)
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func (a *app) namespaceInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAMESPACE…", Short: "show a namespace's document", Args: args(1, -1, "one namespace or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectKind(c.Context(), "namespaces", args) },
	}
}

func (a *app) namespaceRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAMESPACE…", Short: "remove namespaces", Args: args(1, -1, "one namespace or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.removeKind(c.Context(), "namespaces", args) },
	}
}
