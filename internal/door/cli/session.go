// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"gatehouse.dev/gatehouse/hcs"
)

// errDetached: the person typed the detach keys.
var errDetached = errors.New("detached")

// session joins this process's streams with those of a process in a system.
type session struct {
	a          *app
	stdin, tty bool
	// proxy passes signals on; without it they end us as usual.
	proxy bool
}

// consoleSize is the terminal's size now; zero without one.
func (a *app) consoleSize() (size [2]uint16) {
	if w, h, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		return [2]uint16{uint16(h), uint16(w)}
	}
	if w, h, err := term.GetSize(int(a.in.Fd())); err == nil {
		return [2]uint16{uint16(h), uint16(w)}
	}
	return size
}

// raw puts our terminal into raw mode; restore must be called on every way out.
func (s *session) raw() (restore func(), err error) {
	fd := int(s.a.in.Fd())
	if !s.tty || !s.stdin || !term.IsTerminal(fd) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	var once sync.Once
	return func() { once.Do(func() { _ = term.Restore(fd, old) }) }, nil
}

// run copies until the process ended and returns its exit code.
func (s *session) run(ctx context.Context, io *hcs.Stdio) (code int, err error) {
	restore, err := s.raw()
	if err != nil {
		return 0, err
	}
	defer restore()
	defer io.Close()

	// Signals: with a terminal the keys are bytes and only its size is news.
	sigs := make(chan os.Signal, 64)
	watch := []os.Signal{}
	if s.tty {
		watch = append(watch, syscall.SIGWINCH)
	}
	if s.proxy && !s.tty {
		watch = append(watch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGCONT)
	} else if s.tty {
		// Killed with the terminal in raw mode, we would leave it so.
		watch = append(watch, syscall.SIGTERM, syscall.SIGHUP)
	}
	if len(watch) > 0 {
		signal.Notify(sigs, watch...)
		defer signal.Stop(sigs)
	}
	done := make(chan struct{})
	defer close(done)
	dying := make(chan syscall.Signal, 1)
	go func() {
		for {
			select {
			case sg := <-sigs:
				switch {
				case sg == syscall.SIGWINCH:
					if z := s.a.consoleSize(); z[0] > 0 {
						_ = io.Resize(hcs.ConsoleSize{Height: z[0], Width: z[1]})
					}
				case s.tty:
					restore()
					select {
					case dying <- sg.(syscall.Signal):
					default:
					}
					_ = io.Close()
				default:
					_ = io.Signal(hcs.Signal(sg.(syscall.Signal)))
				}
			case <-done:
				return
			}
		}
	}()
	left := make(chan struct{})
	if s.stdin {
		go s.input(io, left) // ends with us: a read of the terminal cannot be taken back
	}
	st, err := io.Copy(s.a.out, s.a.err)
	select {
	case sg := <-dying:
		return 128 + int(sg), nil
	default:
	}
	select {
	case <-left:
		return 0, errDetached
	default:
	}
	if err != nil {
		return 0, err
	}
	return int(st.ExitCode), nil
}

// input sends what is typed or piped in; left is closed when the person detached.
func (s *session) input(io *hcs.Stdio, left chan struct{}) {
	var keys detachKeys
	buf := make([]byte, 32<<10)
	out := make([]byte, 0, len(buf)+1)
	for {
		n, err := s.a.in.Read(buf)
		b := buf[:n]
		gone := false
		if s.tty && n > 0 {
			b, gone = keys.filter(out[:0], b)
		}
		if len(b) > 0 {
			if _, werr := io.Write(b); werr != nil {
				return
			}
		}
		if gone {
			close(left)
			_ = io.Close()
			return
		}
		if err != nil {
			_ = io.CloseStdin()
			return
		}
	}
}

// startCode is the exit code of a process that was refused: what the runtime said
// (127 not found, 126 not executable), else fallback.
func startCode(err error, fallback int) int {
	var e *hcs.Error
	if errors.As(err, &e) && e.ExitCode != 0 {
		return e.ExitCode
	}
	return fallback
}

// passOn turns a process's exit code into our own.
func passOn(code int) error {
	if code == 0 {
		return nil
	}
	return &exit{code: code}
}

// lostStdio says what became of a process whose streams broke off.
func lostStdio(name string, err error) error {
	return fmt.Errorf("lost the connection to %s, which may still run; see: gatehouse ps -a (%s)", name, strings.TrimSpace(err.Error()))
}
