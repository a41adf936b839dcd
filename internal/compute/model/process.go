// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"slices"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// defaultPath is Docker's for Linux.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command is what a process runs, once document, image and container are merged.
type Command struct {
	Args []string
	Env  []string // sorted
	Cwd  string
	User string // to be resolved inside; "" = root
}

// InitCommand merges the init parameters of a container over its image's, as
// Docker does: an entry point of the caller's drops the image's command.
func InitCommand(p hcs.ProcessParameters, img *ispec.ImageConfig, hostname string) (Command, error) {
	// An OCI process with an environment of its own and no image is complete.
	whole := img == nil && p.Oci != nil && len(p.Oci.Env) > 0
	if img == nil {
		img = &ispec.ImageConfig{}
	}
	args, err := given(p)
	if err != nil {
		return Command{}, err
	}
	c := Command{User: img.User, Cwd: img.WorkingDir}
	switch {
	case p.ApplicationName != "":
		c.Args = append([]string{p.ApplicationName}, args...)
	case len(args) > 0:
		c.Args = append(slices.Clone(img.Entrypoint), args...)
	case p.Oci != nil && len(p.Oci.Args) > 0:
		c.Args = slices.Clone(p.Oci.Args)
	default:
		c.Args = append(slices.Clone(img.Entrypoint), img.Cmd...)
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		return Command{}, invalid("Container.InitProcess.CommandArgs", "no command: neither the document nor the image has one")
	}
	env := map[string]string{}
	if !whole {
		env["PATH"] = defaultPath
		if hostname != "" {
			env["HOSTNAME"] = hostname
		}
		if p.EmulateConsole {
			env["TERM"] = "xterm"
		}
	}
	overlay(env, img.Env)
	c.finish(p, env)
	return c, nil
}

// ExecCommand merges the parameters of a further process over its container's.
func ExecCommand(p hcs.ProcessParameters, container specs.Process) (Command, error) {
	args, err := given(p)
	if err != nil {
		return Command{}, err
	}
	var c Command
	switch {
	case p.ApplicationName != "":
		c.Args = append([]string{p.ApplicationName}, args...)
	case len(args) > 0:
		c.Args = args
	case p.Oci != nil:
		c.Args = slices.Clone(p.Oci.Args)
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		return Command{}, invalid("CommandArgs", "no command")
	}
	c.Cwd = container.Cwd
	env := map[string]string{}
	overlay(env, container.Env)
	if p.EmulateConsole && env["TERM"] == "" {
		env["TERM"] = "xterm"
	}
	c.finish(p, env)
	return c, nil
}

func given(p hcs.ProcessParameters) ([]string, error) {
	if len(p.CommandArgs) > 0 || p.CommandLine == "" {
		return p.CommandArgs, nil
	}
	args, err := SplitWords(p.CommandLine)
	if err != nil {
		return nil, invalid("CommandLine", "%v", err)
	}
	return args, nil
}

// finish applies what counts the same for init and for further processes.
func (c *Command) finish(p hcs.ProcessParameters, env map[string]string) {
	if o := p.Oci; o != nil {
		overlay(env, o.Env)
		if o.Cwd != "" {
			c.Cwd = o.Cwd
		}
		switch {
		case o.User.Username != "":
			c.User = o.User.Username
		case o.User.UID != 0 || o.User.GID != 0:
			c.User = fmt.Sprintf("%d:%d", o.User.UID, o.User.GID)
		}
	}
	for k, v := range p.Environment {
		env[k] = v
	}
	for k, v := range env {
		c.Env = append(c.Env, k+"="+v)
	}
	slices.Sort(c.Env)
	if p.WorkingDirectory != "" {
		c.Cwd = p.WorkingDirectory
	}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	if p.User != "" {
		c.User = p.User
	}
}

func overlay(env map[string]string, list []string) {
	for _, e := range list {
		if k, v, ok := strings.Cut(e, "="); ok && k != "" {
			env[k] = v
		}
	}
}

// process fills an OCI process. base has the rights: a container's defaults, or
// the container's own process.
func process(base specs.Process, p hcs.ProcessParameters, c Command, u specs.User) specs.Process {
	out := base
	out.Args, out.Env, out.Cwd, out.User = c.Args, c.Env, c.Cwd, u
	out.CommandLine = ""
	out.Terminal = p.EmulateConsole
	out.ConsoleSize = nil
	if o := p.Oci; o != nil {
		rights(&out, *o)
		out.Terminal = out.Terminal || o.Terminal
		if len(o.User.AdditionalGids) > 0 {
			out.User.AdditionalGids = slices.Clone(o.User.AdditionalGids)
		}
		out.User.Umask = o.User.Umask
	}
	if p.RestrictedToken {
		out.Capabilities = &specs.LinuxCapabilities{}
		out.NoNewPrivileges = true
	}
	return out
}

// rights takes over what only an OCI process can say.
func rights(out *specs.Process, o specs.Process) {
	if o.Capabilities != nil {
		out.Capabilities = o.Capabilities
	}
	if o.Rlimits != nil {
		for _, r := range o.Rlimits {
			out.Rlimits = slices.DeleteFunc(slices.Clone(out.Rlimits), func(x specs.POSIXRlimit) bool { return x.Type == r.Type })
			out.Rlimits = append(out.Rlimits, r)
		}
	}
	out.NoNewPrivileges = out.NoNewPrivileges || o.NoNewPrivileges
	if o.ApparmorProfile != "" {
		out.ApparmorProfile = o.ApparmorProfile
	}
	if o.SelinuxLabel != "" {
		out.SelinuxLabel = o.SelinuxLabel
	}
	if o.OOMScoreAdj != nil {
		out.OOMScoreAdj = o.OOMScoreAdj
	}
	if o.Scheduler != nil {
		out.Scheduler = o.Scheduler
	}
	if o.IOPriority != nil {
		out.IOPriority = o.IOPriority
	}
	if o.ExecCPUAffinity != nil {
		out.ExecCPUAffinity = o.ExecCPUAffinity
	}
}

// ExecProcess is the OCI process of a further process in a container whose init
// is container.
func ExecProcess(p hcs.ProcessParameters, container specs.Process, c Command, u specs.User) specs.Process {
	return process(container, p, c, u)
}
