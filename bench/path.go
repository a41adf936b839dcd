// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CPUs that clients and servers are pinned to; what is in between runs where the
// packet is.
const clientCPU, serverCPU = 0, 1

// path is one way from a client to a server: a row of a table.
type path struct {
	name   string
	client *node
	server *node
	others []*node // more servers, where a service has several
	dev    string  // of the servers, where packets arrive
	// addr is what the client calls, "" where the path does not have the family.
	addr4, addr6 string
	port         uint16                 // that the client calls; 0 = trafficPort
	dports       int                    // new flows may spread over so many ports; 0 = 1
	flush        func() error           // forgets flows; nil = there are none
	fresh        bool                   // flush before every sample of connections, too
	lossy        bool                   // loses first packets when they come too fast
	once         map[string]float64     // figures measured when it was built
	why          func() (string, error) // says what went wrong, e.g. drops
	pins         []string               // of the switches on the way, whose programs are profiled

	meter *meter
}

// metric is one thing to measure; it gives one or more columns.
type metric struct {
	name    string
	columns []column
	measure func(p *path, to netip.AddrPort) ([]float64, error)
}

type column struct {
	name   string
	format string
	less   bool // smaller is better
}

// How long a sample takes.
const (
	warmUp     = 120 * time.Millisecond
	sampleTime = 500 * time.Millisecond
)

var (
	colKpps  = column{"kpps", "%.0f", false}
	colGbit  = column{"TCP Gbit/s", "%.1f", false}
	colCPU   = column{"CPU s/Gbit", "%.4f", true}
	colP50   = column{"RR p50 µs", "%.1f", true}
	colP99   = column{"RR p99 µs", "%.1f", true}
	colCRR   = column{"CRR/s", "%.0f", false}
	colFlows = column{"new kflows/s", "%.1f", false}

	metricPPS   = metric{"pps", []column{colKpps}, (*path).pps}
	metricTCP   = metric{"tcp", []column{colGbit, colCPU}, (*path).tcp}
	metricRR    = metric{"rr", []column{colP50, colP99}, (*path).rr}
	metricCRR   = metric{"crr", []column{colCRR}, (*path).crr}
	metricFlows = metric{"flows", []column{colFlows}, (*path).flows}
)

func (p *path) target(family int) (netip.AddrPort, bool) {
	a := p.addr4
	if family == 6 {
		a = p.addr6
	}
	if a == "" {
		return netip.AddrPort{}, false
	}
	port := p.port
	if port == 0 {
		port = trafficPort
	}
	return netip.AddrPortFrom(netip.MustParseAddr(a), port), true
}

// half is a peer process inside a namespace.
type half struct {
	cmd *exec.Cmd
	out *bufio.Reader
	err strings.Builder
}

func (n *node) start(cpu int, args ...string) (*half, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := n.in("taskset", "-c", strconv.Itoa(cpu), self, "peer")
	w = append(w, args...)
	h := &half{cmd: exec.Command(w[0], w[1:]...)}
	h.cmd.Stderr = &h.err
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(pipe)
	if err := n.s.b.begin(h.cmd); err != nil {
		return nil, err
	}
	return h, nil
}

// line reads one line, after at most some time.
func (h *half) line(limit time.Duration) (string, error) {
	t := time.AfterFunc(limit, func() { _ = h.cmd.Process.Kill() })
	defer t.Stop()
	s, err := h.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: no answer: %s", strings.Join(h.cmd.Args[4:], " "), strings.TrimSpace(h.err.String()))
	}
	return strings.TrimSpace(s), nil
}

// kill ends the process and waits for it.
func (h *half) kill() {
	_ = h.cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, h.out)
	_ = h.cmd.Wait()
}

// wait lets it end by itself.
func (h *half) wait(limit time.Duration) error {
	t := time.AfterFunc(limit, func() { _ = h.cmd.Process.Kill() })
	defer t.Stop()
	_, _ = io.Copy(io.Discard, h.out)
	if err := h.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(h.cmd.Args[4:], " "), err, strings.TrimSpace(h.err.String()))
	}
	return nil
}

// withServer runs a server while f runs.
func (p *path) withServer(mode string, f func(server *half) error) error {
	var first *half
	for _, n := range append([]*node{p.server}, p.others...) {
		s, err := n.start(serverCPU, mode)
		if err != nil {
			return err
		}
		defer s.kill()
		if _, err := s.line(giveUp); err != nil {
			return err
		}
		if first == nil {
			first = s
		}
	}
	return f(first)
}

// ask runs a client to its end and reads the numbers it prints.
func (p *path) ask(n int, args ...string) ([]float64, error) {
	c, err := p.client.start(clientCPU, args...)
	if err != nil {
		return nil, err
	}
	defer c.kill()
	v := make([]float64, n)
	if n > 0 {
		line, err := c.line(sampleTime + 2*giveUp)
		if err != nil {
			return nil, err
		}
		f := strings.Fields(line)
		if len(f) != n {
			return nil, fmt.Errorf("%s: %q", args[0], line)
		}
		for i := range v {
			if v[i], err = strconv.ParseFloat(f[i], 64); err != nil {
				return nil, err
			}
		}
	}
	return v, c.wait(sampleTime + 2*giveUp)
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (p *path) pps(to netip.AddrPort) ([]float64, error) {
	r, _, err := p.packets(to, sampleTime)
	if err == nil && r == 0 {
		err = errors.New("no packet arrived")
	}
	return []float64{r / 1000}, err
}

// packets returns how many packets a second arrive, and how many in all. The
// first one was answered, so that no conversation counts as new any more.
func (p *path) packets(to netip.AddrPort, d time.Duration) (rate, all float64, err error) {
	err = p.withServer("udp-echo", func(*half) error {
		rate, all, err = p.flood(to, d)
		return err
	})
	return rate, all, err
}

func (p *path) flood(to netip.AddrPort, d time.Duration) (rate, all float64, err error) {
	c, err := p.client.start(clientCPU, "udp", to.String(), millis(warmUp+d+50*time.Millisecond))
	if err != nil {
		return 0, 0, err
	}
	defer c.kill()
	if _, err := c.line(giveUp); err != nil {
		return 0, 0, err
	}
	time.Sleep(warmUp)
	n0, t0 := p.meter.count(), time.Now()
	time.Sleep(d)
	n1, t1 := p.meter.count(), time.Now()
	return float64(n1-n0) / t1.Sub(t0).Seconds(), float64(n1 - n0), c.wait(giveUp)
}

func (p *path) tcp(to netip.AddrPort) (v []float64, err error) {
	err = p.withServer("sink", func(s *half) error {
		cpu := watchCPU()
		if _, err := p.ask(0, "stream", to.String(), millis(sampleTime)); err != nil {
			return err
		}
		busy, _ := cpu.used()
		line, err := s.line(giveUp)
		if err != nil {
			return err
		}
		var bytes, seconds float64
		if _, err := fmt.Sscan(line, &bytes, &seconds); err != nil || seconds == 0 {
			return fmt.Errorf("sink: %q", line)
		}
		gbit := bytes * 8 / 1e9
		v = []float64{gbit / seconds, busy / gbit}
		return nil
	})
	return v, err
}

func (p *path) rr(to netip.AddrPort) (v []float64, err error) {
	err = p.withServer("echo", func(*half) error {
		v, err = p.ask(2, "rr", to.String(), millis(sampleTime))
		return err
	})
	return v, err
}

func (p *path) crr(to netip.AddrPort) (v []float64, err error) {
	err = p.withServer("accept", func(*half) error {
		v, err = p.ask(1, "crr", to.String(), millis(sampleTime))
		return err
	})
	return v, err
}

// Flows of one burst: below what the smallest of our tables holds (65536 IPv6
// entries, two each, 80 % before it counts as crowded). Bursts of a sample, and how
// long one may take.
const (
	burst     = 24000
	bursts    = 4
	burstTime = 300 * time.Millisecond
)

func (p *path) flows(to netip.AddrPort) ([]float64, error) {
	n, sent, seconds := 0.0, 0.0, 0.0
	for range bursts {
		if err := p.forget(); err != nil {
			return nil, err
		}
		before := p.meter.count()
		v, err := p.ask(2, "flows", to.String(), strconv.Itoa(burst), strconv.Itoa(max(1, p.dports)))
		if err != nil {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond) // the last ones are still on their way
		n += float64(p.meter.count() - before)
		seconds += v[0]
		sent += v[1]
	}
	if n < sent*0.99 && !p.lossy {
		return nil, fmt.Errorf("only %.0f of %.0f first packets arrived", n, sent)
	}
	return []float64{n / seconds / 1000}, nil
}

func (p *path) forget() error {
	if p.flush == nil {
		return nil
	}
	return p.flush()
}

// explain adds what the path itself knows to an error.
func (p *path) explain(err error) error {
	if err == nil || p.why == nil {
		return err
	}
	if w, e := p.why(); e == nil && w != "" {
		return fmt.Errorf("%w (%s)", err, w)
	}
	return err
}
