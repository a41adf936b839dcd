// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package held has the words between the compute service and the worker process
// that holds a compute system: what a worker is told (Spec), what it writes down
// (JournalEntry), what it can be asked (Client).
package held

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Spec is everything a worker needs; it is written to <Dir>/spec.json before
// the process starts, so that a worker can be understood without the daemon.
type Spec struct {
	RuntimeID string
	ID        string // the compute system's Id, for people
	// Dir is <run>/workers/<RuntimeID>: spec.json, sock, journal, bundle/, pid.
	Dir string
	// Runtime is the OCI runtime's path; RuntimeRoot its state directory.
	Runtime     string
	RuntimeRoot string
	// OCI is the complete runtime spec. root.path is ignored: the worker mounts
	// Root at bundle/rootfs and sets it.
	OCI  specs.Spec
	Root Root
	// Stdio of init.
	Terminal    bool
	ConsoleSize [2]uint16 // height, width; 0 = unset
	Stdin       bool      // keep a pipe for stdin; otherwise /dev/null
	// StdinOnce closes stdin for good when its first attached writer goes away.
	StdinOnce bool
	// LogPath receives init's output, one line each: RFC 3339 time, stream, P|F,
	// text. Empty = no log.
	LogPath     string
	LogMaxBytes int64 // rotate to LogPath.1 beyond this; 0 = 10 MiB
	// CgroupPath as in linux.cgroupsPath, for statistics and the last kill.
	CgroupPath string
	StopSignal int // default 15
	// Machine that the container gets for itself; nil = the host's kernel runs it.
	// OCI is then for the guest, and Root is not used.
	Machine *Machine `json:",omitempty"`
	// Library: Runtime is a library OS's, whose kernel runs in user space.
	Library *Library `json:",omitempty"`
}

// Library is how a library OS is run.
type Library struct {
	// Platform is how it catches system calls: ptrace, or what else Runtime knows.
	Platform string
	// HostSockets lets processes connect to sockets and FIFOs that are mapped.
	HostSockets bool `json:",omitempty"`
}

// Root is the root file system: Lower topmost first over an upper directory, or
// Path bound as it is.
type Root struct {
	Lower    []string
	Upper    string
	Work     string
	Path     string
	ReadOnly bool
}

// JournalEntry is one fact the worker wrote down before telling anybody. The end
// of init is synced to disk; no system outlives its host. Seq starts at 1.
type JournalEntry struct {
	Seq  uint64
	Time time.Time
	// What: created, started, paused, resumed, process-created, process-exited,
	// oom, crashed, exited.
	What    string
	Process string `json:",omitempty"` // init, p1, p2 …
	PID     int    `json:",omitempty"` // where its kernel counts: the host or a guest
	HostPID int    `json:",omitempty"` // of the machine that it is in; 0 = PID
	// Log is the last of a console, of crashed.
	Log    string                `json:",omitempty"`
	Status *hcs.ProcessStatus    `json:",omitempty"`
	Exit   *hcs.SystemExitStatus `json:",omitempty"`
}

// ProcessInfo describes a started process.
type ProcessInfo struct {
	Key     string // init, p1, p2 …
	PID     int    // as in JournalEntry
	HostPID int    `json:",omitempty"`
}

// AttachOptions say which streams a connection wants.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	// Replay first sends what the ring still holds of output nobody read.
	Replay bool
}

// Client is the daemon's handle on one worker, over <Dir>/sock. A Client whose
// worker is gone answers every call with ErrGone.
type Client interface {
	Spec() Spec
	PID() int
	// Start runs the container. An error of the runtime is a *StartError.
	Start(ctx context.Context) (ProcessInfo, error)
	Exec(ctx context.Context, p specs.Process, stdin bool) (ProcessInfo, error)
	Signal(ctx context.Context, process string, signal int) (delivered bool, err error)
	// KillAll ends every process of the system by its cgroup.
	KillAll(ctx context.Context) error
	Resize(ctx context.Context, process string, height, width uint16) error
	CloseStdin(ctx context.Context, process string) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Attach hands conn to the worker, which speaks the stdio frames of package
	// hcs on it until the process ended: the daemon is not in the way. early is
	// what the daemon already read from conn.
	Attach(ctx context.Context, process string, o AttachOptions, conn *net.UnixConn, early []byte) error
	// Journal yields the entries after seq and then each new one, until the worker
	// is gone (the channel closes) or ctx ends.
	Journal(ctx context.Context, seq uint64) (<-chan JournalEntry, error)
	Stats(ctx context.Context) (hcs.Statistics, error)
	Processes(ctx context.Context) ([]hcs.ProcessDetails, error)
	// Update changes limits of the running container.
	Update(ctx context.Context, r specs.LinuxResources) error
	// Close ends a worker whose system has exited or never started: the runtime's
	// state, the mounts and the process go; Dir is removed.
	Close(ctx context.Context) error
}

// StartError is a runtime's refusal. ExitCode is what a shell would say: 127 not
// found, 126 not executable, else 125.
type StartError struct {
	ExitCode int
	Message  string
	Log      json.RawMessage `json:",omitempty"`
}

func (e *StartError) Error() string { return e.Message }

// RootFS is where a worker mounts the root file system, in its own mount namespace.
func RootFS(dir string) string { return filepath.Join(dir, "bundle", "rootfs") }
