// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
)

func (a *app) serviceCmd() *cobra.Command {
	c := &cobra.Command{Use: "service", Short: "names and addresses that lead to containers"}
	backend := &cobra.Command{Use: "backend", Short: "what stands behind a service, changed while it is asked"}
	backend.AddCommand(a.serviceBackend("add", "more backends, or those that drained"), a.serviceBackend("rm", "backends out at once: their conversations end"),
		a.serviceBackend("drain", "backends keep their TCP connections and get nothing new"))
	c.AddCommand(a.serviceCreate(), a.serviceLs(), a.serviceInspect(), a.serviceRm(), backend)
	return c
}

// serviceFlags are the flags of service create.
type serviceFlags struct {
	typ, external                string
	ports, backends              []string
	clusterIPs, lbIPs, nodeAddrs []string
	headless                     bool
	affinity                     time.Duration
	externalPolicy, internal     string
}

// document is pure: flags as a service.
func (f *serviceFlags) document(name string) (hcn.Service, error) {
	s := hcn.Service{
		Name: name, ClusterIPs: f.clusterIPs, LoadBalancerIPs: f.lbIPs, NodeAddresses: f.nodeAddrs, ExternalName: f.external, Backends: f.backends,
		ExternalPolicy: hcn.TrafficPolicy(f.externalPolicy), InternalPolicy: hcn.TrafficPolicy(f.internal), AffinitySeconds: uint32(f.affinity / time.Second),
	}
	types := []hcn.ServiceType{hcn.ServiceClusterIP, hcn.ServiceNodePort, hcn.ServiceLoadBalancer, hcn.ServiceExternalName}
	i := slices.IndexFunc(types, func(t hcn.ServiceType) bool { return strings.EqualFold(string(t), f.typ) })
	if i < 0 {
		return s, fmt.Errorf("--type %q: none of ClusterIP, NodePort, LoadBalancer and ExternalName", f.typ)
	}
	s.Type = types[i]
	if f.affinity%time.Second != 0 || f.affinity < 0 {
		return s, fmt.Errorf("--affinity %s: whole seconds", f.affinity)
	}
	if f.headless {
		s.ClusterIPs = append(slices.Clone(s.ClusterIPs), hcn.Headless)
	}
	for _, text := range f.ports {
		p, err := parseServicePort(text)
		if err != nil {
			return s, err
		}
		s.Ports = append(s.Ports, p)
	}
	return s, nil
}

// parseServicePort reads [NAME=]PORT[:TARGET][@NODEPORT][/PROTO].
func parseServicePort(text string) (p hcn.ServicePort, err error) {
	bad := func(why string) (hcn.ServicePort, error) {
		return p, fmt.Errorf("--port %q: %s; write [NAME=]PORT[:TARGET][@NODEPORT][/udp|/sctp]", text, why)
	}
	spec, proto, some := strings.Cut(text, "/")
	if some {
		p.Protocol = strings.ToUpper(proto)
		if !slices.Contains([]string{"TCP", "UDP", "SCTP"}, p.Protocol) {
			return bad(fmt.Sprintf("unknown protocol %q", proto))
		}
	}
	if name, rest, named := strings.Cut(spec, "="); named {
		p.Name, spec = name, rest
	}
	spec, node, hasNode := strings.Cut(spec, "@")
	front, target, hasTarget := strings.Cut(spec, ":")
	if p.Port, err = port(front); err == nil && hasTarget {
		p.TargetPort, err = port(target)
	}
	if err == nil && hasNode {
		p.NodePort, err = port(node)
	}
	if err != nil {
		return bad(err.Error())
	}
	return p, nil
}

func (a *app) serviceCreate() *cobra.Command {
	var f serviceFlags
	c := &cobra.Command{
		Use: "create NAME [--type TYPE] [--port PORT[:TARGET]]… [--backend NAME]…", Short: "make a service", Args: args(1, 1, "one name"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := f.document(args[0])
			if err != nil {
				return usage(c, err)
			}
			made, err := a.hcn().CreateService(c.Context(), &s)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, made.ID)
			return nil
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.typ, "type", "ClusterIP", "ClusterIP, NodePort, LoadBalancer or ExternalName")
	fs.StringArrayVarP(&f.ports, "port", "p", nil, "[NAME=]PORT[:TARGET][@NODEPORT][/udp|/sctp]; repeatable")
	fs.StringArrayVarP(&f.backends, "backend", "b", nil, "container or endpoint, by name or ID, there already or not; repeatable")
	fs.StringArrayVar(&f.clusterIPs, "cluster-ip", nil, "address, one of each family (default: chosen from [services] cluster_pool)")
	fs.BoolVar(&f.headless, "headless", false, "no address: the name resolves to the backends")
	fs.StringArrayVar(&f.lbIPs, "load-balancer-ip", nil, "address for neighbours, one of each family (default: chosen from [services] load_balancer_pool)")
	fs.StringArrayVar(&f.nodeAddrs, "node-address", nil, "address of the host at which node ports are asked; repeatable (default: all)")
	fs.StringVar(&f.external, "external-name", "", "name outside that an ExternalName stands for")
	fs.DurationVar(&f.affinity, "affinity", 0, "how long a client stays with its backend after it was silent, like 3h")
	fs.StringVar(&f.externalPolicy, "external-policy", "", "backends of clients outside: Cluster (any) or Local (of this host)")
	fs.StringVar(&f.internal, "internal-policy", "", "backends of endpoints and the host: Cluster or Local")
	return c
}

func (a *app) serviceLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "list services", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			raw, err := a.rawDocs(c.Context(), "services", nil)
			if err != nil {
				return err
			}
			all, err := decodeAll[hcn.Service](raw)
			if err != nil {
				return err
			}
			t, names := serviceTable(all)
			return a.list(t, raw, names)
		},
	}
	a.outputFlag(c.Flags())
	return c
}

func serviceTable(all []hcn.Service) (*table, []string) {
	t := &table{head: []string{"NAME", "TYPE", "CLUSTER-IP", "EXTERNAL", "PORTS", "READY", "ID", "BACKENDS"}, wide: 7}
	var names []string
	for _, s := range all {
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, servicePortText(p))
		}
		active := 0
		for _, e := range s.Endpoints {
			if e.State == "Active" {
				active++
			}
		}
		ready := fmt.Sprintf("%d/%d", active, max(len(s.Endpoints), len(s.Backends)))
		external := strings.Join(s.LoadBalancerIPs, ",")
		if s.Type == hcn.ServiceExternalName {
			external, ready = s.ExternalName, "-"
		}
		t.add(s.Name, string(s.Type), orDash(strings.Join(s.ClusterIPs, ",")), orDash(external), orDash(strings.Join(ports, ",")), ready, s.ID, orDash(strings.Join(s.Backends, ",")))
		names = append(names, s.Name)
	}
	return t, names
}

// servicePortText is a port as kubectl has it, with where it leads: "80:30080->8080/tcp".
func servicePortText(p hcn.ServicePort) string {
	s := fmt.Sprint(p.Port)
	if p.NodePort != 0 {
		s += fmt.Sprintf(":%d", p.NodePort)
	}
	if p.TargetPort != 0 && p.TargetPort != p.Port {
		s += fmt.Sprintf("->%d", p.TargetPort)
	}
	proto := strings.ToLower(p.Protocol)
	if proto == "" {
		proto = "tcp"
	}
	return s + "/" + proto
}

func (a *app) serviceInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect SERVICE…", Short: "show a service with its backends of the moment", Args: args(1, -1, "one service or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.inspectKind(c.Context(), "services", args) },
	}
}

func (a *app) serviceRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm SERVICE…", Short: "remove services", Args: args(1, -1, "one service or more"),
		RunE: func(c *cobra.Command, args []string) error { return a.removeKind(c.Context(), "services", args) },
	}
}

func (a *app) serviceBackend(verb, what string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " SERVICE BACKEND…", Short: what, Args: args(2, -1, "a service and backends of it"),
		RunE: func(c *cobra.Command, args []string) error {
			id, ctx := ref(args[0]), c.Context()
			var err error
			switch verb {
			case "add":
				_, err = a.hcn().ChangeBackends(ctx, id, hcn.RequestTypeAdd, args[1:]...)
			case "rm":
				_, err = a.hcn().ChangeBackends(ctx, id, hcn.RequestTypeRemove, args[1:]...)
			default:
				_, err = a.hcn().DrainBackends(ctx, id, args[1:]...)
			}
			return err
		},
	}
}
