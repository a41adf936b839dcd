// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// exposition writes Prometheus' text form, one family after the other.
type exposition struct {
	w   io.Writer
	err error
	// names of ports, as of the beginning of the answer.
	names map[vswitch.PortID]network.PortName
}

// family writes the two comment lines that head a metric. kind is counter or gauge.
func (e *exposition) family(name, kind, help string) {
	e.printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// one is a family with one value.
func (e *exposition) one(name, kind, help string, v any) {
	e.family(name, kind, help)
	e.value(name, v)
}

// value is one value of the family; labels are names and values in turn.
func (e *exposition) value(name string, v any, labels ...string) {
	var b strings.Builder
	for i := 0; i+1 < len(labels); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, labels[i], label(labels[i+1]))
	}
	if b.Len() > 0 {
		name += "{" + b.String() + "}"
	}
	e.printf("%s %v\n", name, v)
}

func (e *exposition) printf(format string, a ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format, a...)
	}
}

// port are the labels that say which port is meant.
func (e *exposition) port(id vswitch.PortID) []string {
	p := e.names[id]
	kind := p.Kind
	if kind == "" {
		kind = "unknown"
	}
	return []string{"port", fmt.Sprint(id), "kind", kind, "network", p.Network, "name", p.Name}
}

// label escapes a label's value.
func label(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

// metricSources write one group of families each. Whoever has more to count adds
// a function.
func (d *daemon) metricSources() []func(context.Context, *exposition) error {
	return []func(context.Context, *exposition) error{
		d.processMetrics, d.systemMetrics, d.switchMetrics, d.flowMetrics, d.dropMetrics, d.portMetrics, d.endpointMetrics, d.serviceMetrics, d.ruleMetrics,
	}
}

func (d *daemon) metrics(ctx context.Context, w io.Writer) error {
	e := &exposition{w: w, names: d.hns.PortNames()}
	for _, write := range d.metricSources() {
		if err := write(ctx, e); err != nil {
			return err
		}
	}
	return e.err
}

func (d *daemon) processMetrics(_ context.Context, e *exposition) error {
	e.family("gatehouse_build_info", "gauge", "The version that runs.")
	e.value("gatehouse_build_info", 1, "version", Version, "go", runtime.Version())
	e.one("gatehouse_start_time_seconds", "gauge", "When the daemon started, since 1970.", float64(d.started.UnixMilli())/1000)
	e.one("gatehouse_revision", "gauge", "Revision of the store.", d.db.Revision())
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e.one("go_goroutines", "gauge", "Goroutines of the daemon.", runtime.NumGoroutine())
	e.one("go_memstats_heap_inuse_bytes", "gauge", "Bytes of heap in use.", mem.HeapInuse)
	return nil
}

func (d *daemon) systemMetrics(ctx context.Context, e *exposition) error {
	sys, err := d.hcs.Enumerate(ctx, hcs.SystemQuery{}, true)
	if err != nil {
		return err
	}
	states := map[string]int{}
	for _, p := range sys {
		states[strings.ToLower(string(p.State))]++
	}
	e.family("gatehouse_systems", "gauge", "Compute systems by state.")
	for _, s := range slices.Sorted(maps.Keys(states)) {
		e.value("gatehouse_systems", states[s], "state", s)
	}
	return nil
}

func (d *daemon) switchMetrics(_ context.Context, e *exposition) error {
	m := d.dp.Metrics()
	e.one("gatehouse_switch_generation", "gauge", "Generation of the switch's programs.", m.Generation)
	e.one("gatehouse_switch_applies_total", "counter", "Tables applied.", m.Applies)
	e.one("gatehouse_switch_apply_errors_total", "counter", "Tables that could not be applied.", m.ApplyErrors)
	doubt := 0
	if m.InDoubt {
		doubt = 1
	}
	e.one("gatehouse_switch_in_doubt", "gauge", "1 while a change that failed halfway is not put right.", doubt)
	e.one("gatehouse_switch_apply_seconds_total", "counter", "Time spent in applying.", m.ApplyTime.Seconds())
	e.one("gatehouse_switch_rows_written_total", "counter", "Map entries written.", m.RowsWritten)
	e.family("gatehouse_switch_repairs_total", "counter", "Attachments that another process took away (gone) or got before (behind), pins that it removed (unpinned), and that were put right.")
	e.value("gatehouse_switch_repairs_total", m.RepairedGone, "damage", "gone")
	e.value("gatehouse_switch_repairs_total", m.RepairedBehind, "damage", "behind")
	e.value("gatehouse_switch_repairs_total", m.RepairedUnpinned, "damage", "unpinned")
	e.family("gatehouse_uplink_changes_total", "counter", "Uplinks that came, went (their last address, their device, or set down), lost their carrier or got it back.")
	for _, c := range compartment.UplinkChanges() {
		e.value("gatehouse_uplink_changes_total", d.uplinks.of(c), "change", c)
	}
	e.one("gatehouse_switch_preceded_ports", "gauge", "Ports on whose device another's tcx program runs before the switch, as of the last sweep.", m.Preceded)
	e.one("gatehouse_switch_repair_errors_total", "counter", "Times that an attachment could not be put right within a second.", m.RepairErrors)
	e.one("gatehouse_switch_events_total", "counter", "Events of drops and conversations read from the programs.", m.Events)
	e.one("gatehouse_switch_events_suppressed_total", "counter", "Events that the programs held back, beyond their rates.", m.EventsHeld)
	e.one("gatehouse_switch_events_lost_total", "counter", "Events that a client was too slow for.", m.EventsLost)
	e.one("gatehouse_switch_events_malformed_total", "counter", "Events that this version does not understand.", m.EventsMalformed)
	e.one("gatehouse_switch_read_errors_total", "counter", "Times that events or packets could not be read from the programs, which ended captures or streams of events.", m.ReadErrors)
	e.one("gatehouse_switch_captures", "gauge", "Captures that run.", m.Captures)
	e.one("gatehouse_switch_captured_packets_total", "counter", "Packets read for captures.", m.Samples)
	e.one("gatehouse_switch_capture_lost_packets_total", "counter", "Packets that captures were too slow for.", m.SamplesLost)
	return nil
}

func (d *daemon) flowMetrics(_ context.Context, e *exposition) error {
	m := d.dp.Metrics()
	e.one("gatehouse_switch_sweeps_total", "counter", "Sweeps of the flow tables.", m.Sweeps)
	e.one("gatehouse_switch_sweep_seconds_total", "counter", "Time spent in sweeping.", m.SweepTime.Seconds())
	e.one("gatehouse_switch_flows_swept_total", "counter", "Flows removed by sweeps.", m.FlowsSwept)
	e.family("gatehouse_switch_flows", "gauge", "Entries of the flow tables as of the last sweep; a conversation has two.")
	e.value("gatehouse_switch_flows", m.Flows4, "family", "4")
	e.value("gatehouse_switch_flows", m.Flows6, "family", "6")
	e.family("gatehouse_switch_flows_limit", "gauge", "Entries that the flow tables can hold.")
	e.value("gatehouse_switch_flows_limit", m.FlowsLimit4, "family", "4")
	e.value("gatehouse_switch_flows_limit", m.FlowsLimit6, "family", "6")
	e.family("gatehouse_switch_conversations", "gauge", "Conversations by state, as of the last sweep.")
	for _, s := range datapath.FlowStates() {
		e.value("gatehouse_switch_conversations", m.Conversations[s], "state", s)
	}
	e.one("gatehouse_switch_nat_bindings", "gauge", "Conversations with translated addresses or ports, as of the last sweep.", m.NATBindings)
	return nil
}

func (d *daemon) dropMetrics(_ context.Context, e *exposition) error {
	drops, err := d.dp.Drops()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, help string
		get        func(datapath.Drop) uint64
	}{
		{"gatehouse_switch_drops_total", "Packets dropped, by port (0 = unknown device), layer and reason.", func(x datapath.Drop) uint64 { return x.Packets }},
		{"gatehouse_switch_drop_bytes_total", "Bytes of packets dropped, likewise.", func(x datapath.Drop) uint64 { return x.Bytes }},
	} {
		e.family(f.name, "counter", f.help)
		for _, x := range drops {
			e.value(f.name, f.get(x), append(e.port(x.Port), "layer", x.Layer, "reason", x.Reason)...)
		}
	}
	return nil
}

// portMetrics are of every port: endpoints, host vNICs, uplinks.
func (d *daemon) portMetrics(_ context.Context, e *exposition) error {
	ids := slices.Sorted(maps.Keys(e.names))
	stats := map[vswitch.PortID]datapath.PortStats{}
	for _, id := range ids {
		var err error
		if stats[id], err = d.dp.Stats(id); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name, help string
		get        func(datapath.PortStats) uint64
	}{
		{"gatehouse_port_receive_bytes_total", "Bytes towards what is plugged into the port: forwarded, copies, answers of the switch.", func(s datapath.PortStats) uint64 { return s.RxBytes }},
		{"gatehouse_port_receive_packets_total", "Packets towards it.", func(s datapath.PortStats) uint64 { return s.RxPackets }},
		{"gatehouse_port_transmit_bytes_total", "Bytes from it.", func(s datapath.PortStats) uint64 { return s.TxBytes }},
		{"gatehouse_port_transmit_packets_total", "Packets from it that went their way or were for the switch.", func(s datapath.PortStats) uint64 { return s.TxPackets }},
		{"gatehouse_port_receive_drops_total", "Packets for it that its own rules refused; among the drops of who sent them.", func(s datapath.PortStats) uint64 { return s.RxDrops }},
		{"gatehouse_port_transmit_drops_total", "Packets from it that were dropped.", func(s datapath.PortStats) uint64 { return s.TxDrops }},
	} {
		e.family(f.name, "counter", f.help)
		for _, id := range ids {
			e.value(f.name, f.get(stats[id]), e.port(id)...)
		}
	}
	var limited []vswitch.PortID
	e.family("gatehouse_port_flows", "gauge", "Conversations that the port began and that are still known.")
	limits := map[vswitch.PortID]uint32{}
	for _, id := range ids {
		if id >= vswitch.FirstUplinkPort {
			continue // all uplinks are one to flows
		}
		used, limit, err := d.dp.PortFlows(id)
		if err != nil {
			return err
		}
		e.value("gatehouse_port_flows", used, e.port(id)...)
		if limit > 0 {
			limited, limits[id] = append(limited, id), limit
		}
	}
	e.family("gatehouse_port_flows_limit", "gauge", "Conversations that the port may have, where that is limited.")
	for _, id := range limited {
		e.value("gatehouse_port_flows_limit", limits[id], e.port(id)...)
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
		{"gatehouse_endpoint_receive_drops_total", "Packets for the endpoint that its own rules refused; among the drops of who sent them.", func(s datapath.PortStats) uint64 { return s.RxDrops }},
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

// serviceMetrics are the counters of every service and published port.
func (d *daemon) serviceMetrics(_ context.Context, e *exposition) error {
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
			e.value(f.name, f.get(s), "service", fmt.Sprint(s.ID), "object", s.Object, "name", s.Name)
		}
	}
	return nil
}

// ruleMetrics are the counters of ACL rules that have decided anything.
func (d *daemon) ruleMetrics(_ context.Context, e *exposition) error {
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
			e.value(f.name, f.get(r), "id", fmt.Sprint(r.Rule), "set", r.Set, "rule", r.Name, "action", r.Action.String())
		}
	}
	return nil
}
