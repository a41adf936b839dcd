// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxInFlight bounds questions that wait for an upstream server. Each takes a
	// socket, so that its port is as hard to guess as the kernel makes it.
	maxInFlight = 8192
	// askTimeout is how long one upstream server may take.
	askTimeout = 2 * time.Second
	// askAgain is when a datagram is taken for lost and sent once more: a burst
	// of questions overruns the default buffer of a server.
	askAgain = 700 * time.Millisecond
)

// forwarder asks upstream servers.
type forwarder struct {
	log   *slog.Logger
	conf  *resolvConf
	slots chan struct{}
	own   atomic.Pointer[map[netip.Addr]bool] // where we listen ourselves
}

// ask puts q to the servers in turn and returns the first good answer, else the
// best of the bad ones. It returns nil only when ctx ended.
func (f *forwarder) ask(ctx context.Context, servers []netip.Addr, q *dns.Msg, overTCP bool) *dns.Msg {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return refuse(q, dns.RcodeServerFailure)
	}
	if len(servers) == 0 {
		servers = f.conf.servers()
	}
	var bad *dns.Msg
	for _, s := range servers {
		if own := f.own.Load(); own != nil && (*own)[s.Unmap()] {
			continue // a question to ourselves would come back for ever
		}
		r, err := f.askOne(ctx, s, q, overTCP)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			f.log.Debug("ask upstream", "server", s, "name", q.Question[0].Name, "err", err)
		case r.Rcode == dns.RcodeServerFailure || r.Rcode == dns.RcodeRefused:
			bad = r
		default:
			r.Id = q.Id
			return r
		}
	}
	if bad == nil {
		return refuse(q, dns.RcodeServerFailure)
	}
	bad.Id = q.Id
	return bad
}

// askOne asks by UDP, and by TCP when the question came so or the answer did not
// fit.
func (f *forwarder) askOne(ctx context.Context, server netip.Addr, q *dns.Msg, overTCP bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := q.Copy()
	out.Id = dns.Id()
	to := netip.AddrPortFrom(server, 53).String()
	if !overTCP {
		first, stop := context.WithTimeout(ctx, askAgain)
		r, err := exchange(first, "udp", to, out)
		stop()
		if err != nil && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			r, err = exchange(ctx, "udp", to, out)
		}
		if err != nil || !r.Truncated {
			return r, err
		}
		if full, err := exchange(ctx, "tcp", to, out); err == nil {
			return full, nil
		}
		return r, nil // better than nothing: the client sees that it was cut
	}
	return exchange(ctx, "tcp", to, out)
}

func exchange(ctx context.Context, network, to string, q *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: askTimeout}
	r, _, err := c.ExchangeContext(ctx, q, to)
	if err != nil {
		return nil, err
	}
	if !r.Response || r.Id != q.Id || len(r.Question) > 1 || len(r.Question) == 1 && !sameQuestion(r.Question[0], q.Question[0]) {
		return nil, dns.ErrId
	}
	return r, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
