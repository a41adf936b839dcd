// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package dns answers the names of endpoints on each network's gateway address
// and forwards everything else. Endpoints' questions come by the switch into a
// compartment of the resolvers' own; those of the host's processes by its stack.
//
// A question that came to a network's address is answered from that network's
// names alone, so one name may mean different things in two networks. Names of
// one label that nobody has are never asked outside: a container's mistyped name
// is nobody else's business, and the answer comes at once. Only the network's own
// prefixes and this host are answered; strangers who route to the address hear
// nothing.
//
// Be aware:
//   - it listens in two namespaces, the process's own and the compartment, and
//     waits for addresses that are not there yet;
//   - it keeps no cache: our own answers are cheap and forwarded ones belong to
//     the server that gave them.
package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Options of New.
type Options struct {
	Log *slog.Logger // nil = nowhere
	// ResolvConf names the upstream servers for networks that name none;
	// "" = /etc/resolv.conf. It is read again when it changes.
	ResolvConf string
	// Inside runs f in the network namespace of the resolvers' compartment; nil = it
	// is the one that the process runs in.
	Inside func(f func() error) error
}

// place is an address in one of the two namespaces.
type place struct {
	addr   netip.Addr
	inside bool
}

// Server is all resolvers of one host. Make it with New; Close ends it.
type Server struct {
	log     *slog.Logger
	inside  func(f func() error) error
	names   atomic.Pointer[tables]
	forward *forwarder
	ctx     context.Context
	cancel  context.CancelFunc

	mu        sync.Mutex
	closed    bool
	listeners map[place]*listener
	running   sync.WaitGroup // listeners, those on their way out included
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	path := o.ResolvConf
	if path == "" {
		path = "/etc/resolv.conf"
	}
	s := &Server{log: log, inside: o.Inside, listeners: map[place]*listener{}}
	if s.inside == nil {
		s.inside = func(f func() error) error { return f() }
	}
	s.forward = &forwarder{log: log, conf: &resolvConf{path: path}, slots: make(chan struct{}, maxInFlight)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.names.Store(newTables(nil, nil))
	return s
}

// Set swaps what is answered and where, all at once for each question: it is
// answered from the old tables or from the new. Both slices must not change
// afterwards. Listeners whose address stays go on undisturbed.
func (s *Server) Set(names [][]model.NameRecord, resolvers []model.Resolver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.names.Store(newTables(names, resolvers))
	want, own := map[place]string{}, map[netip.Addr]bool{}
	for _, r := range resolvers {
		for _, a := range r.Listen {
			want[place{a.Unmap(), false}], own[a.Unmap()] = r.Network, true
		}
		for _, a := range r.Through {
			want[place{a.Unmap(), true}] = r.Network
		}
	}
	s.forward.own.Store(&own)
	for at, l := range s.listeners {
		if _, stays := want[at]; !stays {
			l.stop()
			delete(s.listeners, at)
		}
	}
	for at, network := range want {
		if l := s.listeners[at]; l != nil {
			l.network.Store(&network)
			continue
		}
		s.listeners[at] = s.listen(at, network)
	}
}

// Listening returns the addresses that questions can be sent to now.
func (s *Server) Listening() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []netip.Addr
	for at, l := range s.listeners {
		if l.ready.Load() {
			all = append(all, at.addr)
		}
	}
	return all
}

// Close stops listening and waits for what is being answered.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	clear(s.listeners)
	s.mu.Unlock()
	s.running.Wait()
	return nil
}
