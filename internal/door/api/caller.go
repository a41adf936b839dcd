// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/resource"
)

// peer is who is at the other end of a connection.
type peer struct {
	resource.Caller
	known bool
	conn  *net.UnixConn
}

type peerKey struct{}

// connContext reads the peer's credentials once a connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	p := peer{conn: u}
	raw, err := u.SyscallConn()
	if err != nil {
		return context.WithValue(ctx, peerKey{}, p)
	}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		p.UID, p.GID, p.PID, p.known = cred.Uid, cred.Gid, cred.Pid, true
		p.Groups, p.Door = peerGroups(int(fd)), doorName
	})
	return context.WithValue(ctx, peerKey{}, p)
}

// peerGroups are the supplementary groups at the time of connect(2). SO_PEERGROUPS,
// Linux 4.13; none if the kernel does not tell.
func peerGroups(fd int) []uint32 {
	buf := make([]byte, 4*1024)
	n := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return nil
	}
	var out []uint32
	for b := buf[:n]; len(b) >= 4; b = b[4:] {
		out = append(out, binary.NativeEndian.Uint32(b))
	}
	return out
}

// doorName is what a policy's rules call this door.
const doorName = "api"

// identify lets root, the daemon's own user and the socket's group in, as callers
// with full rights, and whom the policy's rules name as users of the compute
// service; everybody else, and whoever the kernel cannot name, is refused.
func (s *Server) identify(r *http.Request) (*http.Request, error) {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		// The handler was called inside the daemon, by a door that lives in it.
		return r, nil
	}
	if !p.known {
		return nil, problem(http.StatusForbidden, codeAccessDenied, "the kernel does not say who calls; connect to the unix socket directly")
	}
	gid := s.o.GID
	p.Admin = p.UID == 0 || int(p.UID) == os.Geteuid() ||
		gid > 0 && (int(p.GID) == gid || slices.Contains(p.Groups, uint32(gid)))
	if !p.Admin && (s.o.Admits == nil || !s.o.Admits(p.Caller)) {
		return nil, problem(http.StatusForbidden, codeAccessDenied, "user %d may not use this daemon; become root or join the socket's group", p.UID)
	}
	if !p.Admin && !forUsers(r) {
		return nil, problem(http.StatusForbidden, codeAccessDenied, "%s %s is for administrators: become root or join the socket's group", r.Method, r.URL.Path)
	}
	return r.WithContext(resource.WithCaller(r.Context(), p.Caller)), nil
}

// forUsers tells what callers without full rights may ask at all: the compute
// service, which knows whose a system is, and what running an image needs to read.
func forUsers(r *http.Request) bool {
	if strings.HasPrefix(r.URL.Path, "/hcs/v2/") {
		return true
	}
	return r.Method == http.MethodGet && (strings.HasPrefix(r.URL.Path, "/images/v1/") || r.URL.Path == "/host/v1/version")
}
