// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
	"gatehouse.dev/gatehouse/internal/guest/start"
)

// crun of the tools disk starts what the agent's own starter cannot; it costs ten
// times as much.
const crun = toolsDir + "/bin/crun"

// crunDir has a directory for each container that crun started, crunState its own.
const (
	crunDir   = "/run/gatehouse/crun"
	crunState = "/run/gatehouse/crun-state"
)

// crunLimit is how long one invocation may take.
const crunLimit = 25 * time.Second

// runtimeThread is what an OCI runtime is forked from.
var runtimeThread = sync.OnceValue(func() *silo.Thread {
	t := silo.NewThread()
	go t.Run(context.Background())
	return t
})

// fallback returns an engine for a spec that the own starter refused with why.
func (a *Agent) fallback(cfg proto.ContainerConfig, why error) (*silo.Engine, error) {
	if cfg.Mode != proto.ModeInit {
		return nil, why // process 1 is ours there
	}
	if err := a.disks.tools(); err != nil {
		return nil, errors.Join(why, err)
	}
	if _, err := os.Stat(crun); err != nil {
		return nil, why
	}
	spec := *cfg.OCI
	if err := a.nets.files(&spec, cfg); err != nil {
		return nil, err
	}
	linux := specs.Linux{}
	if spec.Linux != nil {
		linux = *spec.Linux
	}
	var err error
	if linux.Namespaces, err = a.namespaces(cfg); err != nil {
		return nil, err
	}
	spec.Linux = &linux
	log("container %s is left to crun: %v", cfg.Id, why)
	e, err := silo.New(silo.Config{ID: cfg.Id, Dir: filepath.Join(crunDir, cfg.Id), Runtime: crun, RuntimeRoot: crunState, OCI: spec,
		Root: silo.Root{Path: cfg.RootPath}, Cgroup: filepath.Join("/", groupName, cfg.Id)}, runtimeThread(), a.reaper)
	if err != nil {
		return nil, err
	}
	return e, e.Prepare()
}

// namespaces are those of a spec with the paths of other containers'.
func (a *Agent) namespaces(cfg proto.ContainerConfig) ([]specs.LinuxNamespace, error) {
	if cfg.OCI.Linux == nil {
		return nil, nil
	}
	var out []specs.LinuxNamespace
	for _, n := range cfg.OCI.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace && cfg.NamespaceId != "" {
			n.Path = cfg.NamespaceId
		}
		switch n.Path {
		case proto.VM:
			continue // no namespace of its own
		case "":
		default:
			other, err := a.container(n.Path)
			if err != nil {
				return nil, err
			}
			pid, err := other.pid()
			if err != nil {
				return nil, err
			}
			name, ok := map[specs.LinuxNamespaceType]string{specs.MountNamespace: "mnt", specs.NetworkNamespace: "net"}[n.Type]
			if !ok {
				name = string(n.Type)
			}
			n.Path = fmt.Sprintf("/proc/%d/ns/%s", pid, name)
		}
		out = append(out, n)
	}
	return out, nil
}

// startByCrun starts a container that crun is to start.
func (a *Agent) startByCrun(c *container) error {
	p := c.config.OCI.Process
	ctx, cancel := context.WithTimeout(context.Background(), crunLimit)
	defer cancel()
	sp, err := c.engine.Start(ctx, siloIO(c.wiring.io, p))
	if err != nil {
		return crunError(err)
	}
	c.wiring.forked()
	a.watchOOM(c)
	c.init = &start.Process{PID: sp.PID, Exit: sp.Exit, Console: sp.Console}
	a.watchInit(c)
	return nil
}

// neverStarted ends a container that crun was to start: there is no process to end.
func (a *Agent) neverStarted(c *container, kind hcs.ExitType) {
	c.wiring.abandon()
	close(c.ended)
	a.notify(proto.NotifyContainer, proto.ContainerNotification{Base: proto.Base{ContainerId: c.config.Id}, Operation: "None", Type: kind})
}

func siloIO(io start.IO, p *specs.Process) silo.IO {
	s := silo.IO{Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: p.Terminal}
	if p.ConsoleSize != nil {
		s.Height, s.Width = uint16(p.ConsoleSize.Height), uint16(p.ConsoleSize.Width)
	}
	return s
}

func crunError(err error) error {
	if e := (*silo.RuntimeError)(nil); errors.As(err, &e) {
		return &hcs.Error{Code: hcs.CodeUnspecified, Message: e.Message, ExitCode: e.ExitCode}
	}
	return err
}

// execByCrun runs a further process in a container that crun started.
func (c *container) execByCrun(p specs.Process, io start.IO, key uint64) (*start.Process, error) {
	ctx, cancel := context.WithTimeout(context.Background(), crunLimit)
	defer cancel()
	sp, err := c.engine.Exec(ctx, fmt.Sprintf("p%d", key), p, siloIO(io, &p))
	if err != nil {
		return nil, crunError(err)
	}
	return &start.Process{PID: sp.PID, Exit: sp.Exit, Console: sp.Console}, nil
}
