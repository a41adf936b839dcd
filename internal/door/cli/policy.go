// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse.dev/gatehouse/hcn"
)

func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "rules, bandwidth, NAT, published ports: policies of endpoints and networks"}
	c.AddCommand(a.policyChange("add", hcn.RequestTypeAdd, "add a policy, which is in force at once"),
		a.policyLs(), a.policyChange("rm", hcn.RequestTypeRemove, "remove policies of a type: all, or those that have what the flags say"))
	return c
}

// policyTarget is what a policy stands on.
type policyTarget struct{ endpoint, network string }

func (t *policyTarget) flags(fs *pflag.FlagSet) {
	fs.StringVarP(&t.endpoint, "endpoint", "e", "", "on this endpoint or container, by name or ID")
	fs.StringVarP(&t.network, "network", "n", "", "on this network")
}

// path of its document.
func (t *policyTarget) path() (string, error) {
	switch {
	case t.endpoint != "" && t.network == "":
		return "/endpoints/" + url.PathEscape(ref(t.endpoint)), nil
	case t.network != "" && t.endpoint == "":
		return "/networks/" + url.PathEscape(ref(t.network)), nil
	}
	return "", errors.New("name what it stands on: --endpoint or --network")
}

// policyFlags are the flags that become settings.
type policyFlags struct {
	raw                                         string
	direction, action                           string
	protocols, local, remote, localPorts, ports []string
	priority                                    uint16
	rate                                        string
	publish                                     []string
	vip                                         string
	exceptions, destinations                    []string
}

func (f *policyFlags) flags(fs *pflag.FlagSet) {
	fs.StringVar(&f.raw, "json", "", "settings as HCN has them, as they are")
	fs.StringVar(&f.direction, "direction", "", "acl: in (towards the endpoint) or out")
	fs.StringVar(&f.action, "action", "block", "acl: allow or block")
	fs.StringSliceVar(&f.protocols, "protocol", nil, "acl: tcp, udp, icmp, icmp6, sctp or a number; repeatable")
	fs.StringSliceVar(&f.local, "local", nil, "acl: address or prefix of the endpoint's side; repeatable")
	fs.StringSliceVar(&f.remote, "remote", nil, "acl: address or prefix of the other side; repeatable")
	fs.StringSliceVar(&f.localPorts, "local-port", nil, "acl: port or range of the endpoint's side; repeatable")
	fs.StringSliceVar(&f.ports, "remote-port", nil, "acl: port or range of the other side; repeatable")
	fs.Uint16Var(&f.priority, "priority", 1000, "acl: the lowest decides")
	fs.StringVar(&f.rate, "rate", "", "qos: bytes a second that the endpoint may send, like 10MB")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "port: HOST:CTR, IP:HOST:CTR or CTR, [/udp|/sctp]; repeatable")
	fs.StringVar(&f.vip, "vip", "", "nat: address that the endpoint has outside")
	fs.StringSliceVar(&f.exceptions, "exception", nil, "nat: address or prefix that sees the endpoint's own address; repeatable")
	fs.StringSliceVar(&f.destinations, "destination", nil, "nat: address or prefix that this is about; repeatable")
}

// policyTypes are short words for types; network ones where they differ.
func policyTypes() map[string][2]string {
	return map[string][2]string{
		"acl": {string(hcn.ACL), string(hcn.NetworkACL)}, "qos": {string(hcn.QOS), string(hcn.QOS)},
		"nat": {string(hcn.OutBoundNAT), string(hcn.OutBoundNAT)}, "port": {string(hcn.PortMapping), string(hcn.PortMapping)},
	}
}

// policies is pure: flags as policies. changed tells the flags that were given; partial
// leaves out what they do not say.
func (f *policyFlags) policies(word string, network, partial bool, changed func(string) bool) ([]hcn.EndpointPolicy, error) {
	typ := word
	if t, ok := policyTypes()[strings.ToLower(word)]; ok {
		typ = t[0]
		if network {
			typ = t[1]
		}
	}
	of := map[string][]string{
		string(hcn.ACL): {"direction", "action", "protocol", "local", "remote", "local-port", "remote-port", "priority"},
		string(hcn.QOS): {"rate"}, string(hcn.OutBoundNAT): {"vip", "exception", "destination"}, string(hcn.PortMapping): {"publish"},
	}
	of[string(hcn.NetworkACL)] = of[string(hcn.ACL)]
	for t, names := range of {
		for _, n := range names {
			if changed(n) && !slices.Contains(of[typ], n) {
				return nil, fmt.Errorf("--%s is of policies %s, not %s", n, t, typ)
			}
			if changed(n) && changed("json") {
				return nil, fmt.Errorf("--%s and --json: say it in one way", n)
			}
		}
	}
	one := func(settings any) ([]hcn.EndpointPolicy, error) {
		raw, err := json.Marshal(settings)
		return []hcn.EndpointPolicy{{Type: hcn.EndpointPolicyType(typ), Settings: raw}}, err
	}
	if f.raw != "" {
		if !json.Valid([]byte(f.raw)) {
			return nil, errors.New("--json: not JSON")
		}
		return []hcn.EndpointPolicy{{Type: hcn.EndpointPolicyType(typ), Settings: json.RawMessage(f.raw)}}, nil
	}
	switch typ {
	case string(hcn.ACL), string(hcn.NetworkACL):
		m, err := f.acl(partial, changed)
		if err != nil {
			return nil, err
		}
		return one(m)
	case string(hcn.QOS):
		if f.rate == "" && partial {
			return one(struct{}{})
		}
		n, err := units.FromHumanSize(f.rate)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("--rate %q: bytes a second, like 10MB", f.rate)
		}
		return one(hcn.QosPolicySetting{MaximumOutgoingBandwidthInBytes: uint64(n)})
	case string(hcn.OutBoundNAT):
		return one(hcn.OutboundNatPolicySetting{VirtualIP: f.vip, Exceptions: f.exceptions, Destinations: f.destinations})
	case string(hcn.PortMapping):
		return f.mappings(one, partial)
	}
	if !partial {
		return nil, fmt.Errorf("policy %s: give its settings with --json", typ)
	}
	return one(struct{}{})
}

func (f *policyFlags) acl(partial bool, changed func(string) bool) (map[string]any, error) {
	m := map[string]any{}
	directions := map[string]string{"in": "In", "out": "Out"}
	actions := map[string]string{"allow": "Allow", "block": "Block", "deny": "Block"}
	if !partial || changed("direction") {
		d, ok := directions[strings.ToLower(f.direction)]
		if !ok {
			return nil, fmt.Errorf("--direction %q: in (towards the endpoint) or out", f.direction)
		}
		m["Direction"] = d
	}
	if !partial || changed("action") {
		x, ok := actions[strings.ToLower(f.action)]
		if !ok {
			return nil, fmt.Errorf("--action %q: allow or block", f.action)
		}
		m["Action"] = x
	}
	numbers := map[string]string{"tcp": "6", "udp": "17", "icmp": "1", "icmp6": "58", "sctp": "132"}
	var protos []string
	for _, p := range f.protocols {
		if n, ok := numbers[strings.ToLower(p)]; ok {
			p = n
		} else if _, err := strconv.ParseUint(p, 10, 8); err != nil {
			return nil, fmt.Errorf("--protocol %q: tcp, udp, icmp, icmp6, sctp or a number", p)
		}
		protos = append(protos, p)
	}
	for name, list := range map[string][]string{"Protocols": protos, "LocalAddresses": f.local, "RemoteAddresses": f.remote, "LocalPorts": f.localPorts, "RemotePorts": f.ports} {
		if len(list) > 0 {
			m[name] = strings.Join(list, ",")
		}
	}
	if !partial || changed("priority") {
		m["Priority"] = f.priority
	}
	return m, nil
}

func (f *policyFlags) mappings(one func(any) ([]hcn.EndpointPolicy, error), partial bool) (out []hcn.EndpointPolicy, err error) {
	if len(f.publish) == 0 {
		if !partial {
			return nil, errors.New("name the ports with --publish HOST:CTR")
		}
		return one(struct{}{})
	}
	for _, text := range f.publish {
		ports, err := parsePublish(text)
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			s := hcn.PortMappingPolicySetting{Protocol: p.Proto, InternalPort: p.Port, ExternalPort: p.HostPort}
			if p.HostIP.IsValid() {
				s.VIP = p.HostIP.String()
			}
			more, err := one(s)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

func (a *app) policyChange(verb string, request hcn.RequestType, what string) *cobra.Command {
	var f policyFlags
	var t policyTarget
	c := &cobra.Command{
		Use: verb + " {--endpoint NAME|--network NAME} acl|qos|nat|port|TYPE [flags]", Short: what, Args: args(1, 1, "one type of policy: acl, qos, nat, port, or as HCN names it"),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := t.path()
			if err != nil {
				return usage(c, err)
			}
			list, err := f.policies(args[0], t.network != "", request == hcn.RequestTypeRemove, c.Flags().Changed)
			if err != nil {
				return usage(c, err)
			}
			body := map[string]any{"ResourceType": "Policy", "RequestType": request, "Settings": map[string]any{"Policies": list}}
			return a.hcn().Call(c.Context(), verb+" policy", "POST", path+"/modify", body, nil)
		},
	}
	fs := c.Flags()
	t.flags(fs)
	f.flags(fs)
	return c
}

func (a *app) policyLs() *cobra.Command {
	var t policyTarget
	c := &cobra.Command{
		Use: "ls {--endpoint NAME|--network NAME}", Aliases: []string{"list"}, Short: "list policies", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := t.path()
			if err != nil {
				return usage(c, err)
			}
			var doc struct{ Policies []hcn.EndpointPolicy }
			if err := a.hcn().Call(c.Context(), "list policies", "GET", path, nil, &doc); err != nil {
				return err
			}
			if doc.Policies == nil {
				doc.Policies = []hcn.EndpointPolicy{}
			}
			tab, names := policyTable(doc.Policies)
			return a.list(tab, doc.Policies, names)
		},
	}
	t.flags(c.Flags())
	a.outputFlag(c.Flags())
	return c
}

func policyTable(all []hcn.EndpointPolicy) (*table, []string) {
	t := &table{head: []string{"TYPE", "SETTINGS"}}
	var names []string
	for _, p := range all {
		var b bytes.Buffer
		if json.Compact(&b, p.Settings) != nil {
			b.Reset()
		}
		t.add(string(p.Type), orDash(b.String()))
		names = append(names, string(p.Type))
	}
	return t, names
}
