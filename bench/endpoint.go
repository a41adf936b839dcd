// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// benchEndpoint: a namespace, an endpoint with an address and a published port, and
// its attachment, through the API; beside the CNI bridge + portmap chain, called as
// a container runtime calls it, with a namespace made by ip netns.
func benchEndpoint(b *bench, r *report, rounds int) error {
	if rounds == 0 {
		rounds = 100
	}
	h, err := b.gatehouse()
	if err != nil {
		return err
	}
	cni, err := b.cni()
	if err != nil {
		return err
	}
	c := h.client()
	ctx := context.Background()
	nets, err := c.ListNetworks(ctx, hcn.HostComputeQuery{})
	if err != nil {
		return err
	}
	if len(nets) == 0 {
		return fmt.Errorf("no default network")
	}
	var ghAdd, ghDel, cniAdd, cniDel, cniNS series
	for i := range rounds {
		settings, _ := json.Marshal(hcn.PortMappingPolicySetting{Protocol: 6, InternalPort: 80, ExternalPort: uint16(40000 + i)})
		t0 := time.Now()
		ns, err := c.CreateNamespace(ctx, &hcn.HostComputeNamespace{Type: hcn.NamespaceTypeHost})
		if err != nil {
			return err
		}
		ep, err := c.CreateEndpoint(ctx, &hcn.HostComputeEndpoint{
			Name: fmt.Sprintf("bench%d", i), HostComputeNetwork: nets[0].Id, HostComputeNamespace: ns.Id,
			Policies: []hcn.EndpointPolicy{{Type: hcn.PortMapping, Settings: settings}},
		})
		if err != nil {
			return err
		}
		ghAdd = append(ghAdd, ms(time.Since(t0)))
		t0 = time.Now()
		if err := c.DeleteEndpoint(ctx, ep.Id); err != nil {
			return err
		}
		if err := c.DeleteNamespace(ctx, ns.Id); err != nil {
			return err
		}
		ghDel = append(ghDel, ms(time.Since(t0)))

		name := fmt.Sprintf("ghbenchc%d", i)
		t0 = time.Now()
		if _, err := sh("ip", "netns", "add", name); err != nil {
			return err
		}
		cniNS = append(cniNS, ms(time.Since(t0)))
		t0 = time.Now()
		if err := cni.chain("ADD", name, 41000+i); err != nil {
			return err
		}
		cniAdd = append(cniAdd, ms(time.Since(t0)))
		t0 = time.Now()
		if err := cni.chain("DEL", name, 41000+i); err != nil {
			return err
		}
		cniDel = append(cniDel, ms(time.Since(t0)))
		_, _ = sh("ip", "netns", "del", name)
	}
	r.title("Endpoint create + attach, with a published port (%d rounds, interleaved)", rounds)
	row := func(name string, add, del series) string {
		return fmt.Sprintf("%s | %.2f | %.2f | %.1f | %.2f | %.2f", name, add.median(), add.q(0.99), add.median()/ghAdd.median(), del.median(), del.q(0.99))
	}
	r.table("what | create p50 ms | p99 ms | / gatehouse | delete p50 ms | p99 ms",
		row("gatehouse: namespace, endpoint + attach, two API calls", ghAdd, ghDel),
		row("CNI bridge + portmap, namespace given", cniAdd, cniDel))
	r.note("(ip netns add, not counted for CNI: p50 %.2f ms)", cniNS.median())
	return nil
}

type cniHost struct{ ns, state string }

func (b *bench) cni() (*cniHost, error) {
	c := &cniHost{ns: "ghbench-cni", state: filepath.Join(b.dir, "cni")}
	if err := b.netns(c.ns); err != nil {
		return nil, err
	}
	return c, os.MkdirAll(c.state, 0o755)
}

// chain calls the plugins of a conflist one after the other, as libcni does.
func (c *cniHost) chain(verb, ns string, port int) error {
	base := map[string]any{"cniVersion": "1.0.0", "name": "bench"}
	plugin := func(kind string, more map[string]any, prev json.RawMessage) (json.RawMessage, error) {
		conf := map[string]any{"type": kind}
		for k, v := range base {
			conf[k] = v
		}
		for k, v := range more {
			conf[k] = v
		}
		if prev != nil {
			conf["prevResult"] = prev
		}
		raw, _ := json.Marshal(conf)
		words := in(c.ns, "/usr/lib/cni/"+kind)
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+ns, "CNI_NETNS=/run/netns/"+ns,
			"CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni")
		cmd.Stdin = bytes.NewReader(raw)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%s %s: %w: %s %s", kind, verb, err, out.String(), errs.String())
		}
		return json.RawMessage(out.String()), nil
	}
	bridge := map[string]any{"bridge": "cni0", "isGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": c.state, "subnet": "10.89.0.0/16"}}
	portmap := map[string]any{"capabilities": map[string]bool{"portMappings": true},
		"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}}}}
	if verb == "DEL" {
		if _, err := plugin("portmap", portmap, nil); err != nil {
			return err
		}
		_, err := plugin("bridge", bridge, nil)
		return err
	}
	res, err := plugin("bridge", bridge, nil)
	if err != nil {
		return err
	}
	_, err = plugin("portmap", portmap, res)
	return err
}
