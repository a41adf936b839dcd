// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
)

func (a *app) lbCmd() *cobra.Command {
	c := &cobra.Command{Use: "lb", Short: "load balancers: HCN's documents, without a name that resolves"}
	c.AddCommand(a.lbCreate(), a.lbLs(), &cobra.Command{
		Use: "inspect LB…", Short: "show a load balancer's document", Args: args(1, -1, "one load balancer or more"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.inspectKind(c.Context(), "loadbalancers", args)
		},
	}, &cobra.Command{
		Use: "rm LB…", Short: "remove load balancers", Args: args(1, -1, "one load balancer or more"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.removeKind(c.Context(), "loadbalancers", args)
		},
	})
	return c
}

// lbDoc is a load balancer as this service sends it.
type lbDoc struct {
	hcn.HostComputeLoadBalancer
	Name              string   `json:",omitempty"`
	DrainingEndpoints []string `json:",omitempty"`
}

// lbFlags are the flags of lb create.
type lbFlags struct {
	vips, ports, backends                            []string
	host, internal, mux, external, preserve, dsr, v6 bool
	affinity, source                                 string
}

// document is pure: flags as a load balancer without its endpoints.
func (f *lbFlags) document(name string) (lbDoc, error) {
	d := lbDoc{Name: name}
	d.SchemaVersion, d.FrontendVIPs, d.SourceVIP = hcn.V2SchemaVersion(), f.vips, f.source
	for i, v := range f.vips {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return d, fmt.Errorf("--vip %q: not an IP address", v)
		}
		if i == 0 && a.Is6() {
			f.v6 = true
		}
	}
	if f.v6 {
		d.Flags |= hcn.LoadBalancerFlagsIPv6
	}
	if f.dsr {
		d.Flags |= hcn.LoadBalancerFlagsDSR
	}
	var m hcn.LoadBalancerPortMapping
	for _, x := range []struct {
		set  bool
		flag hcn.LoadBalancerPortMappingFlags
	}{
		{f.internal, hcn.LoadBalancerPortMappingFlagsILB}, {f.host, hcn.LoadBalancerPortMappingFlagsLocalRoutedVIP},
		{f.mux, hcn.LoadBalancerPortMappingFlagsUseMux}, {f.preserve, hcn.LoadBalancerPortMappingFlagsPreserveDIP},
		{f.external, 16}, // as kube-proxy has it; hcn has no name for it
	} {
		if x.set {
			m.Flags |= x.flag
		}
	}
	switch f.affinity {
	case "", "none":
	case "client":
		m.DistributionType = hcn.LoadBalancerDistributionSourceIP
	case "client-protocol":
		m.DistributionType = hcn.LoadBalancerDistributionSourceIPProtocol
	default:
		return d, fmt.Errorf("--affinity %q: none of none, client and client-protocol", f.affinity)
	}
	for _, text := range f.ports {
		p, err := parseServicePort(text)
		if err == nil && (p.Name != "" || p.NodePort != 0) {
			err = fmt.Errorf("--port %q: a load balancer's have neither names nor node ports; a service's do", text)
		}
		if err != nil {
			return d, err
		}
		m.Protocol, m.ExternalPort, m.InternalPort = protoNumber(strings.ToLower(p.Protocol)), p.Port, p.TargetPort
		d.PortMappings = append(d.PortMappings, m)
	}
	return d, nil
}

// protoNumber of a protocol that has ports; TCP where none is named.
func protoNumber(name string) uint32 {
	return map[string]uint32{"": 6, "tcp": 6, "udp": 17, "sctp": 132}[name]
}

func (a *app) lbCreate() *cobra.Command {
	var f lbFlags
	c := &cobra.Command{
		Use: "create [NAME] --port PORT[:TARGET] [--vip ADDRESS]… [--backend NAME]…", Short: "make a load balancer", Args: args(0, 1, "one name at most"),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := f.document(strings.Join(args, ""))
			if err != nil {
				return usage(c, err)
			}
			for _, b := range f.backends {
				e, err := a.hcn().Endpoint(c.Context(), ref(b))
				if err != nil {
					return err
				}
				d.HostComputeEndpoints = append(d.HostComputeEndpoints, e.Id)
			}
			var made hcn.HostComputeLoadBalancer
			if err := a.hcn().Call(c.Context(), "create load balancer", "POST", "/loadbalancers", d, &made); err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.Id)
			return nil
		},
	}
	fs := c.Flags()
	fs.StringArrayVar(&f.vips, "vip", nil, "address that is asked; repeatable (default: every address of the host)")
	fs.StringArrayVarP(&f.ports, "port", "p", nil, "PORT[:TARGET][/udp|/sctp]; repeatable")
	fs.StringArrayVarP(&f.backends, "backend", "b", nil, "endpoint or container, by name or ID; repeatable")
	fs.BoolVar(&f.host, "host", false, "processes of the host may ask, too (LocalRoutedVIP)")
	fs.BoolVar(&f.internal, "internal", false, "endpoints only may ask (ILB)")
	fs.BoolVar(&f.mux, "mux", false, "a mux outside leads to the VIP (UseMux)")
	fs.BoolVar(&f.external, "external", false, "the VIP is one of the outside (VipExternalIP)")
	fs.BoolVar(&f.preserve, "preserve-dip", false, "backends get what is sent as it was (PreserveDIP)")
	fs.BoolVar(&f.dsr, "dsr", false, "backends elsewhere answer clients outside themselves (DSR)")
	fs.BoolVarP(&f.v6, "ipv6", "6", false, "of family IPv6, where no VIP says so")
	fs.StringVar(&f.affinity, "affinity", "", "none, client, or client-protocol: what stays with its backend")
	fs.StringVar(&f.source, "source-vip", "", "address of an overlay that stands for clients outside (SourceVIP)")
	return c
}

func (a *app) lbLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list load balancers", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.rawDocs(c.Context(), "loadbalancers", nil)
			if err != nil {
				return err
			}
			lbs, err := decodeAll[lbDoc](raw)
			if err != nil {
				return err
			}
			eps, err := a.hcn().ListEndpoints(c.Context(), hcn.HostComputeQuery{})
			if err != nil {
				return err
			}
			t, ids := lbTable(lbs, eps)
			return a.list(t, raw, ids)
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func lbTable(lbs []lbDoc, eps []hcn.HostComputeEndpoint) (*table, []string) {
	t := &table{head: []string{"ID", "NAME", "VIP", "PORTS", "BACKENDS"}}
	names := map[string]string{}
	for _, e := range eps {
		names[strings.ToLower(e.Id)] = e.Name
	}
	var ids []string
	for _, lb := range lbs {
		var ports, backends []string
		for _, m := range lb.PortMappings {
			p := hcn.ServicePort{Port: m.ExternalPort, TargetPort: m.InternalPort, Protocol: protoName(m.Protocol)}
			if m.Protocol == 0 {
				p.Protocol = "tcp+udp"
			}
			ports = append(ports, servicePortText(p))
		}
		for _, id := range lb.HostComputeEndpoints {
			name := names[strings.ToLower(id)]
			if name == "" {
				name = short(id)
			}
			for _, d := range lb.DrainingEndpoints {
				if strings.EqualFold(d, id) {
					name += " (draining)"
				}
			}
			backends = append(backends, name)
		}
		vip := strings.Join(lb.FrontendVIPs, ",")
		if vip == "" {
			vip = "every host address"
		}
		t.add(lb.Id, orDash(lb.Name), vip, strings.Join(ports, ","), orDash(strings.Join(backends, ",")))
		ids = append(ids, lb.Id)
	}
	return t, ids
}
