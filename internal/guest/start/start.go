// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// limit is how long a child may take for its set-up.
const limit = 20 * time.Second

// IO are the standard streams of a process; nil = /dev/null. With a terminal they
// are not used.
type IO struct{ Stdin, Stdout, Stderr *os.File }

// Container is what to set up.
type Container struct {
	Spec *specs.Spec
	Root string
	// Init is the process to become; nil = hold: the child stays and reaps.
	Init    *specs.Process
	Seccomp []byte
	// Cgroup is the open directory of the container's group in cgroup v2.
	Cgroup *os.File
	// Joins are namespaces of others, by a pidfd of a process in them, or Ours. Types
	// that the spec lists and Joins has not are new.
	Joins map[specs.LinuxNamespaceType]int
}

// Ours in Joins: the namespace of the calling process.
const Ours = -1

// Process is a started one.
type Process struct {
	PID     int
	Exit    <-chan silo.Exit
	Console *os.File // the terminal's master, or nil

	status *os.File
	gate   *os.File // until Run
}

// cloneFlags of the namespaces that the child is born into.
var cloneFlags = map[specs.LinuxNamespaceType]int{
	specs.MountNamespace: unix.CLONE_NEWNS, specs.PIDNamespace: unix.CLONE_NEWPID, specs.UTSNamespace: unix.CLONE_NEWUTS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
}

// Create sets up a container. Its process is complete but for the last step: Run
// lets it start. In hold mode it runs already.
func Create(r *silo.Reaper, c Container, io IO) (*Process, error) {
	cfg := config{Root: c.Root, Mounts: c.Spec.Mounts, Hold: c.Init == nil, Wait: c.Init != nil, Seccomp: c.Seccomp}
	if c.Init != nil {
		cfg.Process = *c.Init
	}
	if c.Spec.Root != nil {
		cfg.ReadonlyRoot = c.Spec.Root.Readonly
	}
	flags, joins := 0, map[int]int{}
	uts := false
	if l := c.Spec.Linux; l != nil {
		cfg.Devices, cfg.Masked, cfg.Readonly, cfg.Sysctl = l.Devices, l.MaskedPaths, l.ReadonlyPaths, l.Sysctl
		cfg.RootPropagation = l.RootfsPropagation
		for _, n := range l.Namespaces {
			if fd, ok := c.Joins[n.Type]; ok {
				if fd != Ours {
					joins[fd] |= cloneFlags[n.Type]
				}
				continue
			}
			flags |= cloneFlags[n.Type]
			uts = uts || n.Type == specs.UTSNamespace
		}
	}
	if uts { // else it would be the other's
		cfg.Hostname, cfg.Domainname = c.Spec.Hostname, c.Spec.Domainname
	}
	p, err := fork(r, cfg, io, flags, c.Cgroup, joins, nil)
	if err != nil {
		return nil, err
	}
	if err := p.await(cfg.Process.Terminal, true); err != nil {
		p.abandon(r)
		return nil, err
	}
	return p, nil
}

// Exec starts a further process in the container whose process 1 is pidfd.
func Exec(r *silo.Reaper, pidfd int, mounts *os.File, cgroup *os.File, process specs.Process, seccomp []byte, io IO) (*Process, error) {
	if f := processField(&process); f != "" {
		return nil, &hcs.Error{Code: hcs.CodeNotSupported, Field: "OCI.process." + f, Message: "the agent's own starter cannot do this"}
	}
	cfg := config{Process: process, Seccomp: seccomp, Join: true}
	all := unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	return started(fork(r, cfg, io, 0, cgroup, map[int]int{pidfd: all}, mounts))(r, process.Terminal)
}

// Plain starts a process outside of all containers: what the machine itself runs.
func Plain(r *silo.Reaper, cgroup *os.File, process specs.Process, io IO) (*Process, error) {
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	return started(fork(r, config{Process: process, Join: true}, io, 0, cgroup, nil, mounts))(r, process.Terminal)
}

func started(p *Process, err error) func(*silo.Reaper, bool) (*Process, error) {
	return func(r *silo.Reaper, terminal bool) (*Process, error) {
		if err != nil {
			return nil, err
		}
		if err := p.await(terminal, false); err != nil {
			p.abandon(r)
			return nil, err
		}
		p.status.Close()
		p.gate.Close()
		return p, nil
	}
}

// fork starts the child in its namespaces and gives it its config. What it joins
// is entered by a thread that ends afterwards.
func fork(r *silo.Reaper, cfg config, io IO, flags int, cgroup *os.File, joins map[int]int, mounts *os.File) (*Process, error) {
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	conf, err := memory("config", raw)
	if err != nil {
		return nil, err
	}
	defer conf.Close()
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	gateR, gateW, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer gateR.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, ours.Close(), gateW.Close())
	}
	defer null.Close()
	or := func(f *os.File) uintptr {
		if f == nil {
			f = null
		}
		return f.Fd()
	}
	attr := &syscall.ProcAttr{Env: []string{}, Dir: "/",
		Files: []uintptr{or(io.Stdin), or(io.Stdout), or(io.Stderr), conf.Fd(), theirs.Fd(), gateR.Fd()},
		Sys:   &syscall.SysProcAttr{Cloneflags: uintptr(flags)}}
	if mounts != nil {
		attr.Files = append(attr.Files, mounts.Fd())
	}
	if cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.Fd())
	}
	p := &Process{status: ours, gate: gateW}
	do := func() error {
		for fd, ns := range joins {
			if err := unix.Setns(fd, ns); err != nil {
				return fmt.Errorf("join namespaces: %w", err)
			}
		}
		p.PID, p.Exit, err = r.Fork("/proc/self/exe", []string{Name}, attr)
		return err
	}
	if len(joins) == 0 {
		err = do()
	} else {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			done <- do()
		}()
		err = <-done
	}
	if err != nil {
		return nil, errors.Join(err, ours.Close(), gateW.Close())
	}
	return p, nil
}

// await reads what the child says until it is ready, or until it has become the
// process (the socket ends). A terminal's master comes first.
func (p *Process) await(terminal, ready bool) error {
	_ = p.status.SetReadDeadline(time.Now().Add(limit))
	for {
		s, fds, end, err := p.receive()
		if err != nil {
			return fmt.Errorf("the starter does not answer: %w", err)
		}
		for _, fd := range fds {
			if p.Console == nil && terminal {
				if err := unix.SetNonblock(fd, true); err != nil {
					return err
				}
				p.Console = os.NewFile(uintptr(fd), "console")
			} else {
				unix.Close(fd)
			}
		}
		switch {
		case s.Error != "":
			return &hcs.Error{Code: hcs.CodeUnspecified, Message: s.Error, ExitCode: s.ExitCode}
		case end && ready:
			return errors.New("the starter ended")
		case end, s.Ready:
			return nil
		}
	}
}

func (p *Process) receive() (s status, fds []int, end bool, err error) {
	raw, err := p.status.SyscallConn()
	if err != nil {
		return s, nil, false, err
	}
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN
	})
	if err = errors.Join(err, rerr); err != nil {
		return s, nil, false, err
	}
	if n == 0 {
		return s, nil, true, nil
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return s, nil, false, err
		}
		for _, m := range msgs {
			if f, err := unix.ParseUnixRights(&m); err == nil {
				fds = append(fds, f...)
			}
		}
	}
	return s, fds, false, json.Unmarshal(buf[:n], &s)
}

// Run lets a created process start and returns when it has.
func (p *Process) Run() error {
	_, err := p.gate.Write([]byte{1})
	p.gate.Close()
	if err == nil {
		err = p.await(false, false)
	}
	p.status.Close()
	return err
}

// abandon ends a child that could not be what it should.
func (p *Process) abandon(r *silo.Reaper) {
	_, _ = r.Kill(p.PID, int(unix.SIGKILL))
	<-p.Exit
	p.status.Close()
	p.gate.Close()
	if p.Console != nil {
		p.Console.Close()
	}
}

func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "status"), os.NewFile(uintptr(fds[1]), "status"), nil
}

// memory is a file without a name that holds b, at its beginning.
func memory(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
