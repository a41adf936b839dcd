// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command gatehouse is the daemon, its command line and, under other names, the
// processes that the daemon starts.
package main

import (
	"context"
	"os"
	"runtime"

	"gatehouse.dev/gatehouse/internal/compute/uvm"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/daemon"
	"gatehouse.dev/gatehouse/internal/door/cli"
)

// init keeps the main goroutine on the main thread, and with it everybody else
// off it: threads that make network namespaces are in another one meanwhile, and
// the main thread's is what the process is taken to be in (/proc/<pid>/ns/net).
func init() { runtime.LockOSThread() }

func main() {
	if worker.Is(os.Args) {
		os.Exit(worker.Main(os.Args))
	}
	if uvm.IsProbe(os.Args) {
		os.Exit(uvm.ProbeMain())
	}
	os.Exit(commands(os.Args[1:]))
}

func commands(args []string) int {
	return cli.Main(context.Background(), cli.Program{
		Version: daemon.Version,
		Serve: func(ctx context.Context, o cli.ServeOptions) error {
			return daemon.Run(ctx, daemon.Options{Root: o.Root, Socket: o.Socket, Config: o.Config, Log: os.Stderr})
		},
		Doctor: daemon.Doctor,
		Leaks:  daemon.Leaks,
	}, args)
}
