// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package dhcp speaks DHCP (RFC 2131, IPv4) for endpoints, at both ends.
//
// Server answers those that ask on a network whose gateway is ours. Each gets what its
// document says: there is nothing to hand out, and no lease to remember. Clients asks
// for those that are on a segment of the host's uplinks, and keeps what they are lent.
//
// Be aware: both use packet sockets on the host's devices, before the switch and the
// host's firewall: the server's on the host side of each vNIC, so that a client is who
// its cable says, whatever it claims; the clients' on the uplink, so that nobody who is
// in a compartment has a say in what its endpoint is lent.
package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/network/model"
)

const (
	// again is how long a device that is not there, or gone, is waited for.
	again = 200 * time.Millisecond
	// pause after each answer bounds what a client can make us do.
	pause = 20 * time.Millisecond
)

// Server is all of one host. Make it with New; Close ends it.
type Server struct {
	log *slog.Logger

	mu      sync.Mutex
	closed  bool
	running map[string]*served // by device
	wait    sync.WaitGroup
}

type served struct {
	lease  model.Lease
	cancel context.CancelFunc
}

// New makes a server that answers nobody yet.
func New(log *slog.Logger) *Server { return &Server{log: log, running: map[string]*served{}} }

// Set replaces all leases.
func (s *Server) Set(leases []model.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	keep := map[string]bool{}
	for _, l := range leases {
		keep[l.Device] = true
		if c := s.running[l.Device]; c != nil {
			if reflect.DeepEqual(c.lease, l) {
				continue
			}
			c.cancel()
		}
		ctx, cancel := context.WithCancel(context.Background())
		s.running[l.Device] = &served{l, cancel}
		s.wait.Go(func() { s.serve(ctx, l) })
	}
	for device, c := range s.running {
		if !keep[device] {
			c.cancel()
			delete(s.running, device)
		}
	}
}

// Close answers nobody any more.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.running {
		c.cancel()
	}
	s.mu.Unlock()
	s.wait.Wait()
	return nil
}

// serve answers one vNIC until ctx ends, also when its device is made anew.
func (s *Server) serve(ctx context.Context, l model.Lease) {
	for ctx.Err() == nil {
		err := serveDevice(ctx, &l)
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENETDOWN) && ctx.Err() == nil {
			s.log.Debug("dhcp", "device", l.Device, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

func serveDevice(ctx context.Context, l *model.Lease) error {
	dev, err := net.InterfaceByName(l.Device)
	if err != nil {
		return unix.ENODEV
	}
	f, err := listen(dev, serverPort, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		if out := answer(l, buf[:n]); out != nil {
			if _, err := f.Write(out); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
	}
}
