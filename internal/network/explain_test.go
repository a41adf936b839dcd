// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestExplain asks a service whose kernel is a fake: what needs no routes.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.h.Plug(ctx, "rt-2", id(2), plugDocs(2)); err != nil {
		t.Fatal(err)
	}
	before := w.k.Tables
	for _, c := range []struct{ ask, verdict, says string }{
		{`"From":"c1","To":"c2","Port":80`, "forward", "endpoint c2"},
		{`"From":"rt-1","To":"c2"`, "forward", "icmp"},
		{`"From":"host","To":"c1","Port":80`, "forward", "endpoint c1"},
		{`"From":"host","To":"localhost","Port":8001`, "forward", "endpoint c1"},
		{`"From":"host","To":"localhost","Port":8009`, "pass", "process of the host"},
		{`"From":"c1","To":"gateway","Port":53,"Protocol":17`, "forward", "the host"},
		{`"From":"c1","To":"c1","Port":80`, "pass", "the container itself"},
		{`"From":"c1","To":"localhost","Port":80`, "pass", "the container itself"},
		{`"From":"c1","To":"172.16.0.200","Port":80`, "unreachable", "nobody"},
		{`"From":"c1","To":"c2","Port":80,"Source":"172.16.0.99"`, "drop", "SPOOF_IP"},
		{`"From":"c1","To":"outside","Port":80`, "drop", "routing table"},
	} {
		x, err := w.h.Explain(ctx, json.RawMessage("{"+c.ask+"}"))
		if err != nil {
			t.Errorf("%s: %v", c.ask, err)
			continue
		}
		raw, _ := json.Marshal(x)
		if x.Verdict != c.verdict || !strings.Contains(string(raw), c.says) {
			t.Errorf("%s: %s; want %s and %q", c.ask, raw, c.verdict, c.says)
		}
	}
	if w.k.Tables != before {
		t.Error("a question changed the tables")
	}
	for _, c := range []struct {
		ask   string
		class error
		says  string
	}{
		{`"From":"nobody","To":"c1","Port":80`, errdefs.ErrNotFound, "nobody"},
		{`"From":"c1","To":"","Port":80`, errdefs.ErrInvalidArgument, "To"},
		{`"From":"c1","To":"c2","Protocol":6`, errdefs.ErrInvalidArgument, "Port"},
		{`"From":"gateway","To":"c2","Port":1`, errdefs.ErrInvalidArgument, "From"},
		{`"From":"c1","To":"c2","Port":80,"Source":"x"`, errdefs.ErrInvalidArgument, "Source"},
		{`"From":"fd00::1","To":"10.0.0.1","Port":80`, errdefs.ErrInvalidArgument, "family"},
		{`"From":"c1","Too":"c2"`, errdefs.ErrInvalidArgument, "Too"},
	} {
		if _, err := w.h.Explain(ctx, json.RawMessage("{"+c.ask+"}")); err == nil || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v; want %q", c.ask, err, c.says)
		} else if !errors.Is(err, c.class) {
			t.Errorf("%s: %v is not of class %v", c.ask, err, c.class)
		}
	}
}
