// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command gatehouse is the daemon, its command line and, under other names, the
// processes that the daemon starts.
package main

import (
	"context"
	"os"

	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/daemon"
	"gatehouse.dev/gatehouse/internal/door/cli"
)

func main() {
	if worker.Is(os.Args) {
		os.Exit(worker.Main(os.Args))
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
