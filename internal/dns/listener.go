// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

const (
	// maxConns bounds TCP connections at one address.
	maxConns = 1024
	// ednsSize is the UDP answer size that we announce: what DNS Flag Day 2020
	// chose to avoid fragments.
	ednsSize = 1232
	// receiveBuffer holds a burst of some thousand questions.
	receiveBuffer = 1 << 20
)

// listener is UDP and TCP port 53 of one address.
type listener struct {
	server  *Server
	at      place
	network atomic.Pointer[string]
	ready   atomic.Bool
	stop    context.CancelFunc
}

// listen starts a listener. The address is tried at once, so that it answers when
// Set returns; if it is not there yet, again and again in the background.
func (s *Server) listen(at place, network string) *listener {
	l := &listener{server: s, at: at}
	l.network.Store(&network)
	var ctx context.Context
	ctx, l.stop = context.WithCancel(s.ctx)
	socks, err := l.open(ctx)
	if err == nil {
		l.ready.Store(true)
	}
	s.running.Go(func() {
		for wait := 20 * time.Millisecond; err != nil; wait = min(2*wait, 2*time.Second) {
			if wait == 640*time.Millisecond { // said once, when it takes unduly long
				s.log.Warn("resolver waits for its address", "network", *l.network.Load(), "err", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			socks, err = l.open(ctx)
		}
		l.ready.Store(true)
		l.serve(ctx, socks)
	})
	return l
}

type sockets struct {
	udp net.PacketConn
	tcp net.Listener
}

func (l *listener) open(ctx context.Context) (s sockets, err error) {
	if !l.at.inside {
		return l.openHere(ctx)
	}
	err = l.server.inside(func() (err error) {
		s, err = l.openHere(ctx)
		return err
	})
	return s, err
}

func (l *listener) openHere(ctx context.Context) (sockets, error) {
	at := netip.AddrPortFrom(l.at.addr, 53).String()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// Past rmem_max where we may; the default holds some hundred.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		})
	}}
	udp, err := lc.ListenPacket(ctx, "udp", at)
	if err != nil {
		return sockets{}, fmt.Errorf("resolver: %w", err)
	}
	tcp, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
	if err != nil {
		udp.Close()
		return sockets{}, fmt.Errorf("resolver: %w", err)
	}
	return sockets{udp, netutil.LimitListener(tcp, maxConns)}, nil
}

// serve answers until ctx ends, then waits for the answers under way.
func (l *listener) serve(ctx context.Context, socks sockets) {
	handler := func(overTCP bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { l.handle(ctx, w, q, overTCP) })
	}
	servers := []*dns.Server{
		{PacketConn: socks.udp, Handler: handler(false), UDPSize: dns.MaxMsgSize},
		{Listener: socks.tcp, Handler: handler(true)},
	}
	var wg sync.WaitGroup
	for _, srv := range servers {
		wg.Go(func() {
			started := make(chan struct{})
			srv.NotifyStartedFunc = func() { close(started) }
			ended := make(chan error, 1)
			go func() { ended <- srv.ActivateAndServe() }()
			select {
			case <-started:
			case err := <-ended:
				l.server.log.Error("resolver ended", "addr", l.at.addr, "err", err)
				return
			}
			select {
			case <-ctx.Done():
			case err := <-ended:
				if ctx.Err() == nil {
					l.server.log.Error("resolver ended", "addr", l.at.addr, "err", err)
				}
				return
			}
			_ = srv.Shutdown() // waits for handlers; says only that it ran
			<-ended
		})
	}
	wg.Wait()
	socks.udp.Close()
	socks.tcp.Close()
}

func (l *listener) handle(ctx context.Context, w dns.ResponseWriter, q *dns.Msg, overTCP bool) {
	z := l.server.names.Load().zone(*l.network.Load())
	// The switch has seen to it who asks inside.
	if from := source(w.RemoteAddr()); !l.at.inside && !z.serves(from, l.at.addr) {
		// Silence: an answer would tell names of the network to strangers, and
		// make the resolver an amplifier for who forges sources.
		l.server.log.Debug("question of a stranger dropped", "network", *l.network.Load(), "from", from)
		if overTCP {
			_ = w.Close()
		}
		return
	}
	r := l.resolve(ctx, z, q, overTCP)
	if r == nil {
		return // shutting down
	}
	fitTo(r, q, overTCP)
	// An error here means that the client is gone.
	_ = w.WriteMsg(r)
}

// maxAliases bounds a chain of our own aliases, which may lead in a circle.
const maxAliases = 8

// resolve answers from the zone and the servers above, along aliases of ours; nil when
// ctx ended.
func (l *listener) resolve(ctx context.Context, z *zone, q *dns.Msg, overTCP bool) *dns.Msg {
	first, done := z.answer(q)
	if !done {
		return l.server.forward.ask(ctx, z.upstream, q, overTCP)
	}
	r := first
	for range maxAliases {
		more := next(r, q)
		if more == nil {
			return first
		}
		if r, done = z.answer(more); !done {
			r = l.server.forward.ask(ctx, z.upstream, more, overTCP)
		}
		if r == nil {
			return nil
		}
		first.Answer, first.Ns, first.Rcode = append(first.Answer, r.Answer...), r.Ns, r.Rcode
		first.Truncated = first.Truncated || r.Truncated
		if !done {
			return first
		}
	}
	return refuse(q, dns.RcodeServerFailure)
}

// source is a client's address; the zero Addr is nobody's.
func source(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}

// fitTo cuts an answer to what the client takes.
func fitTo(r, q *dns.Msg, overTCP bool) {
	size := dns.MaxMsgSize
	if !overTCP {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	r.Truncate(size)
}
