// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command guest is what the tests of package worker run inside a silo.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	num := func(i int) int { n, _ := strconv.Atoi(os.Args[i]); return n }
	switch os.Args[1] {
	case "echo":
		for _, a := range os.Args[2:] {
			fmt.Println(a)
		}
	case "both":
		fmt.Fprintln(os.Stdout, "to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "exit":
		os.Exit(num(2))
	case "sleep":
		time.Sleep(time.Duration(num(2)) * time.Second)
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "sum":
		h := sha256.New()
		n, _ := io.Copy(h, os.Stdin)
		fmt.Printf("%d %x\n", n, h.Sum(nil))
	case "lines": // n lines, each numbered, with a pause of so many µs
		w := bufio.NewWriter(os.Stdout)
		for i := range num(2) {
			fmt.Fprintf(w, "line %d\n", i)
			if len(os.Args) > 3 {
				w.Flush()
				time.Sleep(time.Duration(num(3)) * time.Microsecond)
			}
		}
		w.Flush()
	case "flood": // n MiB of a pattern
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = byte(i*7 + i>>8)
		}
		for range num(2) {
			os.Stdout.Write(b)
		}
	case "trap": // ends with 7 on SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("term")
		os.Exit(7)
	case "segv":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV) // init of a namespace ignores it
		os.Exit(3)
	case "eat": // n MiB
		var keep [][]byte
		for range num(2) {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Println("ate", len(keep))
		time.Sleep(time.Minute)
	case "forks": // n children that sleep
		for i := range num(2) {
			if err := exec.Command("/guest", "sleep", "60").Start(); err != nil {
				fmt.Println("fork", i, err)
				os.Exit(9)
			}
		}
		fmt.Println("forked")
		time.Sleep(time.Minute)
	case "daemon": // leaves a child that holds stdout
		c := exec.Command("/guest", "sleep", "60")
		c.Stdout = os.Stdout
		_ = c.Start()
		fmt.Println("left")
	case "size":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		size()
		for range num(2) {
			<-c
			size()
		}
	case "env":
		for _, e := range os.Environ() {
			fmt.Println(e)
		}
	case "write":
		fmt.Println(os.WriteFile(os.Args[2], []byte("x"), 0o600))
	case "oom":
		b, err := os.ReadFile("/proc/self/oom_score_adj")
		fmt.Printf("%s %v\n", b, err)
	}
}

func size() {
	var w [4]uint16
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 1, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&w)))
	fmt.Println("size", w[0], w[1], e == 0)
}
