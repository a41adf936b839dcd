// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command guest is what the tests run inside a container.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "show":
		show()
		os.Exit(3)
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			os.Exit(1)
		}
	case "exit":
		n, _ := strconv.Atoi(os.Args[2])
		os.Exit(n)
	case "sleep":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		select {
		case <-c:
		case <-time.After(time.Minute):
			os.Exit(9)
		}
	}
}

func show() {
	fmt.Println("ids", os.Getuid(), os.Getgid())
	for _, e := range os.Environ() {
		fmt.Println(e)
	}
	name, _ := os.Hostname()
	fmt.Println("host", name)
	fmt.Println("pid", os.Getpid())
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "CapBnd:":
			fmt.Println("caps", f[1])
		case "Seccomp:":
			fmt.Println("seccomp", f[1])
		}
	}
	h, _ := os.ReadFile("/etc/hosts")
	if strings.Contains(string(h), "localhost") {
		fmt.Println("hosts ok")
	}
	fmt.Println("sysro", os.WriteFile("/proc/sys/kernel/domainname", []byte("x"), 0) != nil)
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		fmt.Println("interfaces", i.Name)
	}
}
