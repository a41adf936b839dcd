// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hostport holds published and reserved ports of the host by bound sockets,
// so that nobody else can have them: the switch answers on them without any socket,
// and a server started later must be told that its port is taken.
//
// Be aware:
//   - nothing ever arrives at these sockets: a TCP one does not listen, and a UDP
//     one drops all by a filter;
//   - the sockets end with the daemon. While it is away a port can be taken, and
//     the next Set says by whom; the switch goes on serving it;
//   - the namespace is the one that the process runs in.
package hostport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Free picks from FreeLow to FreeHigh: above the default ip_local_port_range
// (which ends at 60999), so that no outgoing connection has the port, and clear
// of NodePorts (30000-32767) and of the ports outbound NAT uses.
const FreeLow, FreeHigh uint16 = 61000, 65535

// Holder holds ports. The zero value holds none and is ready to use.
type Holder struct {
	mu   sync.Mutex
	held map[key]int // socket; -1 = nobody on this host can have it anyway
	next uint16      // where Free goes on, so that two calls in a row differ
}

type key struct {
	proto uint8
	addr  netip.Addr // invalid = any
	port  uint16
}

func keyOf(p model.HostPort) key {
	k := key{proto: p.Proto, addr: p.Addr.Unmap(), port: p.Port}
	if k.addr.IsUnspecified() {
		k.addr = netip.Addr{}
	}
	return k
}

// InUseError says that somebody else has a port.
type InUseError struct {
	Proto   uint8
	Addr    netip.Addr // invalid = any
	Port    uint16
	Process string // name; "" = could not be found out
	PID     int
}

func (e *InUseError) Error() string {
	where := fmt.Sprintf("port %d/%s", e.Port, protoName(e.Proto))
	if e.Addr.IsValid() {
		where += " of " + e.Addr.String()
	}
	if e.Process == "" {
		return where + " is in use"
	}
	return fmt.Sprintf("%s is in use by %s (pid %d)", where, e.Process, e.PID)
}

// Unwrap gives the error its class.
func (e *InUseError) Unwrap() error { return errdefs.ErrAlreadyExists }

// Set holds exactly the wanted ports: it lets go of others first, keeps those it
// has, and returns nil or one entry for each of want, nil where the port is held.
func (h *Holder) Set(ctx context.Context, want []model.HostPort) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := make(map[key]bool, len(want))
	for _, p := range want {
		keep[keyOf(p)] = true
	}
	for k, fd := range h.held {
		if !keep[k] {
			release(fd)
			delete(h.held, k)
		}
	}
	var errs []error
	for i, p := range want {
		k := keyOf(p)
		if _, have := h.held[k]; have {
			continue
		}
		fd, err := -1, ctx.Err()
		if err == nil {
			fd, err = h.bind(k)
		}
		if err != nil {
			if errs == nil {
				errs = make([]error, len(want))
			}
			errs[i] = err
			continue
		}
		if h.held == nil {
			h.held = map[key]int{}
		}
		h.held[k] = fd
	}
	return errs
}

// Check says whether a port could be held now; one that is held already is fine.
func (h *Holder) Check(p model.HostPort) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := keyOf(p)
	if _, have := h.held[k]; have {
		return nil
	}
	fd, err := h.bind(k)
	if err == nil {
		release(fd)
	}
	return err
}

// Free finds a port that can be held, between FreeLow and FreeHigh. It is not
// held until Set, but the next calls look elsewhere first.
func (h *Holder) Free(proto uint8, addr netip.Addr) (uint16, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	const count = int(FreeHigh-FreeLow) + 1
	var last error
	for range count {
		if h.next < FreeLow {
			h.next = FreeLow
		}
		k := keyOf(model.HostPort{Proto: proto, Addr: addr, Port: h.next})
		h.next++ // past the highest it becomes 0
		if h.taken(k) {
			continue
		}
		fd, err := open(k)
		if err == nil {
			release(fd)
			return k.port, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		last = err
	}
	return 0, fmt.Errorf("find a free port: all of %d-%d are in use: %w", FreeLow, FreeHigh, errors.Join(last, errdefs.ErrResourceExhausted))
}

// taken: the kernel would say so too, except for sockets that it cannot open.
func (h *Holder) taken(k key) bool {
	if _, have := h.held[k]; have {
		return true
	}
	k.addr = netip.Addr{}
	_, have := h.held[k]
	return have
}

// Close lets go of all ports.
func (h *Holder) Close() error {
	h.Set(context.Background(), nil)
	return nil
}

// bind opens k's socket or says who has it.
func (h *Holder) bind(k key) (int, error) {
	fd, err := open(k)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT):
		return -1, nil // SCTP without its module: no process can have it either
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return -1, fmt.Errorf("hold port %d/%s: %s is not an address of this host: %w", k.port, protoName(k.proto), k.addr, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.EADDRINUSE):
		in := &InUseError{Proto: k.proto, Addr: k.addr, Port: k.port}
		in.Process, in.PID = findOwner(k)
		return -1, in
	}
	return -1, fmt.Errorf("hold port %d/%s: %w", k.port, protoName(k.proto), err)
}

func protoName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol-%d", proto)
}
