// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

// trial runs an image and sees whether it does what it should.
type trial struct {
	a     *app
	run   runFlags
	args  []string
	probe string   // a command for this host's shell
	execs []string // commands in the container
	limit time.Duration
}

func (a *app) imageSlim() *cobra.Command {
	t := trial{a: a}
	t.run.register(pflag.NewFlagSet("", pflag.ContinueOnError)) // its defaults
	var req images.SlimRequest
	var report string
	c := &cobra.Command{
		Use:   "slim [--level lossless|rules|traced] [flags] IMAGE NEWNAME [COMMAND [ARG…]]",
		Short: "make a smaller image of one, and prove that it still works",
		Args:  args(2, -1, "an image, a name for the smaller one and, if wanted, the command to try it with"),
		RunE: func(c *cobra.Command, args []string) error {
			req.Ref, t.args = args[0], args[2:]
			ref, err := images.ParseReference(args[1])
			if err != nil {
				return usage(c, err)
			}
			rep, err := a.slim(c.Context(), t, req, ref.String())
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s %s -> %s (%.1f x), files %s -> %s, %d dropped\n", args[1], units.HumanSize(float64(rep.BytesBefore)), units.HumanSize(float64(rep.BytesAfter)),
				float64(rep.BytesBefore)/float64(max(rep.BytesAfter, 1)), units.HumanSize(float64(rep.UnpackedBefore)), units.HumanSize(float64(rep.UnpackedAfter)), len(rep.Dropped))
			if report == "" {
				return nil
			}
			return a.archive(c, report, func(w io.Writer) error {
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				return e.Encode(rep)
			})
		},
	}
	fs := c.Flags()
	fs.SetInterspersed(false)
	fs.StringVar(&req.Level, "level", images.SlimLossless, "lossless: one layer; rules: and without what --rule names; traced: only what a trial opens, and what follows from it")
	fs.StringArrayVar(&req.Rules, "rule", nil, "packages, docs, man, locales, pycache, static, logs (default: all)")
	fs.StringArrayVar(&req.Keep, "keep", nil, "path, with all below, or pattern that stays")
	fs.StringArrayVarP(&t.run.env, "env", "e", nil, "environment of the trial")
	fs.StringVar(&t.probe, "probe", "", "command of this host that succeeds when the container works; it gets GATEHOUSE_NAME and GATEHOUSE_ADDRESS")
	fs.StringArrayVar(&t.execs, "exec", nil, "command to run in the container, its words without quotes")
	fs.DurationVar(&t.limit, "for", 30*time.Second, "how long the probe may fail, or, without one, how long the trial is")
	fs.StringVar(&report, "report", "", "file for what was kept and dropped, and why (JSON)")
	return c
}

// slim makes the smaller image without a name, tries it, and names it then.
func (a *app) slim(ctx context.Context, t trial, req images.SlimRequest, name string) (images.SlimReport, error) {
	none := images.SlimReport{}
	tried := req.Level == images.SlimTraced || t.probe != "" || len(t.execs) > 0 || len(t.args) > 0
	if tried {
		fmt.Fprintf(a.err, "trying %s\n", req.Ref)
		var err error
		if req.Observed, err = t.try(ctx, req.Ref, req.Level == images.SlimTraced); err != nil {
			return none, fmt.Errorf("the image itself fails its trial: %w", err)
		}
	}
	p := a.progress()
	img, rep, err := a.images().Slim(ctx, req, p.line)
	p.done()
	if err != nil {
		return none, err
	}
	if tried {
		fmt.Fprintf(a.err, "trying the smaller image\n")
		if _, err := t.try(ctx, img.ID, false); err != nil {
			err = fmt.Errorf("the smaller image fails its trial, and was removed; keep more with --keep: %w", err)
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_, rerr := a.images().Remove(undo, img.ID, false)
			return none, errors.Join(err, rerr)
		}
	}
	_, err = a.images().Tag(ctx, img.ID, name)
	return rep, err
}

// try runs the image once, and answers which files it opened if they are traced.
func (t trial) try(ctx context.Context, image string, traced bool) (opened []string, err error) {
	doc, err := t.run.system(image, t.args)
	if err != nil {
		return nil, err
	}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	id, c := "slim-"+hex.EncodeToString(b[:]), t.a.hcs()
	if _, err := c.Create(ctx, id, doc, hcs.CreateOptions{}); err != nil {
		return nil, err
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, c.Delete(undo, id))
	}()
	told := make(chan error, 1)
	told <- nil
	if traced {
		files, err := c.Trace(ctx, id)
		if err != nil {
			return nil, err
		}
		<-told
		go func() {
			for f, err := range files {
				if err != nil {
					told <- err
					return
				}
				opened = append(opened, f.Path)
			}
			told <- nil
		}()
	}
	if _, err := c.Start(ctx, id); err != nil {
		return nil, err
	}
	if err := t.works(ctx, id); err != nil {
		return nil, err
	}
	if err := t.a.stop(ctx, id, stopTimeout, hcs.ShutdownOptions{}); err != nil {
		return nil, err
	}
	return opened, <-told
}

// works asks the running container.
func (t trial) works(ctx context.Context, id string) error {
	c := t.a.hcs()
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	env := append(os.Environ(), "GATEHOUSE_NAME="+id, "GATEHOUSE_ADDRESS="+t.address(ctx, id))
	for t.probe != "" {
		cmd := exec.CommandContext(ctx, "sh", "-c", t.probe)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("probe %q: %w: %s", t.probe, err, strings.TrimSpace(string(out)))
		}
	}
	for _, e := range t.execs {
		if err := t.exec(ctx, id, strings.Fields(e)); err != nil {
			return fmt.Errorf("--exec %q: %w", e, err)
		}
	}
	if t.probe != "" || len(t.execs) > 0 {
		return nil
	}
	st, err := c.Wait(ctx, id)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // a server: it stayed
		return nil
	case err != nil:
		return err
	case st.InitExitCode != nil && *st.InitExitCode != 0:
		return fmt.Errorf("it ended with %d", *st.InitExitCode)
	}
	return nil
}

func (t trial) exec(ctx context.Context, id string, words []string) error {
	_, s, err := t.a.hcs().Exec(ctx, id, hcs.ProcessParameters{CommandArgs: words, CreateStdOutPipe: true, CreateStdErrPipe: true})
	if err != nil {
		return err
	}
	code, err := (&session{a: t.a}).run(ctx, s)
	if err == nil && code != 0 {
		err = fmt.Errorf("it ended with %d", code)
	}
	return err
}

// address is the container's first one; empty = it has none.
func (t trial) address(ctx context.Context, id string) string {
	p, err := t.a.hcs().Properties(ctx, id)
	if err != nil {
		return ""
	}
	all, err := t.a.hcn().ListEndpoints(ctx, hcn.HostComputeQuery{})
	if err != nil {
		return ""
	}
	for _, e := range all {
		if e.HostComputeNamespace == p.Namespace && len(e.IpConfigurations) > 0 {
			return e.IpConfigurations[0].IpAddress
		}
	}
	return ""
}
