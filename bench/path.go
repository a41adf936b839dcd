// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/ipv4"

	"gatehouse.dev/gatehouse/hcn"
)

// A pair is two network namespaces that reach each other, one way or another.
type pair struct {
	name         string
	client       []string // words that run a command at the client
	server       []string
	addr         string // of the server
	tput, rr, pp series
	p99          series
}

// benchPath: container to container on one host, through gatehouse's switch and
// through veth + Linux bridge: TCP throughput (iperf3, one stream, cubic),
// request/response of 64 bytes over TCP, and small UDP packets a second. Servers
// are pinned to the last CPU, clients to the first.
func benchPath(b *bench, r *report, rounds int) error {
	if rounds == 0 {
		rounds = 6
	}
	gh, err := b.ghPair()
	if err != nil {
		return err
	}
	br, err := b.bridgePair()
	if err != nil {
		return err
	}
	pairs := []*pair{gh, br}
	for range rounds {
		for _, p := range pairs {
			if err := p.measure(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	r.title("Container to container on one host (%d rounds, interleaved, medians)", rounds)
	var rows []string
	for _, p := range pairs {
		rows = append(rows, fmt.Sprintf("%s | %.1f | %.1f | %.1f | %.0f", p.name, p.tput.median(), p.rr.median(), p.p99.median(), p.pp.median()))
	}
	rows = append(rows, fmt.Sprintf("gatehouse / bridge | %.2f | %.2f | %.2f | %.2f",
		gh.tput.median()/br.tput.median(), gh.rr.median()/br.rr.median(), gh.p99.median()/br.p99.median(), gh.pp.median()/br.pp.median()))
	r.table("path | TCP Gbit/s | RR p50 us | RR p99 us | kpps, 60-byte frames", rows...)
	return nil
}

func (b *bench) ghPair() (*pair, error) {
	h, err := b.gatehouse()
	if err != nil {
		return nil, err
	}
	c := &hcn.Client{Socket: filepath.Join(h.root, "run", "gatehouse.sock")}
	ctx := context.Background()
	nets, err := c.ListNetworks(ctx, hcn.HostComputeQuery{})
	if err != nil {
		return nil, err
	}
	p := &pair{name: "gatehouse vSwitch"}
	for i := range 2 {
		ns, err := c.CreateNamespace(ctx, &hcn.HostComputeNamespace{Type: hcn.NamespaceTypeHost})
		if err != nil {
			return nil, err
		}
		b.defer_(func() { _ = c.DeleteNamespace(ctx, ns.Id) })
		ep, err := c.CreateEndpoint(ctx, &hcn.HostComputeEndpoint{Name: fmt.Sprintf("path%d", i),
			HostComputeNetwork: nets[0].Id, HostComputeNamespace: ns.Id})
		if err != nil {
			return nil, err
		}
		b.defer_(func() { _ = c.DeleteEndpoint(ctx, ep.Id) })
		words := []string{"nsenter", "--net=" + filepath.Join(h.root, "run", "netns", ns.Id)}
		if i == 0 {
			p.client = words
		} else {
			p.server, p.addr = words, ep.IpConfigurations[0].IpAddress
		}
	}
	return p, nil
}

func (b *bench) bridgePair() (*pair, error) {
	host := "ghbench-br"
	for _, n := range []string{host, "ghbench-br1", "ghbench-br2"} {
		if err := b.netns(n); err != nil {
			return nil, err
		}
	}
	for _, c := range []string{
		"ip -n " + host + " link add br0 type bridge",
		"ip -n " + host + " link set br0 up",
		// netfilter on bridges is on in every new namespace: switch it off, the
		// baseline is the plain bridge.
		"nsenter --net=/run/netns/" + host + " sysctl -qw net.bridge.bridge-nf-call-iptables=0",
		"ip -n " + host + " link add v1 type veth peer name eth0 netns ghbench-br1",
		"ip -n " + host + " link add v2 type veth peer name eth0 netns ghbench-br2",
		"ip -n " + host + " link set v1 master br0 up",
		"ip -n " + host + " link set v2 master br0 up",
		"ip -n ghbench-br1 addr add 10.88.0.1/24 dev eth0",
		"ip -n ghbench-br2 addr add 10.88.0.2/24 dev eth0",
		"ip -n ghbench-br1 link set eth0 up",
		"ip -n ghbench-br2 link set eth0 up",
	} {
		w := strings.Fields(c)
		if _, err := sh(w[0], w[1:]...); err != nil && !strings.Contains(c, "sysctl") {
			return nil, err
		}
	}
	return &pair{name: "veth + Linux bridge", client: in("ghbench-br1"), server: in("ghbench-br2"), addr: "10.88.0.2"}, nil
}

func words(groups ...[]string) (w []string) {
	for _, g := range groups {
		w = append(w, g...)
	}
	return w
}

func pin(cpu int) []string { return []string{"taskset", "-c", strconv.Itoa(cpu)} }

// serve starts a server and returns what stops it.
func serve(w []string) (func(), error) {
	cmd := exec.Command(w[0], w[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }, nil
}

func (p *pair) measure() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	stop, err := serve(words(p.server, pin(1), []string{"iperf3", "-s", "-1", "-p", "5301", "--logfile", "/dev/null"}))
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	w := words(p.client, pin(0), []string{"iperf3", "-c", p.addr, "-p", "5301", "-t", "2", "-C", "cubic", "-J"})
	out, err := sh(w[0], w[1:]...)
	stop()
	if err != nil {
		return err
	}
	var res struct {
		End struct {
			SumReceived struct {
				BPS float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		return err
	}
	p.tput = append(p.tput, res.End.SumReceived.BPS/1e9)

	if stop, err = serve(words(p.server, pin(1), []string{self, "peer", "rr-server"})); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	w = words(p.client, pin(0), []string{self, "peer", "rr-client", p.addr})
	out, err = sh(w[0], w[1:]...)
	stop()
	if err != nil {
		return err
	}
	var p50, p99 float64
	if _, err := fmt.Sscan(out, &p50, &p99); err != nil {
		return fmt.Errorf("rr: %q: %w", out, err)
	}
	p.rr, p.p99 = append(p.rr, p50), append(p.p99, p99)

	cmd := words(p.server, pin(1), []string{self, "peer", "udp-sink"})
	sink := exec.Command(cmd[0], cmd[1:]...)
	pipe, err := sink.StdoutPipe()
	if err != nil {
		return err
	}
	if err := sink.Start(); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	w = words(p.client, pin(0), []string{self, "peer", "udp-source", p.addr})
	if _, err := sh(w[0], w[1:]...); err != nil {
		return err
	}
	var pps float64
	if _, err := fmt.Fscan(pipe, &pps); err != nil {
		return err
	}
	_ = sink.Wait()
	p.pp = append(p.pp, pps/1000)
	return nil
}

// peer is the other half of a measurement, run inside a namespace.
func peer(args []string) error {
	switch args[0] {
	case "rr-server":
		l, err := net.Listen("tcp", ":5302")
		if err != nil {
			return err
		}
		c, err := l.Accept()
		if err != nil {
			return err
		}
		buf := make([]byte, 64)
		for {
			if _, err := c.Read(buf); err != nil {
				return nil
			}
			if _, err := c.Write(buf); err != nil {
				return nil
			}
		}
	case "rr-client":
		c, err := net.Dial("tcp", net.JoinHostPort(args[1], "5302"))
		if err != nil {
			return err
		}
		buf := make([]byte, 64)
		var t series
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
			t0 := time.Now()
			if _, err := c.Write(buf); err != nil {
				return err
			}
			if _, err := c.Read(buf); err != nil {
				return err
			}
			t = append(t, float64(time.Since(t0).Nanoseconds())/1000)
		}
		fmt.Println(t.median(), t.q(0.99))
	case "udp-source":
		c, err := net.Dial("udp", net.JoinHostPort(args[1], "5303"))
		if err != nil {
			return err
		}
		pc := ipv4.NewPacketConn(c.(*net.UDPConn))
		batch := make([]ipv4.Message, 64)
		for i := range batch {
			batch[i].Buffers = [][]byte{make([]byte, 18)}
		}
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
			_, _ = pc.WriteBatch(batch, 0)
		}
		for range 100 { // the end mark, often enough to arrive
			_, _ = c.Write([]byte("end"))
		}
	case "udp-sink":
		c, err := net.ListenPacket("udp", ":5303")
		if err != nil {
			return err
		}
		_ = c.(*net.UDPConn).SetReadBuffer(4 << 20)
		pc := ipv4.NewPacketConn(c)
		batch := make([]ipv4.Message, 256)
		for i := range batch {
			batch[i].Buffers = [][]byte{make([]byte, 32)}
		}
		n, first, last := 0, time.Time{}, time.Time{}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			k, err := pc.ReadBatch(batch, 0)
			if err != nil {
				return err
			}
			last = time.Now()
			if n == 0 {
				first = last
			}
			n += k
			if batch[k-1].N == 3 {
				break
			}
		}
		fmt.Println(float64(n) / last.Sub(first).Seconds())
	default:
		return fmt.Errorf("peer %q", args[0])
	}
	return nil
}
