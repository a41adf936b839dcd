// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Services is what services are given from where they leave it open.
type Services struct {
	// ClusterPool of ClusterIPs: at most one prefix of each family. Default
	// 10.96.0.0/16 and fd67:6800:96::/112, our choice.
	ClusterPool []string `toml:"cluster_pool"`
	// LoadBalancerPool of addresses that are announced at the uplinks: at most one
	// prefix of each family. Default none.
	LoadBalancerPool []string `toml:"load_balancer_pool"`
	// NodePorts is a range like 30000-32767, the default, as Kubernetes has it.
	NodePorts string `toml:"node_ports"`
}

// Pools are Services, taken apart.
type Pools struct {
	Cluster, LoadBalancer []netip.Prefix
	NodePorts             [2]uint16 // first and last
}

// Pools that Parse has checked.
func (s Services) Pools() Pools {
	p, err := s.parsed()
	if err != nil {
		panic(err)
	}
	return p
}

func (s Services) parsed() (p Pools, err error) {
	cluster, ports := s.ClusterPool, s.NodePorts
	if len(cluster) == 0 {
		cluster = []string{"10.96.0.0/16", "fd67:6800:96::/112"}
	}
	if ports == "" {
		ports = "30000-32767"
	}
	if p.Cluster, err = pool("cluster_pool", cluster); err != nil {
		return p, err
	}
	if p.LoadBalancer, err = pool("load_balancer_pool", s.LoadBalancerPool); err != nil {
		return p, err
	}
	a, b, _ := strings.Cut(ports, "-")
	first, err1 := strconv.ParseUint(a, 10, 16)
	last, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || first > last {
		return p, fmt.Errorf("node_ports: %q is not a range like 30000-32767", s.NodePorts)
	}
	p.NodePorts = [2]uint16{uint16(first), uint16(last)}
	return p, nil
}

func pool(key string, list []string) (out []netip.Prefix, err error) {
	for _, text := range list {
		x, err := netip.ParsePrefix(text)
		switch {
		case err != nil || x.Addr().Is4In6():
			return nil, fmt.Errorf("%s: %q is not a prefix like 192.0.2.240/28", key, text)
		case len(out) > 1 || len(out) == 1 && out[0].Addr().Is4() == x.Addr().Is4():
			return nil, fmt.Errorf("%s: at most one prefix of each family", key)
		}
		out = append(out, x.Masked())
	}
	return out, nil
}
