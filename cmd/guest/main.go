// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command guest is process 1 of a utility VM and, under another name, what starts
// its containers. gatehouse carries it and puts it into the VM's initrd.
package main

import (
	"os"
	"runtime"

	"gatehouse.dev/gatehouse/internal/guest/agent"
	"gatehouse.dev/gatehouse/internal/guest/start"
)

// init keeps the main goroutine on the main thread: a starter sets that thread's
// credentials and executes from it, and threads that join namespaces are others.
func init() { runtime.LockOSThread() }

func main() {
	if start.Is(os.Args) {
		start.Main()
	}
	agent.Main()
}
