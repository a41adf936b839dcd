// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

// refused is the exit code of run when no process ran, as Docker's.
const refused = 125

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use: "run [flags] IMAGE [COMMAND [ARG…]]", Short: "make a container of an image and run it",
		Args: args(1, -1, "an image and, if wanted, a command"),
		RunE: func(c *cobra.Command, args []string) error { return a.run(c.Context(), &f, args[0], args[1:]) },
	}
	c.Flags().SetInterspersed(false) // what follows the image is the container's
	f.register(c.Flags())
	return c
}

func thisHost() caller {
	return caller{cpus: runtime.NumCPU(), lookup: os.LookupEnv, exists: pathExists, open: os.Open}
}

func (a *app) run(ctx context.Context, f *runFlags, image string, args []string) error {
	no := func(err error) error { return &exit{startCode(err, refused), err} }
	doc, err := f.system(image, args)
	if err != nil {
		return no(err)
	}
	if f.name != "" {
		if err := checkName(f.name); err != nil {
			return no(err)
		}
	}
	if f.tty && f.stdin && !f.detach && !term.IsTerminal(int(a.in.Fd())) {
		return no(errors.New("-t and -i need a terminal, and standard input is none; leave -t out"))
	}
	if f.tty {
		doc.Container.InitProcess.ConsoleSize = a.consoleSize()
	}
	switch f.pull {
	case "missing", "never":
	case "always":
		if err := a.pull(ctx, image); err != nil {
			return no(err)
		}
	default:
		return no(fmt.Errorf("--pull %q: none of missing, always, never", f.pull))
	}
	start := a.runAttached
	if f.detach {
		start = a.runDetached
	}
	err = start(ctx, f, doc)
	if f.pull == "missing" && a.imageMissing(ctx, image, err) {
		fmt.Fprintf(a.err, "%s is not here; pulling it\n", image)
		if err := a.pull(ctx, image); err != nil {
			return no(err)
		}
		err = start(ctx, f, doc)
	}
	var e *exit
	if err != nil && !errors.As(err, &e) {
		return no(err)
	}
	return err
}

// system is the document of a system on this host.
func (f *runFlags) system(image string, args []string) (hcs.ComputeSystem, error) {
	w, err := f.document(thisHost(), image, args)
	if err != nil || w.Endpoint == nil {
		return w.Doc, err
	}
	if w.Network != "" {
		w.Endpoint["HostComputeNetwork"] = w.Network
	}
	b, err := json.Marshal(w.Endpoint)
	w.Doc.Container.Networking = &hcs.Networking{Endpoints: []json.RawMessage{b}}
	return w.Doc, err
}

// imageMissing reports whether a create failed because its image is not in the
// store. The store is asked only then, so that a run stays one request.
func (a *app) imageMissing(ctx context.Context, image string, err error) bool {
	if err == nil || !errdefs.IsNotFound(err) {
		return false
	}
	if _, ierr := images.ParseReference(image); ierr != nil {
		return false
	}
	_, ierr := a.images().Inspect(ctx, image)
	return errdefs.IsNotFound(ierr)
}

// named calls make with the name that was asked for, or with made-up ones until
// one is free.
func (f *runFlags) named(make func(name string) error) error {
	if f.name != "" {
		return make(f.name)
	}
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	var err error
	for try := range 16 {
		name := newName(r)
		if try >= 4 {
			name = fmt.Sprintf("%s%d", name, r.IntN(1000))
		}
		if err = make(name); hcs.CodeOf(err) != hcs.CodeSystemAlreadyExists {
			return err
		}
	}
	return err
}

func (a *app) runDetached(ctx context.Context, f *runFlags, doc hcs.ComputeSystem) error {
	return f.named(func(name string) error {
		if _, err := a.hcs().Create(ctx, name, doc, hcs.CreateOptions{Start: true}); err != nil {
			return err
		}
		fmt.Fprintln(a.out, name)
		return nil
	})
}

func (a *app) runAttached(ctx context.Context, f *runFlags, doc hcs.ComputeSystem) error {
	c := a.hcs()
	var io *hcs.Stdio
	var p hcs.Properties
	var id string
	err := f.named(func(name string) (err error) {
		id = name
		p, io, err = c.Run(ctx, name, doc, hcs.CreateOptions{}, hcs.AttachOptions{Stdin: f.stdin, Stdout: true, Stderr: !f.tty})
		return err
	})
	if err != nil {
		return err
	}
	if p.RuntimeId != "" {
		id = "rid:" + p.RuntimeId
	}
	s := session{a: a, stdin: f.stdin, tty: f.tty, proxy: true}
	code, err := s.run(ctx, io)
	switch {
	case errors.Is(err, errDetached):
		fmt.Fprintf(a.err, "\ndetached from %s\n", p.Id)
		return nil
	case errors.Is(err, hcs.ErrDetached):
		// The worker may have ended before its last frame was read.
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if st, werr := c.Wait(short, id); werr == nil && st.InitExitCode != nil {
			return passOn(int(*st.InitExitCode))
		}
		return lostStdio(p.Id, err)
	case err != nil:
		return err
	}
	// When we return the exit is on record, its port and address are free, and what
	// --rm promised is done; not if the daemon is away.
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, _ = c.Wait(short, id)
	return passOn(code)
}

func (a *app) attachCmd() *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "attach NAME", Short: "join the streams of a running container", Args: args(1, 1, "one name"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			doc, err := a.hcs().Document(ctx, args[0])
			if err != nil {
				return err
			}
			tty := doc.Container != nil && doc.Container.InitProcess != nil && doc.Container.InitProcess.EmulateConsole
			stdin = stdin && doc.Container != nil && doc.Container.InitProcess != nil && doc.Container.InitProcess.CreateStdInPipe
			io, err := a.hcs().Attach(ctx, args[0], "init", hcs.AttachOptions{Stdin: stdin, Stdout: true, Stderr: !tty})
			if err != nil {
				return err
			}
			if z := a.consoleSize(); tty && z[0] > 0 {
				_ = io.Resize(hcs.ConsoleSize{Height: z[0], Width: z[1]})
			}
			s := session{a: a, stdin: stdin, tty: tty, proxy: true}
			code, err := s.run(ctx, io)
			if errors.Is(err, errDetached) {
				fmt.Fprintf(a.err, "\ndetached from %s\n", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			return passOn(code)
		},
	}
	c.Flags().BoolVar(&stdin, "stdin", true, "pass standard input on")
	return c
}

func (a *app) execCmd() *cobra.Command {
	var detach, stdin, tty bool
	var env, envFile []string
	var workdir, user string
	c := &cobra.Command{
		Use: "exec [flags] NAME COMMAND [ARG…]", Short: "run one more process in a container",
		Args: args(2, -1, "a name and a command"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			p := hcs.ProcessParameters{CommandArgs: args[1:], User: user, WorkingDirectory: workdir, EmulateConsole: tty,
				CreateStdInPipe: stdin && !detach, CreateStdOutPipe: !detach, CreateStdErrPipe: !tty && !detach}
			var err error
			if p.Environment, err = environment(thisHost(), envFile, env); err != nil {
				return err
			}
			if tty && stdin && !detach && !term.IsTerminal(int(a.in.Fd())) {
				return errors.New("-t and -i need a terminal, and standard input is none; leave -t out")
			}
			if tty {
				p.ConsoleSize = a.consoleSize()
			}
			if detach {
				if _, err := a.hcs().CreateProcess(ctx, args[0], p); err != nil {
					return &exit{startCode(err, 1), err}
				}
				return nil
			}
			info, io, err := a.hcs().Exec(ctx, args[0], p)
			if err != nil {
				return &exit{startCode(err, 1), err}
			}
			s := session{a: a, stdin: stdin, tty: tty, proxy: true}
			code, err := s.run(ctx, io)
			switch {
			case errors.Is(err, errDetached):
				return nil
			case errors.Is(err, hcs.ErrDetached):
				short, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				if st, werr := a.hcs().WaitProcess(short, args[0], info.Key); werr == nil {
					return passOn(int(st.ExitCode))
				}
				return lostStdio(args[0], err)
			case err != nil:
				return &exit{startCode(err, 1), err}
			}
			return passOn(code)
		},
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	fs.BoolVarP(&detach, "detach", "d", false, "do not wait for it")
	fs.BoolVarP(&stdin, "interactive", "i", false, "pass standard input on")
	fs.BoolVarP(&tty, "tty", "t", false, "give it a terminal")
	fs.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE, or NAME to pass on the caller's; repeatable")
	fs.StringArrayVar(&envFile, "env-file", nil, "file of NAME=VALUE lines; repeatable")
	fs.StringVarP(&workdir, "workdir", "w", "", "working directory inside")
	fs.StringVarP(&user, "user", "u", "", "NAME, UID, UID:GID or NAME:GROUP inside")
	return c
}
