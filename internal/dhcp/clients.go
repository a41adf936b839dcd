// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

const (
	// acquireLimit is how long a verb waits for a server: the third repetition is out
	// by then, and servers that first look whether somebody has the address take 3 s.
	acquireLimit = 10 * time.Second
	// declinePause comes after an address that could not be used (RFC 2131 section 3.1).
	declinePause = 10 * time.Second
	// nap bounds a sleep, for a timer stands still while the host is suspended.
	nap = time.Minute
)

// Why a client ends.
var (
	errGone    = errors.New("the endpoint is gone")
	errChanged = errors.New("the endpoint asks otherwise now")
	errClosed  = errors.New("the daemon ends")
)

// Clients are the DHCP clients of one host. Make them with NewClients; Close ends them
// and leaves the leases as they are.
type Clients struct {
	log  *slog.Logger
	open func(model.DHCPClient) (wire, error)
	news chan News

	mu      sync.Mutex
	closed  bool
	running map[string]*client // by endpoint
	fresh   map[string]bool    // endpoints with a lease that was acquired just now
	wait    sync.WaitGroup
}

// News is a lease that an endpoint has now, or that it has none (no Addr). Whoever takes
// it from Clients.News calls Took once.
type News struct {
	Endpoint string
	Lease    model.DHCPLease
	took     chan<- error
}

// Took says that the endpoint is so now, or why it cannot be.
func (n News) Took(err error) { n.took <- err }

// client is that of one endpoint.
type client struct {
	model.DHCPClient // as it was at the start
	all              *Clients
	attached         atomic.Bool
	cancel           context.CancelCauseFunc
}

// NewClients makes clients of nobody.
func NewClients(log *slog.Logger) *Clients {
	return &Clients{log: log, open: (&ears{on: map[segment]*ear{}}).open, news: make(chan News), running: map[string]*client{}, fresh: map[string]bool{}}
}

// News of all clients, until Close; there must always be somebody who takes them.
func (k *Clients) News() <-chan News { return k.news }

// Acquire asks for a lease for an endpoint that is about to be made.
func (k *Clients) Acquire(ctx context.Context, c model.DHCPClient) (model.DHCPLease, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, acquireLimit, fmt.Errorf("no server lent one within %s", acquireLimit))
	defer cancel()
	l, err := (&client{DHCPClient: c, all: k}).discover(ctx)
	if err == nil {
		k.mu.Lock()
		k.fresh[c.Endpoint] = true
		k.mu.Unlock()
	}
	return l, err
}

// Release gives back what was acquired for an endpoint that was then not made.
func (k *Clients) Release(c model.DHCPClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fresh[c.Endpoint] && !k.closed {
		delete(k.fresh, c.Endpoint)
		k.wait.Go(func() { (&client{DHCPClient: c, all: k}).release(c.Lease) })
	}
}

// Set replaces all clients. Who is not there any more gives back its lease.
func (k *Clients) Set(want []model.DHCPClient) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	keep := map[string]bool{}
	for _, c := range want {
		keep[c.Endpoint] = true
		if r := k.running[c.Endpoint]; r != nil {
			if r.asks(c) {
				r.attached.Store(c.Attached)
				continue
			}
			r.cancel(errChanged)
		}
		k.start(c)
	}
	for id, r := range k.running {
		if !keep[id] {
			r.cancel(errGone)
			delete(k.running, id)
		}
	}
}

// asks says whether c asks as r does.
func (r *client) asks(c model.DHCPClient) bool {
	c.Lease, c.Attached = r.Lease, r.Attached
	return r.MAC == c.MAC && r.Uplink == c.Uplink && r.VLAN == c.VLAN && r.AsUplink == c.AsUplink
}

// start has a client go on with what its endpoint has; k.mu is held.
func (k *Clients) start(c model.DHCPClient) {
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &client{DHCPClient: c, all: k, cancel: cancel}
	r.attached.Store(c.Attached)
	fresh := k.fresh[c.Endpoint]
	delete(k.fresh, c.Endpoint)
	k.running[c.Endpoint] = r
	k.wait.Go(func() {
		l := r.run(ctx, fresh)
		if context.Cause(ctx) == errGone && l.Addr.IsValid() {
			r.release(l)
		}
	})
}

// Close ends all clients. What they are lent stays theirs.
func (k *Clients) Close() error {
	k.mu.Lock()
	k.closed = true
	for _, r := range k.running {
		r.cancel(errClosed)
	}
	k.mu.Unlock()
	k.wait.Wait()
	close(k.news)
	return nil
}

// run keeps an endpoint's lease until ctx ends, and returns it as it is then. One that
// is not fresh is confirmed first: another daemon got it, and the host may have been
// away (RFC 2131 section 3.2).
func (r *client) run(ctx context.Context, fresh bool) model.DHCPLease {
	l := r.Lease
	log := r.all.log.With("endpoint", r.Endpoint)
	for confirm := !fresh; ctx.Err() == nil; {
		now := time.Now()
		switch {
		case !l.Addr.IsValid():
			confirm = false
			if l = r.borrow(ctx); l.Addr.IsValid() {
				log.Info("leased", "address", l.Addr, "server", l.Server, "until", l.Expires)
			}
			continue
		case !confirm && now.Before(l.Renew):
			sleep(ctx, min(l.Renew.Sub(now), nap))
			continue
		case !confirm && !now.Before(l.Expires):
			log.Warn("the lease has ended and no server extends it; the endpoint has no address until one does", "address", l.Addr)
			l = r.lose(ctx, l)
			continue
		}
		until := l.Expires
		switch {
		case confirm:
			until = now.Add(acquireLimit)
		case now.Before(l.Rebind):
			until = l.Rebind
		}
		next, err := r.extend(ctx, l, confirm, until)
		confirm = false
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errNAK):
			log.Warn("a DHCP server says that the address is not the endpoint's any more", "address", l.Addr)
			l = r.lose(ctx, l)
		case err != nil:
			log.Debug("lease not extended", "address", l.Addr, "error", err)
			sleep(ctx, time.Second) // an uplink that is away says so at once
		case next.Addr == l.Addr:
			if err := r.tell(ctx, next); err != nil && ctx.Err() == nil {
				log.Warn("an extended lease is not noted", "error", err)
			}
			l = next
		default: // a server that knows better
			l = r.lose(ctx, l)
		}
	}
	return l
}

// borrow asks until there is a lease that the endpoint can have, or ctx ends.
func (r *client) borrow(ctx context.Context) model.DHCPLease {
	for ctx.Err() == nil {
		l, err := r.discover(ctx)
		if err != nil {
			sleep(ctx, 5*time.Second)
			continue
		}
		if err = r.tell(ctx, l); err == nil {
			return l
		}
		var refused *model.Error
		if errors.As(err, &refused) && refused.Code == hcn.HCN_E_ADDR_INVALID_OR_RESERVED {
			r.decline(l)
		} else {
			r.release(l)
		}
		if ctx.Err() == nil {
			r.all.log.Warn("an address that a DHCP server lends is of no use; it is asked for another", "endpoint", r.Endpoint, "address", l.Addr, "error", err)
		}
		sleep(ctx, declinePause)
	}
	return model.DHCPLease{}
}

// lose takes the address away; until ctx ends nothing else is done.
func (r *client) lose(ctx context.Context, l model.DHCPLease) model.DHCPLease {
	for ctx.Err() == nil {
		if err := r.tell(ctx, model.DHCPLease{}); err == nil {
			return model.DHCPLease{}
		}
		sleep(ctx, time.Second)
	}
	return l
}

// tell waits until the endpoint is as the lease says.
func (r *client) tell(ctx context.Context, l model.DHCPLease) error {
	took := make(chan error, 1)
	select {
	case r.all.news <- News{r.Endpoint, l, took}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-took:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
