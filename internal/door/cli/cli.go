// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package cli is the command line: it turns words and flags into documents of
// hcn, hcs and images, sends them through their clients as any stranger's program
// would, and shows the answers. It decides nothing that the daemon decides.
//
// The answer goes to standard output, talk to standard error; an error is one
// line that says what to do next. Exit codes: 0 done, 1 refused or failed, 2
// usage; run and exec pass on the process's own, or 125, 126, 127 as Docker does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/instance"
)

// ServeOptions are the flags of serve.
type ServeOptions struct {
	Root, Socket, Config string
}

// Program is what the command line cannot do as a client: it is handed in by main.
type Program struct {
	Version string
	// Serve is the daemon; it returns when ctx ends.
	Serve func(ctx context.Context, o ServeOptions) error
	// Doctor looks at this host without a daemon.
	Doctor func(ctx context.Context) []host.Check
	// Leaks looks at a root that no daemon serves; remove takes the orphans away.
	Leaks func(ctx context.Context, root string, remove bool) (host.Leaks, error)
}

// app is one call of the command line.
type app struct {
	Program
	in       *os.File
	out, err io.Writer

	root, socket string // flags
	output       string
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, p Program, args []string) int {
	a := &app{Program: p, in: os.Stdin, out: os.Stdout, err: os.Stderr}
	return a.main(ctx, args)
}

func (a *app) main(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	code := exitCode(err)
	if text := a.line(err); text != "" {
		fmt.Fprintln(a.err, "gatehouse: "+text)
	}
	return code
}

// exit is an error that is nothing but an exit code, with or without a reason.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usage marks an error as the caller's.
func usage(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return &exit{2, fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
}

func exitCode(err error) int {
	var e *exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	case strings.HasPrefix(err.Error(), "unknown command"):
		return 2
	case errors.Is(err, context.Canceled):
		return 130
	}
	return 1
}

// line is what an error says to a person, in one line.
func (a *app) line(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return ""
	}
	s := err.Error()
	var he *hcs.Error
	var ne *hcn.HcnError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) && strings.Contains(s, "dial unix"):
		s = fmt.Sprintf("no daemon answers on %s; start one with: gatehouse serve", a.socketPath())
	case errors.Is(err, syscall.EACCES) && strings.Contains(s, "dial unix"):
		s = fmt.Sprintf("may not use %s; become root or join the socket's group", a.socketPath())
	case errors.As(err, &he):
		s = strings.TrimSuffix(s, " ("+he.Code.String()+")")
	case errors.As(err, &ne):
		if r := ne.Record(); strings.TrimSpace(r.Error) != "" {
			s = strings.Replace(s, ne.Error(), strings.TrimSpace(r.Error), 1)
		}
	case strings.HasPrefix(s, "unknown command") && !strings.Contains(s, "; see: "):
		s, _, _ = strings.Cut(s, "\n")
		s += "; see: gatehouse --help"
	}
	// ref put the prefix there; nobody typed it.
	return oneLine(strings.ReplaceAll(s, `"name:`, `"`))
}

// oneLine folds what a tool below printed over several lines.
func oneLine(s string) string {
	var f []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			f = append(f, l)
		}
	}
	return strings.Join(f, "; ")
}

func (a *app) instance() (instance.Instance, error) { return instance.New(a.root) }

// socketPath: the flag, else the root's, where a --root that was typed counts
// more than a GATEHOUSE_SOCKET that was inherited.
func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	i, err := a.instance()
	if err != nil {
		return hcs.DefaultSocket
	}
	return i.Socket
}

func (a *app) hcn() *hcn.Client       { return &hcn.Client{Socket: a.socketPath()} }
func (a *app) hcs() *hcs.Client       { return &hcs.Client{Socket: a.socketPath()} }
func (a *app) images() *images.Client { return &images.Client{Socket: a.socketPath()} }
func (a *app) host() *host.Client     { return &host.Client{Socket: a.socketPath()} }

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "gatehouse",
		Short:         "one gate for a host's containers and container networks",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	root.PersistentFlags().StringVar(&a.root, "root", os.Getenv("GATEHOUSE_ROOT"), "directory of everything one daemon owns ($GATEHOUSE_ROOT; default: the system's own places)")
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "API socket ($GATEHOUSE_SOCKET; default: the root's)")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if a.socket == "" && !root.PersistentFlags().Changed("root") {
			a.socket = os.Getenv("GATEHOUSE_SOCKET")
		}
	}
	root.AddGroup(&cobra.Group{ID: "host", Title: "The host:"}, &cobra.Group{ID: "systems", Title: "Containers:"},
		&cobra.Group{ID: "things", Title: "Images and networks:"}, &cobra.Group{ID: "raw", Title: "Raw documents:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("host", a.serveCmd(), a.doctorCmd(), a.versionCmd(), a.flowsCmd(), a.captureCmd(), a.metricsCmd(), a.whoCmd(), a.explainCmd(), a.eventsCmd(), completionCmd())
	add("systems", a.runCmd(), a.execCmd(), a.psCmd(), a.logsCmd(), a.stopCmd(), a.killCmd(), a.rmCmd(), a.waitCmd(),
		a.inspectCmd(), a.statsCmd(), a.pauseCmd(), a.resumeCmd(), a.attachCmd(), a.commitCmd(), a.exportCmd(), a.importCmd())
	add("things", a.imageCmd(), a.networkCmd(), a.endpointCmd(), a.namespaceCmd(), a.policyCmd(), a.lbCmd(), a.serviceCmd(), a.uvmCmd())
	add("raw", a.hcnCmd(), a.hcsCmd())
	a.completeNames(root)
	for c := range walk(root) {
		if c.HasSubCommands() && c.RunE == nil && c != root {
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usage(c, fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath()))
				}
				return usage(c, fmt.Errorf("%s needs a verb", words(c)))
			}
		}
		// Use lines name their flags where they matter.
		c.DisableFlagsInUseLine = strings.Contains(c.Use, "[-") || strings.Contains(c.Use, "[flags]")
		if c.Args != nil {
			check := c.Args
			c.Args = func(c *cobra.Command, args []string) error { return usageOnce(c, check(c, args)) }
		}
	}
	return root
}

func usageOnce(c *cobra.Command, err error) error {
	var e *exit
	if errors.As(err, &e) {
		return err
	}
	return usage(c, err)
}

func walk(c *cobra.Command) func(func(*cobra.Command) bool) {
	return func(yield func(*cobra.Command) bool) {
		var each func(*cobra.Command) bool
		each = func(c *cobra.Command) bool {
			if !yield(c) {
				return false
			}
			for _, s := range c.Commands() {
				if !each(s) {
					return false
				}
			}
			return true
		}
		each(c)
	}
}

// args checks how many words a command takes and says so in its own words.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if len(a) < least || most >= 0 && len(a) > most {
			if what == "" {
				return fmt.Errorf("%s takes no words", words(c))
			}
			return fmt.Errorf("%s takes %s", words(c), what)
		}
		return nil
	}
}

// words are a command's own, without the program's name that begins the line.
func words(c *cobra.Command) string { return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") }

// outputFlag gives a listing -o json|wide|name.
func (a *app) outputFlag(fs *pflag.FlagSet) {
	fs.StringVarP(&a.output, "output", "o", "", "json, wide or name")
}

func completionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "completions for a shell", Args: args(1, 1, "bash, zsh or fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			root, w := c.Root(), c.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			}
			return usage(c, fmt.Errorf("no completions for %q", args[0]))
		},
	}
}
