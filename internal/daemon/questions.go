// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"net/url"

	"gatehouse.dev/gatehouse/internal/door/api"
	"gatehouse.dev/gatehouse/internal/door/host"
)

// questions are the read-only answers below /host/v1.
func (d *daemon) questions() map[string]api.Query {
	return map[string]api.Query{
		"version": func(context.Context, url.Values) (any, error) { return d.version(), nil },
		"doctor": func(ctx context.Context, _ url.Values) (any, error) {
			return append(Doctor(ctx), d.checkSwitch(), d.checkPolicy(), d.checkMachines(ctx)), nil
		},
		"leaks": func(ctx context.Context, _ url.Values) (any, error) { return d.leaks(ctx) },
		"flows": func(_ context.Context, q url.Values) (any, error) { return d.flows(q) },
		"drops": func(context.Context, url.Values) (any, error) { return d.drops() },
		"graph": func(ctx context.Context, _ url.Values) (any, error) { return d.hns.Graph(ctx) },
		"ports": func(ctx context.Context, _ url.Values) (any, error) { return list(d.hns.PublishedPorts(ctx)) },
		"who":   func(ctx context.Context, q url.Values) (any, error) { return list(d.hns.Who(ctx, q.Get("q"))) },
	}
}

// streams are the answers below /host/v1 that go on.
func (d *daemon) streams() map[string]api.Stream {
	return map[string]api.Stream{
		"capture": {Type: "application/vnd.tcpdump.pcapng", Run: d.capture},
		"watch":   {Type: "application/x-ndjson", Run: d.watchSwitch},
	}
}

// list answers [] where there is nothing.
func list[T any](v []T, err error) (any, error) {
	if v == nil {
		v = []T{}
	}
	return v, err
}

func (d *daemon) drops() (any, error) {
	ds, err := d.dp.Drops()
	if err != nil {
		return nil, err
	}
	names := &portNames{hns: d.hns}
	out := []host.Drop{}
	for _, x := range ds {
		at := ""
		if x.Port != 0 {
			at = names.text(x.Port)
		}
		out = append(out, host.Drop{Port: int(x.Port), At: at, Reason: x.Reason, Layer: x.Layer, Packets: x.Packets, Bytes: x.Bytes})
	}
	return out, nil
}
