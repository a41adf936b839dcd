// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package dhcp answers endpoints that ask for their address by DHCP (RFC 2131, IPv4).
// Each gets what its document says: there is nothing to hand out, and no lease to
// remember.
//
// Be aware: it listens by packet sockets on the host side of each vNIC, before the
// switch, which lets nobody speak without an address, and the host's firewall. So a
// client is who its cable says, whatever it claims.
package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
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
	running map[string]*client // by device
	wait    sync.WaitGroup
}

type client struct {
	lease  model.Lease
	cancel context.CancelFunc
}

// New makes a server that answers nobody yet.
func New(log *slog.Logger) *Server { return &Server{log: log, running: map[string]*client{}} }

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
		s.running[l.Device] = &client{l, cancel}
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
	f, err := listen(l.Device)
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

// listen opens a socket that hears what clients send to DHCP servers by a device.
func listen(device string) (*os.File, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, unix.ENODEV
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // nothing until it is bound
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), device)
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(toServer)), Filter: &toServer[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) // Linux 4.20
	}
	if err == nil {
		// Every protocol, in network order: what is bound to one comes after the switch.
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	}
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("packet socket", err)
	}
	return f, nil
}

// toServer passes whole UDP datagrams over IPv4 to port 67.
var toServer = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 8, K: unix.ETH_P_IP},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ethLen + 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 6, K: unix.IPPROTO_UDP},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: ethLen + 6},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 4, K: 0x3fff},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: ethLen},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: ethLen + 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: serverPort},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K},
}
