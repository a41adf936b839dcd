// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

const initKey = "init"

// stdinGrace is how long a process keeps its stdin after its creating stream
// went, for another to attach (hcs.md §2.8).
const stdinGrace = 10 * time.Second

// drainGrace is how long output may be held open by descendants of a process
// that ended (hcs.md §1.7).
const drainGrace = time.Second

// process is init or an exec. Its streams exist before it runs.
type process struct {
	key      string
	terminal bool
	once     bool   // close stdin with its first writer
	in       *stdin // nil = none
	out      *fanout

	mu       sync.Mutex // guards the rest
	pid      int
	console  *os.File
	sizing   func(height, width uint16) error // of the terminal
	sources  []*os.File                       // our ends of the output
	size     [2]uint16                        // height, width
	status   *hcs.ProcessStatus
	signaled int // last signal sent through us
	done     chan struct{}
}

func newProcess(key string, terminal, input, once bool, size [2]uint16, log *logFile) *process {
	p := &process{key: key, terminal: terminal, once: once, size: size, out: newFanout(log), done: make(chan struct{})}
	if input {
		p.in = newStdin()
	}
	return p
}

// pipe has a blocking end for the child and one in the poller for us.
func pipe(ours int) (child, us *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(p[ours], true); err != nil {
		closeAll(p[:])
		return nil, nil, err
	}
	return osFile(p[1-ours], "stdio"), osFile(p[ours], "stdio"), nil
}

func osFile(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }

// launch makes the streams, has start make the process, and connects them. When
// start fails, tail is what the runtime wrote to stderr.
func (p *process) launch(start func(silo.IO) (*silo.Process, error)) (proc *silo.Process, tail string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io := silo.IO{Terminal: p.terminal, Height: p.size[0], Width: p.size[1]}
	var children, ours []*os.File
	defer func() {
		for _, f := range children {
			f.Close()
		}
		if err != nil {
			for _, f := range ours {
				f.Close()
			}
		}
	}()
	mk := func(end int) (*os.File, *os.File) {
		if err != nil {
			return nil, nil
		}
		var c, u *os.File
		if c, u, err = pipe(end); err == nil {
			children, ours = append(children, c), append(ours, u)
		}
		return c, u
	}
	var in, out, errs *os.File
	if !p.terminal {
		if p.in != nil {
			io.Stdin, in = mk(1)
		}
		io.Stdout, out = mk(0)
		io.Stderr, errs = mk(0)
		if err != nil {
			return nil, "", fmt.Errorf("stdio: %w", err)
		}
	}
	proc, err = start(io)
	if err != nil {
		if errs != nil {
			tail = readTail(errs)
		}
		return nil, tail, err
	}
	p.pid, p.console, p.sizing = proc.PID, proc.Console, proc.Resize
	if p.terminal {
		p.sources = []*os.File{p.console}
		p.out.begin(1)
		go p.out.pump(hcs.FrameStdout, p.console)
		in = p.console
	} else {
		p.sources = []*os.File{out, errs}
		p.out.begin(2)
		go p.out.pump(hcs.FrameStdout, out)
		go p.out.pump(hcs.FrameStderr, errs)
	}
	if p.in != nil {
		go p.in.run(in, p.terminal)
	}
	return proc, "", nil
}

// readTail reads what is there now.
func readTail(f *os.File) string {
	_ = f.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	b := make([]byte, 16<<10)
	n, _ := f.Read(b)
	return string(b[:n])
}

// drain waits until all output is out, or drainGrace, and cuts the rest.
func (p *process) drain() {
	if p.in != nil {
		p.in.cut()
	}
	p.out.release()
	select {
	case <-p.out.drained:
	case <-time.After(drainGrace):
		p.mu.Lock()
		for _, f := range p.sources {
			f.Close()
		}
		p.mu.Unlock()
		<-p.out.drained
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.sources {
		f.Close()
	}
	p.sources, p.console, p.sizing = nil, nil, nil
}

func (p *process) resize(h, w uint16) error {
	if h == 0 || w == 0 {
		return nil
	}
	p.mu.Lock()
	p.size = [2]uint16{h, w} // before the start too
	size := p.sizing
	p.mu.Unlock()
	if size == nil {
		return nil
	}
	if err := size(h, w); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("resize %s: %w", p.key, err)
	}
	return nil
}

func (p *process) closeStdin() {
	if p.in != nil && !p.terminal {
		p.in.end()
	}
}

// attach serves conn until it breaks or the process's end. signal delivers a
// signal frame.
func (p *process) attach(conn *net.UnixConn, o AttachOptions, early []byte, signal func(int)) error {
	if o.Stdin && p.in != nil && !p.in.hold() {
		return busy(p.key)
	}
	r := &reader{conn: conn, stdout: o.Stdout, stderr: o.Stderr, ready: sync.NewCond(&p.out.mu)}
	p.out.attach(r, o.Replay)
	go p.input(r, conn, o.Stdin && p.in != nil, early, signal)
	go r.run()
	return nil
}

// input reads frames from an attached connection.
func (p *process) input(r *reader, conn *net.UnixConn, writer bool, early []byte, signal func(int)) {
	fr := hcs.NewFrameReader(&earlyReader{early, conn})
	var err error
	for err == nil {
		var k hcs.FrameType
		var b []byte
		if k, b, err = fr.Read(); err != nil {
			break
		}
		switch k {
		case hcs.FrameStdin:
			if writer {
				_ = p.in.write(b) // a process that closed its stdin does not end the connection
			}
		case hcs.FrameCloseStdin:
			if writer {
				p.closeStdin()
			}
		case hcs.FrameResize:
			var s hcs.ConsoleSize
			if json.Unmarshal(b, &s) == nil {
				_ = p.resize(s.Height, s.Width)
			}
		case hcs.FrameSignal:
			var s hcs.SignalProcessOptions
			if json.Unmarshal(b, &s) == nil && s.Signal > 0 {
				signal(int(s.Signal))
			}
		}
	}
	// A connection half closed still reads; one that broke, or spoke nonsense, ends.
	if errors.Is(err, hcs.ErrFrame) || hungUp(conn) {
		r.stop()
	}
	if !writer {
		return
	}
	p.in.unhold()
	switch {
	case p.terminal:
	case p.once:
		p.closeStdin()
	case r.creator:
		select {
		case <-time.After(stdinGrace):
			if !p.in.isHeld() {
				p.closeStdin()
			}
		case <-p.done:
		}
	}
}

// hungUp reports whether the other side of a socket is closed both ways.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	hup := true
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, _ = unix.Poll(p, 0)
		hup = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return hup
}

// earlyReader yields bytes that were read before, then the connection's.
type earlyReader struct {
	early []byte
	c     *net.UnixConn
}

func (e *earlyReader) Read(b []byte) (int, error) {
	if len(e.early) > 0 {
		n := copy(b, e.early)
		e.early = e.early[n:]
		return n, nil
	}
	return e.c.Read(b)
}
