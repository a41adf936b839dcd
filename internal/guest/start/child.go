// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Is reports whether this process is a child to be.
func Is(args []string) bool { return len(args) > 0 && args[0] == Name }

// Main is the child. It must be called on the main thread, locked to it.
func Main() {
	runtime.LockOSThread() // what follows is the thread's own: credentials, seccomp
	var c config
	raw, err := io.ReadAll(os.NewFile(fdConfig, "config"))
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		report(125, fmt.Errorf("config: %w", err))
	}
	for _, fd := range []int{fdConfig, fdStatus, fdGate, fdMount} {
		unix.CloseOnExec(fd)
	}
	if c.Join {
		err = join()
	} else {
		err = c.setup()
	}
	if err != nil {
		report(125, err)
	}
	if c.Hold {
		hold()
	}
	report(c.become())
}

// report says what went wrong and ends the process.
func report(code int, err error) {
	b, _ := json.Marshal(status{Error: err.Error(), ExitCode: code})
	_, _ = unix.Write(fdStatus, b)
	os.Exit(code)
}

// setup is what happens once for a container.
func (c *config) setup() error {
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	if c.Domainname != "" {
		if err := unix.Setdomainname([]byte(c.Domainname)); err != nil {
			return fmt.Errorf("domain name: %w", err)
		}
	}
	return c.root()
}

// join enters the mount namespace of a container; the parent did the others.
func join() error {
	// A thread may do it that shares its root and working directory with nobody.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("join the container: %w", err)
	}
	if err := unix.Setns(fdMount, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join the container's mounts: %w", err)
	}
	return nil
}

// hold is process 1 of a container whose processes come and go: it reaps.
func hold() {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	b, _ := json.Marshal(status{Ready: true})
	_, _ = unix.Write(fdStatus, b)
	for _, fd := range []int{fdConfig, fdStatus, fdGate} {
		unix.Close(fd)
	}
	for {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
				break
			}
		}
		<-child
	}
}

// become turns into the process. It returns only what kept it from that.
func (c *config) become() (int, error) {
	p := &c.Process
	if p.Terminal {
		if err := c.terminal(); err != nil {
			return 125, fmt.Errorf("terminal: %w", err)
		}
	} else if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return 125, err
	}
	if p.OOMScoreAdj != nil {
		if err := os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, *p.OOMScoreAdj), 0); err != nil {
			return 125, fmt.Errorf("oomScoreAdj: %w", err)
		}
	}
	for _, r := range p.Rlimits {
		n, ok := rlimits[r.Type]
		if !ok {
			return 125, fmt.Errorf("rlimits: %q is none", r.Type)
		}
		if err := unix.Prlimit(0, n, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return 125, fmt.Errorf("%s: %w", r.Type, err)
		}
	}
	if c.Wait {
		b, _ := json.Marshal(status{Ready: true})
		if _, err := unix.Write(fdStatus, b); err != nil {
			os.Exit(125) // nobody is there any more
		}
		var go1 [1]byte
		if n, err := unix.Read(fdGate, go1[:]); n != 1 || err != nil {
			os.Exit(125)
		}
	}
	path, code, err := look(p.Args[0], p.Env, p.Cwd)
	if err != nil && code == 127 {
		return code, err
	}
	if err := c.privileges(); err != nil {
		return 125, err
	}
	if p.Cwd != "" {
		if err := unix.Chdir(p.Cwd); err != nil {
			return 125, fmt.Errorf("working directory %s: %w", p.Cwd, err)
		}
	}
	if p.User.Umask != nil {
		unix.Umask(int(*p.User.Umask))
	}
	// Everything else of ours closes when the program starts.
	if err := unix.CloseRange(3, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 125, err
	}
	if len(c.Seccomp) > 0 && p.NoNewPrivileges {
		if err := setFilter(c.Seccomp); err != nil {
			return 125, err
		}
	}
	err = syscall.Exec(path, p.Args, p.Env)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return 127, fmt.Errorf("exec %s: %w", p.Args[0], err)
	}
	return 126, fmt.Errorf("exec %s: %w", p.Args[0], err)
}

// look finds the program by the process's own PATH.
func look(name string, env []string, cwd string) (string, int, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(cwd, name)
		}
		return name, 0, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(cwd, dir)
		}
		f := filepath.Join(dir, name)
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return f, 0, nil
		}
	}
	return "", 127, fmt.Errorf("exec %s: %w", name, exec.ErrNotFound)
}

// terminal makes a terminal in the container's own devpts, hands its master to
// the agent, and lets it be the process's standard streams.
func (c *config) terminal() error {
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	slave, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if s := c.Process.ConsoleSize; s != nil {
		_ = unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.Height), Col: uint16(s.Width)})
	}
	if err := unix.Sendmsg(fdStatus, []byte("{}"), unix.UnixRights(master), nil, 0); err != nil {
		return err
	}
	unix.Close(master)
	if err := unix.Fchown(slave, int(c.Process.User.UID), -1); err != nil {
		return err
	}
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return err
	}
	if err := unix.IoctlSetInt(slave, unix.TIOCSCTTY, 0); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return err
		}
	}
	return nil
}
