// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// lending is change for verbs that make endpoints. Those may need a lease, which is
// asked for outside of the transaction, since servers take their time; then the verb is
// done again with it. What no endpoint has in the end is given back. A daemon that
// dies in between leaves nothing but a lease at its server, which runs out.
func (h *HNS) lending(ctx context.Context, op string, f func(model.World, model.Input) (model.World, error)) error {
	var (
		leased []model.DHCPClient
		ids    []string // of the first run: the objects are the same each time
	)
	defer func() {
		for _, c := range leased {
			if _, made := h.World().Endpoint(c.Endpoint); !made {
				h.o.Clients.Release(c)
			}
		}
	}()
	for {
		err := h.change(ctx, op, func(w model.World, in model.Input) (model.World, error) {
			next := 0
			in.Leased, in.NewID = leased, func() string {
				if next == len(ids) {
					ids = append(ids, h.o.NewID())
				}
				next++
				return ids[next-1]
			}
			return f(w, in)
		})
		var need *model.NeedsLease
		if !errors.As(err, &need) {
			return err
		}
		c := need.Client
		if c.Lease, err = h.acquire(ctx, c); err != nil {
			return wrap(op, err)
		}
		// One for a MAC that another took meanwhile is the same client's.
		leased = append(slices.DeleteFunc(leased, func(o model.DHCPClient) bool { return o.Endpoint == c.Endpoint }), c)
	}
}

func (h *HNS) acquire(ctx context.Context, c model.DHCPClient) (model.DHCPLease, error) {
	refused := &model.Error{Code: hcn.HCN_E_ADDR_INVALID_OR_RESERVED, Field: "IpConfigurations", Status: http.StatusGatewayTimeout}
	if h.o.Clients == nil {
		refused.Text = "nobody here asks DHCP servers"
		return model.DHCPLease{}, refused
	}
	l, err := h.o.Clients.Acquire(ctx, c)
	if err != nil {
		refused.Text = "no address by DHCP on uplink " + c.Uplink + ": " + err.Error()
		return l, &stepError{refused, err}
	}
	return l, nil
}

// Lend notes what an endpoint's DHCP client has now: a lease, or one without an address
// when it has none any more. It returns when the vNIC and the switch are so. The refusal
// says why an address cannot be the endpoint's.
func (h *HNS) Lend(ctx context.Context, endpoint string, l model.DHCPLease) error {
	return h.change(ctx, "lease of endpoint "+endpoint, func(w model.World, in model.Input) (model.World, error) {
		return w.Lend(endpoint, l, in)
	})
}

// leaseHealth tells of an endpoint's lease in its health.
func leaseHealth(l *model.DHCPLease, data map[string]string) {
	if !l.Addr.IsValid() {
		data["Status"], data["Reason"] = "Degraded", "no DHCP server lends it an address at present"
		return
	}
	data["LeasedBy"], data["LeaseExpires"] = l.Server.String(), l.Expires.UTC().Format(time.RFC3339)
}
