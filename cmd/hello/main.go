// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command hello is all there is in the image gatehouse/hello: servers to talk to,
// clients to talk with, and the handful of tools that tests and first steps need
// in a container without a shell. It imports none of gatehouse and speaks HTTP by
// hand, to stay small.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

type command struct {
	name, args, help string
	run              func(args []string) error
}

func commands() []command {
	return []command{
		{"serve", "[-http :80] [-echo :7]", "HTTP, and TCP and UDP echo, until SIGTERM", serve},
		{"get", "URL [-n N] [-c C] [-r RATE] [-new] [-t SEC] [-H K:V] [-d BODY]", "HTTP request; with -n counts and latencies", get},
		{"tcp", "ADDR TEXT", "send text, print the answer", tcp},
		{"udp", "ADDR TEXT", "send a datagram, print the answer", udp},
		{"ping", "HOST [-c N] [-i SEC] [-w SEC] [-s BYTES] [-4|-6]", "ICMP echo", ping},
		{"lookup", "NAME|ADDR [SERVER] [-tcp]", "A and AAAA, or PTR", lookup},
		{"iperf", "-s | -c ADDR [-t SEC] [-P N] [-R] [-j]", "throughput", iperf},
		{"rr", "-s | -c ADDR [-t SEC] [-b BYTES] [-u] [-j]", "request and response: latencies", rr},
		{"hostname", "", "host name", hostname},
		{"addr", "", "interfaces and addresses", addr},
		{"env", "[NAME]", "environment", env},
		{"id", "", "user, groups, capabilities", id},
		{"cat", "[FILE…]", "files, or stdin", cat},
		{"ls", "[-l] [PATH…]", "list", ls},
		{"write", "FILE TEXT", "make a file", write},
		{"rm", "PATH…", "remove", rm},
		{"echo", "[-2] TEXT…", "print (-2: on stderr)", echo},
		{"lines", "N [-d SEC] [-2]", "print numbered lines", lines},
		{"sleep", "SEC [-say TEXT] [-exit N]", "wait, then print and exit; SIGTERM ends it with 143", sleep},
		{"trap", "", "print each signal; SIGTERM exits 0", trap},
		{"exit", "N", "exit with N", exit},
		{"memhog", "MB", "take memory, touch it, wait", memhog},
		{"spin", "SEC [-P N]", "use the CPU", spin},
		{"fork", "N", "N children that wait; says how many came to be", fork},
		{"tty", "", "is stdin a terminal, and its size", tty},
	}
}

// exitError is an exit status without a message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"serve"}
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(args[1:])
		var code exitError
		switch {
		case err == nil:
			return
		case errors.As(err, &code):
			os.Exit(int(code))
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprintf(os.Stderr, "usage: hello %s %s\n", c.name, c.args)
			os.Exit(2)
		}
		fmt.Fprintf(os.Stderr, "hello %s: %v\n", c.name, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "hello: no command %q; there are:\n", args[0])
	for _, c := range commands() {
		fmt.Fprintf(os.Stderr, "  %-50s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
	os.Exit(2)
}

// parse reads flags that may stand before, between and after the other arguments,
// and demands between least and most of those (most < 0: any number).
func parse(fs *flag.FlagSet, args []string, least, most int) ([]string, error) {
	fs.SetOutput(io.Discard)
	var rest []string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if args = fs.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	if len(rest) < least || most >= 0 && len(rest) > most {
		return nil, flag.ErrHelp
	}
	return rest, nil
}

func flags() *flag.FlagSet { return flag.NewFlagSet("", flag.ContinueOnError) }
