// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"time"
)

// Event is one fact, in the order of Revision.
type Event struct {
	Revision uint64
	Time     time.Time
	Type     uint32
	Name     string
	Kind     string
	ID       string
	Flags    uint32
	Status   int64           // HRESULT of the verb that the event reports
	Data     json.RawMessage `json:",omitempty"`
}

// Event types. Those above 0x80000000 are ours, inside the mask that the schema reserves.
const (
	EventNetworkPreCreate        uint32 = 1
	EventNetworkCreate           uint32 = 2
	EventNetworkPreDelete        uint32 = 3
	EventNetworkDelete           uint32 = 4
	EventNamespaceCreate         uint32 = 5
	EventNamespaceDelete         uint32 = 6
	EventGuestServiceCreate      uint32 = 7
	EventGuestServiceDelete      uint32 = 8
	EventNetworkEndpointAttached uint32 = 0x09
	EventNetworkEndpointDetached uint32 = 0x10
	EventGuestServiceState       uint32 = 0x11
	EventGuestServiceInterface   uint32 = 0x12
	EventServiceDisconnect       uint32 = 0x01000000
	EventEndpointCreate          uint32 = 0x80000001
	EventEndpointModify          uint32 = 0x80000002
	EventEndpointDelete          uint32 = 0x80000003
	EventLoadBalancerCreate      uint32 = 0x80000004
	EventLoadBalancerModify      uint32 = 0x80000005
	EventLoadBalancerDelete      uint32 = 0x80000006
	EventSdnRouteCreate          uint32 = 0x80000007
	EventSdnRouteModify          uint32 = 0x80000008
	EventSdnRouteDelete          uint32 = 0x80000009
	EventNetworkModify           uint32 = 0x8000000a
	EventNamespaceModify         uint32 = 0x8000000b
	EventServiceCreate           uint32 = 0x8000000c
	EventServiceModify           uint32 = 0x8000000d
	EventServiceDelete           uint32 = 0x8000000e
)

// EventOptions select events. The zero value asks for all from now on.
type EventOptions struct {
	Since uint64 // revisions above this one; 0 = from now on
	Kind  string
	ID    string
}

// Events yields events until ctx ends, the service stops or the loop breaks. The
// last pair may carry an error.
func (c *Client) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		v := url.Values{}
		if o.Since > 0 {
			v.Set("since", strconv.FormatUint(o.Since, 10))
		}
		if o.Kind != "" {
			v.Set("kind", o.Kind)
		}
		if o.ID != "" {
			v.Set("id", o.ID)
		}
		resp, err := c.do(ctx, "hcnEvents", "GET", "/events?"+v.Encode(), nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 32<<20)
		for lines.Scan() {
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue
			}
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				yield(Event{}, fmt.Errorf("hcnEvents: %w", err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			yield(Event{}, fmt.Errorf("hcnEvents: %w", err))
		}
	}
}
