// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
	"gatehouse.dev/gatehouse/internal/guest/start"
)

// drainLimit is how long output may be open after its process has ended: a
// descendant may hold it.
const drainLimit = time.Second

// keepExited is how many ended processes of a container are remembered.
const keepExited = 1024

// process is one that a request started.
type process struct {
	pid       uint32
	key       uint64
	container string // Id, proto.VM
	console   *os.File
	done      chan struct{} // closed when exit is set and the streams are at their end
	exit      silo.Exit
	oom       bool
	holder    bool // ours, which nobody asked for and nobody is told of
}

// wiring are the streams of a process and its ends of the pipes to them.
type wiring struct {
	stdin, stdout, stderr *proto.Stream
	io                    start.IO   // the process's ends
	ours                  []*os.File // our ends
	inW                   *os.File
	outR, errR            *os.File
}

// wire takes the streams that a process is to be joined to.
func (a *Agent) wire(s proto.Stdio, terminal bool) (w *wiring, err error) {
	a.mu.Lock()
	streams := a.streams
	a.mu.Unlock()
	w = &wiring{}
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	for _, x := range []struct {
		want bool
		kind string
		to   **proto.Stream
	}{{s.StdIn, proto.StreamStdin, &w.stdin}, {s.StdOut, proto.StreamStdout, &w.stdout}, {s.StdErr && !terminal, proto.StreamStderr, &w.stderr}} {
		if x.want {
			st, err := streams.take(streamID{x.kind, s.Key})
			if err != nil {
				return w, err
			}
			*x.to = &st
		}
	}
	if terminal {
		return w, nil
	}
	pipe := func(theirs, ours **os.File, reads bool) error {
		r, wr, err := os.Pipe()
		if err != nil {
			return err
		}
		if reads {
			*theirs, *ours = r, wr
		} else {
			*theirs, *ours = wr, r
		}
		w.ours = append(w.ours, *ours)
		return nil
	}
	if w.stdin != nil {
		err = errors.Join(err, pipe(&w.io.Stdin, &w.inW, true))
	}
	if w.stdout != nil {
		err = errors.Join(err, pipe(&w.io.Stdout, &w.outR, false))
	}
	if w.stderr != nil {
		err = errors.Join(err, pipe(&w.io.Stderr, &w.errR, false))
	}
	return w, err
}

// forked lets go of the process's ends.
func (w *wiring) forked() {
	for _, f := range []*os.File{w.io.Stdin, w.io.Stdout, w.io.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

func (w *wiring) abandon() {
	w.forked()
	for _, f := range w.ours {
		f.Close()
	}
	for _, s := range []*proto.Stream{w.stdin, w.stdout, w.stderr} {
		if s != nil {
			s.Close()
		}
	}
}

// watch copies a process's streams until it ends, then says so. last is called
// between the end of the streams and the news.
func (a *Agent) watch(p *process, sp *start.Process, w *wiring, last func()) {
	if sp.Console != nil {
		w.outR, w.inW = sp.Console, sp.Console
	}
	var out sync.WaitGroup
	for _, c := range []struct {
		st *proto.Stream
		r  *os.File
	}{{w.stdout, w.outR}, {w.stderr, w.errR}} {
		if c.r != nil {
			out.Go(func() { pump(c.st, c.r, sp.Console != nil) })
		}
	}
	if w.stdin != nil {
		go func() {
			_, _ = io.Copy(w.inW, w.stdin)
			if sp.Console == nil { // a terminal has no half close
				w.inW.Close()
			}
		}()
	}
	go func() {
		e := <-sp.Exit
		for _, f := range []*os.File{w.outR, w.errR} {
			if f != nil {
				_ = f.SetReadDeadline(time.Now().Add(drainLimit)) // closed already is no matter
			}
		}
		out.Wait()
		for _, f := range append(w.ours, sp.Console) {
			if f != nil {
				f.Close()
			}
		}
		if w.stdin != nil {
			_ = w.stdin.SetReadDeadline(time.Unix(1, 0))
			w.stdin.Close()
		}
		if last != nil {
			last()
		}
		p.exit = e
		p.oom = e.Signal == int(unix.SIGKILL) && a.oomed(p.container)
		close(p.done)
		if p.holder {
			return
		}
		a.notify(proto.NotifyProcessExited, proto.ProcessExitedNotification{Base: proto.Base{ContainerId: p.container},
			ProcessId: p.pid, Key: p.key, ExitCode: uint32(e.Code), Signal: uint32(e.Signal), OOM: p.oom})
	}()
}

// pump copies output until its end, or until the deadline that the process's exit
// set and then what is left in the pipe. A host that reads slowly holds the
// process up; one that ends its direction of the stream wants no more: the
// process's next write fails, or is dropped where a terminal would hang up.
func pump(st *proto.Stream, r *os.File, terminal bool) {
	if st == nil {
		_, _ = io.Copy(io.Discard, r)
		return
	}
	defer st.CloseWrite()
	go func() {
		_, err := io.Copy(io.Discard, *st)
		_ = st.SetWriteDeadline(time.Unix(1, 0))
		if err == nil && !terminal && !st.Session().IsClosed() {
			r.Close()
		}
	}()
	buf := make([]byte, 32<<10)
	for deaf, over := false, false; ; {
		n, err := r.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && !over {
			over = true
		}
		if over {
			n, err = readNow(r, buf)
		}
		if n > 0 && !deaf {
			_, werr := st.Write(buf[:n])
			deaf = werr != nil // nobody listens: the process is not held up by that
		}
		if err != nil {
			return
		}
	}
}

// readNow reads what is there, io.EOF if nothing is.
func readNow(r *os.File, buf []byte) (n int, err error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	var rerr error
	if err := raw.Read(func(fd uintptr) bool {
		n, rerr = unix.Read(int(fd), buf)
		return true
	}); err != nil {
		return 0, err
	}
	if rerr != nil || n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

// add remembers a process, and forgets the oldest ended ones beyond the limit.
func (a *Agent) add(p *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.processes[p.pid] = p
	if len(a.processes) <= keepExited {
		return
	}
	var oldest *process
	for _, o := range a.processes {
		select {
		case <-o.done:
			if oldest == nil || o.exit.Time.Before(oldest.exit.Time) {
				oldest = o
			}
		default:
		}
	}
	if oldest != nil {
		delete(a.processes, oldest.pid)
	}
}

func (a *Agent) process(container string, pid uint32) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.processes[pid]
	if p == nil || p.container != container {
		return nil, &hcs.Error{Code: hcs.CodeProcessInfoNotAvailable, Message: fmt.Sprintf("no process %d in %q", pid, container)}
	}
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// execute starts a further process in a container, or in the machine itself.
func (a *Agent) execute(q proto.ExecuteRequest) (any, error) {
	params := q.Settings.ProcessParameters
	if params.Oci == nil {
		params.Oci = params.OciProcess
	}
	if q.ContainerId == proto.VM {
		return a.executePlain(params, q.Settings.Stdio)
	}
	c, err := a.container(q.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := c.mustRun(); err != nil {
		return nil, err
	}
	base := specs.Process{}
	if c.config.OCI.Process != nil {
		base = *c.config.OCI.Process
	}
	cmd, err := model.ExecCommand(params, base)
	if err != nil {
		return nil, err
	}
	user := base.User
	if cmd.User != "" {
		if user, err = resolveUser(c.root(), cmd.User); err != nil {
			return nil, err
		}
	}
	p := model.ExecProcess(params, base, cmd, user)
	consoleSize(&p, params)
	w, err := a.wire(q.Settings.Stdio, p.Terminal)
	if err != nil {
		return nil, err
	}
	sp, err := c.exec(a.reaper, p, w.io, q.Settings.Stdio.Key)
	return a.launched(c.config.Id, q.Settings.Stdio.Key, sp, w, err)
}

func consoleSize(p *specs.Process, params hcs.ProcessParameters) {
	if s := params.ConsoleSize; s != [2]uint16{} {
		p.ConsoleSize = &specs.Box{Height: uint(s[0]), Width: uint(s[1])}
	} else if o := params.Oci; o != nil {
		p.ConsoleSize = o.ConsoleSize
	}
}

func (a *Agent) executePlain(params hcs.ProcessParameters, s proto.Stdio) (any, error) {
	if err := a.disks.tools(); err != nil { // whatever it is, it is there
		return nil, err
	}
	base := specs.Process{Env: []string{"PATH=/bin:/sbin", "HOME=/"}, Cwd: "/", Capabilities: hcs.CapabilitySet(hcs.AllCapabilities())}
	cmd, err := model.ExecCommand(params, base)
	if err != nil {
		return nil, err
	}
	p := model.ExecProcess(params, base, cmd, specs.User{})
	consoleSize(&p, params)
	w, err := a.wire(s, p.Terminal)
	if err != nil {
		return nil, err
	}
	sp, err := start.Plain(a.reaper, nil, p, w.io)
	return a.launched(proto.VM, s.Key, sp, w, err)
}

func (a *Agent) launched(container string, key uint64, sp *start.Process, w *wiring, err error) (any, error) {
	if err != nil {
		w.abandon()
		return nil, err
	}
	w.forked()
	p := &process{pid: uint32(sp.PID), key: key, container: container, console: sp.Console, done: make(chan struct{})}
	a.add(p)
	a.watch(p, sp, w, nil)
	return proto.ExecuteResponse{ProcessId: p.pid}, nil
}

func (a *Agent) wait(q proto.WaitRequest) (any, error) {
	p, err := a.process(q.ContainerId, q.ProcessId)
	if err != nil {
		return nil, err
	}
	var timeout <-chan time.Time
	if q.TimeoutInMs != proto.WaitForever {
		timeout = time.After(time.Duration(q.TimeoutInMs) * time.Millisecond)
	}
	select {
	case <-p.done:
		return proto.WaitResponse{ExitCode: uint32(p.exit.Code)}, nil
	default:
	}
	select {
	case <-p.done:
		return proto.WaitResponse{ExitCode: uint32(p.exit.Code)}, nil
	case <-timeout:
		return nil, &hcs.Error{Code: hcs.CodeOperationTimeout, Message: fmt.Sprintf("process %d runs on", q.ProcessId)}
	}
}

func (a *Agent) signal(q proto.SignalRequest) (any, error) {
	p, err := a.process(q.ContainerId, q.ProcessId)
	if err != nil {
		return nil, err
	}
	ok, err := a.reaper.Kill(int(p.pid), int(q.Options.Signal))
	if err == nil && !ok {
		err = &hcs.Error{Code: hcs.CodeProcessAlreadyStopped, Message: fmt.Sprintf("process %d has ended", p.pid)}
	}
	return nil, err
}

func (a *Agent) resize(q proto.ResizeRequest) (any, error) {
	p, err := a.process(q.ContainerId, q.ProcessId)
	if err != nil {
		return nil, err
	}
	switch {
	case p.ended():
		return nil, &hcs.Error{Code: hcs.CodeProcessAlreadyStopped, Message: fmt.Sprintf("process %d has ended", p.pid)}
	case p.console == nil:
		return nil, &hcs.Error{Code: hcs.CodeNotSupported, Message: fmt.Sprintf("process %d has no terminal", p.pid)}
	}
	return nil, silo.Resize(p.console, q.Height, q.Width)
}
