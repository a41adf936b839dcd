// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"runtime"
	"sort"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/door/api"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// questions are the read-only answers below /host/v1.
func (d *daemon) questions() map[string]api.Query {
	return map[string]api.Query{
		"version": func(context.Context, url.Values) (any, error) { return d.version(), nil },
		"doctor":  func(ctx context.Context, _ url.Values) (any, error) { return Doctor(ctx), nil },
		"leaks":   func(ctx context.Context, _ url.Values) (any, error) { return d.leaks(ctx) },
		"flows":   func(context.Context, url.Values) (any, error) { return d.flows() },
		"drops":   func(context.Context, url.Values) (any, error) { return d.drops() },
		"graph":   func(ctx context.Context, _ url.Values) (any, error) { return d.hns.Graph(ctx) },
		"ports":   func(ctx context.Context, _ url.Values) (any, error) { return list(d.hns.PublishedPorts(ctx)) },
		"who":     func(ctx context.Context, q url.Values) (any, error) { return list(d.hns.Who(ctx, q.Get("q"))) },
	}
}

// list answers [] where there is nothing.
func list[T any](v []T, err error) (any, error) {
	if v == nil {
		v = []T{}
	}
	return v, err
}

func (d *daemon) flows() (any, error) {
	out := []host.Flow{}
	err := d.dp.Flows(func(f datapath.Flow) bool {
		h := host.Flow{Zone: uint16(f.Zone), Network: uint16(f.Network), Proto: f.Proto, Src: f.Src, Dst: f.Dst, In: uint16(f.In), Out: uint16(f.Out),
			State: f.State, Reply: f.Reply, Packets: f.Packets, Bytes: f.Bytes, IdleSeconds: f.Idle.Seconds(), AgeSeconds: f.Age.Seconds()}
		h.NATSrc, h.NATDst = changed(f.Src, f.NewSrc), changed(f.Dst, f.NewDst)
		out = append(out, h)
		return true
	})
	return out, err
}

// changed is what an address becomes, invalid if it stays.
func changed(old, now netip.AddrPort) netip.AddrPort {
	if now == old {
		return netip.AddrPort{}
	}
	return now
}

func (d *daemon) drops() (any, error) {
	ds, err := d.dp.Drops()
	if err != nil {
		return nil, err
	}
	out := []host.Drop{}
	for _, x := range ds {
		out = append(out, host.Drop{Port: int(x.Port), Reason: x.Reason, Layer: x.Layer, Packets: x.Packets, Bytes: x.Bytes})
	}
	return out, nil
}

// exposition writes Prometheus' text form, one family after the other.
type exposition struct {
	w   io.Writer
	err error
}

// family writes the two comment lines that head a metric.
func (e *exposition) family(name, kind, help string) {
	e.printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (e *exposition) printf(format string, a ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format, a...)
	}
}

// label escapes a label's value.
func label(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

func (d *daemon) metrics(ctx context.Context, w io.Writer) error {
	e := &exposition{w: w}
	one := func(name, kind, help string, v any) {
		e.family(name, kind, help)
		e.printf("%s %v\n", name, v)
	}
	e.family("gatehouse_build_info", "gauge", "The version that runs.")
	e.printf("gatehouse_build_info{version=\"%s\",go=\"%s\"} 1\n", label(Version), label(runtime.Version()))
	one("gatehouse_start_time_seconds", "gauge", "When the daemon started, since 1970.", float64(d.started.UnixMilli())/1000)
	one("gatehouse_revision", "counter", "Revision of the store.", d.db.Revision())
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	one("go_goroutines", "gauge", "Goroutines of the daemon.", runtime.NumGoroutine())
	one("go_memstats_heap_inuse_bytes", "gauge", "Bytes of heap in use.", mem.HeapInuse)

	sys, err := d.hcs.Enumerate(ctx, hcs.SystemQuery{}, true)
	if err != nil {
		return err
	}
	states := map[string]int{}
	for _, p := range sys {
		states[strings.ToLower(string(p.State))]++
	}
	e.family("gatehouse_systems", "gauge", "Compute systems by state.")
	for _, s := range sorted(states) {
		e.printf("gatehouse_systems{state=\"%s\"} %d\n", label(s), states[s])
	}

	m := d.dp.Metrics()
	one("gatehouse_switch_generation", "gauge", "Generation of the switch's programs.", m.Generation)
	one("gatehouse_switch_applies_total", "counter", "Tables applied.", m.Applies)
	one("gatehouse_switch_apply_errors_total", "counter", "Tables that could not be applied.", m.ApplyErrors)
	one("gatehouse_switch_apply_seconds_total", "counter", "Time spent in applying.", m.ApplyTime.Seconds())
	one("gatehouse_switch_rows_written_total", "counter", "Map entries written.", m.RowsWritten)
	one("gatehouse_switch_sweeps_total", "counter", "Sweeps of the flow tables.", m.Sweeps)
	one("gatehouse_switch_flows_swept_total", "counter", "Flows removed by sweeps.", m.FlowsSwept)
	e.family("gatehouse_switch_flows", "gauge", "Entries of the flow tables as of the last sweep; a conversation has two.")
	e.printf("gatehouse_switch_flows{family=\"4\"} %d\ngatehouse_switch_flows{family=\"6\"} %d\n", m.Flows4, m.Flows6)

	e.family("gatehouse_switch_repairs_total", "counter", "Attachments that another process took away (gone) or got before (behind), and that were put right.")
	e.printf("gatehouse_switch_repairs_total{damage=\"gone\"} %d\ngatehouse_switch_repairs_total{damage=\"behind\"} %d\n", m.RepairedGone, m.RepairedBehind)
	one("gatehouse_switch_preceded_ports", "gauge", "Ports on whose device another's tcx program runs before the switch, as of the last sweep.", m.Preceded)
	one("gatehouse_switch_repair_errors_total", "counter", "Times that an attachment could not be put right within a second.", m.RepairErrors)

	drops, err := d.dp.Drops()
	if err != nil {
		return err
	}
	e.family("gatehouse_switch_drops_total", "counter", "Packets dropped, by port (0 = unknown device), layer and reason.")
	for _, x := range drops {
		e.printf("gatehouse_switch_drops_total{port=\"%d\",layer=\"%s\",reason=\"%s\"} %d\n", x.Port, label(x.Layer), label(x.Reason), x.Packets)
	}
	if err := d.serviceMetrics(e); err != nil {
		return err
	}
	if err := d.ruleMetrics(e); err != nil {
		return err
	}
	return d.endpointMetrics(ctx, e)
}

// ruleMetrics are the counters of ACL rules that have decided anything.
func (d *daemon) ruleMetrics(e *exposition) error {
	all, err := d.dp.RuleStats()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, help string
		get        func(datapath.RuleStats) uint64
	}{
		{"gatehouse_acl_rule_packets_total", "Packets that an ACL rule decided; those that a flow carries afterwards are not asked again.", func(s datapath.RuleStats) uint64 { return s.Packets }},
		{"gatehouse_acl_rule_bytes_total", "Bytes of the packets that an ACL rule decided.", func(s datapath.RuleStats) uint64 { return s.Bytes }},
	} {
		e.family(f.name, "counter", f.help)
		for _, r := range all {
			e.printf("%s{id=\"%d\",set=\"%s\",rule=\"%s\",action=\"%s\"} %d\n", f.name, r.Rule, label(r.Set), label(r.Name), r.Action, f.get(r))
		}
	}
	return nil
}

// serviceMetrics are the counters of every service and published port.
func (d *daemon) serviceMetrics(e *exposition) error {
	all, err := d.dp.Services()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, help string
		get        func(datapath.ServiceStats) uint64
	}{
		{"gatehouse_service_conversations_total", "Conversations given to a backend of the service.", func(s datapath.ServiceStats) uint64 { return s.New }},
		{"gatehouse_service_refused_total", "Conversations that no backend was there for.", func(s datapath.ServiceStats) uint64 { return s.Refused }},
	} {
		e.family(f.name, "counter", f.help)
		for _, s := range all {
			e.printf("%s{service=\"%d\",object=\"%s\",name=\"%s\"} %d\n", f.name, s.ID, label(s.Object), label(s.Name), f.get(s))
		}
	}
	return nil
}

// endpointMetrics are the counters of every port with an endpoint.
func (d *daemon) endpointMetrics(ctx context.Context, e *exposition) error {
	type series struct {
		labels string
		st     datapath.PortStats
	}
	var all []series
	g, err := d.hns.Graph(ctx)
	if err != nil {
		return err
	}
	for _, n := range g.Networks {
		for _, ep := range n.Endpoints {
			if ep.Port == 0 {
				continue
			}
			st, err := d.dp.Stats(vswitch.PortID(ep.Port))
			if err != nil {
				return err
			}
			all = append(all, series{fmt.Sprintf("network=\"%s\",endpoint=\"%s\",name=\"%s\",port=\"%d\"", label(n.Name), label(ep.ID), label(ep.Name), ep.Port), st})
		}
	}
	for _, f := range []struct {
		name, help string
		get        func(datapath.PortStats) uint64
	}{
		{"gatehouse_endpoint_receive_bytes_total", "Bytes towards the endpoint.", func(s datapath.PortStats) uint64 { return s.RxBytes }},
		{"gatehouse_endpoint_receive_packets_total", "Packets towards the endpoint.", func(s datapath.PortStats) uint64 { return s.RxPackets }},
		{"gatehouse_endpoint_receive_drops_total", "Packets towards the endpoint that were dropped.", func(s datapath.PortStats) uint64 { return s.RxDrops }},
		{"gatehouse_endpoint_transmit_bytes_total", "Bytes from the endpoint.", func(s datapath.PortStats) uint64 { return s.TxBytes }},
		{"gatehouse_endpoint_transmit_packets_total", "Packets from the endpoint.", func(s datapath.PortStats) uint64 { return s.TxPackets }},
		{"gatehouse_endpoint_transmit_drops_total", "Packets from the endpoint that were dropped.", func(s datapath.PortStats) uint64 { return s.TxDrops }},
	} {
		e.family(f.name, "counter", f.help)
		for _, s := range all {
			e.printf("%s{%s} %d\n", f.name, s.labels, f.get(s.st))
		}
	}
	return e.err
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
