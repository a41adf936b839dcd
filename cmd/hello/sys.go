// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func hostname(args []string) error {
	if _, err := parse(flags(), args, 0, 0); err != nil {
		return err
	}
	n, err := os.Hostname()
	fmt.Println(n)
	return err
}

// id prints what the kernel knows of us, for tests of users and privileges.
func id(args []string) error {
	if _, err := parse(flags(), args, 0, 0); err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Printf("uid=%d gid=%d groups=%s\n", os.Geteuid(), os.Getegid(), strings.Trim(fmt.Sprint(groups), "[]"))
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil // no /proc, no more to say
	}
	for _, l := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(l, ":\t"); ok && (strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Seccomp") {
			fmt.Printf("%s=%s\n", k, v)
		}
	}
	return nil
}

func seconds(s string) (time.Duration, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 {
		return 0, fmt.Errorf("%q: must be seconds", s)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// untilSignal waits; a process 1 without a handler would ignore the signal.
func untilSignal(d time.Duration) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	var after <-chan time.Time
	if d > 0 {
		after = time.After(d)
	}
	select {
	case <-after:
		return nil
	case s := <-stop:
		return exitError(128 + int(s.(syscall.Signal)))
	}
}

func sleep(args []string) error {
	fs := flags()
	say := fs.String("say", "", "")
	code := fs.Int("exit", 0, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if rest[0] == "inf" || rest[0] == "infinity" {
		return untilSignal(0)
	}
	d, err := seconds(rest[0])
	if err != nil {
		return err
	}
	if d > 0 {
		if err := untilSignal(d); err != nil {
			return err
		}
	}
	if *say != "" {
		fmt.Println(*say)
	}
	if *code != 0 {
		return exitError(*code)
	}
	return nil
}

func trap(args []string) error {
	if _, err := parse(flags(), args, 0, 0); err != nil {
		return err
	}
	got := make(chan os.Signal, 16)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT, syscall.SIGWINCH)
	fmt.Println("ready")
	for s := range got {
		fmt.Println(unix.SignalName(s.(syscall.Signal)))
		if s == syscall.SIGTERM {
			return nil
		}
	}
	return nil
}

func exit(args []string) error {
	rest, err := parse(flags(), args, 1, 1)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(rest[0])
	if err != nil || n < 0 || n > 255 {
		return fmt.Errorf("%q: must be 0 to 255", rest[0])
	}
	return exitError(n)
}

func lines(args []string) error {
	fs := flags()
	delay := fs.Float64("d", 0, "")
	onErr := fs.Bool("2", false, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(rest[0])
	if err != nil {
		return err
	}
	w := os.Stdout
	if *onErr {
		w = os.Stderr
	}
	for i := range n {
		if i > 0 && *delay > 0 {
			time.Sleep(time.Duration(*delay * float64(time.Second)))
		}
		if _, err := fmt.Fprintf(w, "line %d\n", i+1); err != nil {
			return err
		}
	}
	return nil
}

func memhog(args []string) error {
	rest, err := parse(flags(), args, 1, 1)
	if err != nil {
		return err
	}
	mb, err := strconv.Atoi(rest[0])
	if err != nil {
		return err
	}
	var keep [][]byte
	for i := range mb {
		b := make([]byte, 1<<20)
		for j := 0; j < len(b); j += 4096 {
			b[j] = 1
		}
		keep = append(keep, b)
		if (i+1)%16 == 0 || i+1 == mb {
			fmt.Printf("%d MB\n", i+1)
		}
	}
	err = untilSignal(0)
	runtime.KeepAlive(keep)
	return err
}

func spin(args []string) error {
	fs := flags()
	n := fs.Int("P", 1, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	d, err := seconds(rest[0])
	if err != nil {
		return err
	}
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range *n {
		wg.Go(func() {
			for time.Now().Before(end) {
			}
		})
	}
	wg.Wait()
	var t unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &t); err != nil {
		return err
	}
	fmt.Printf("cpu %.2f s\n", time.Duration(t.Utime.Nano()+t.Stime.Nano()).Seconds())
	return nil
}

// fork starts children until one is refused. They end with us.
func fork(args []string) error {
	rest, err := parse(flags(), args, 1, 1)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(rest[0])
	if err != nil {
		return err
	}
	var kids []*exec.Cmd
	var refused error
	for range n {
		c := exec.Command("/proc/self/exe", "sleep", "inf")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if refused = c.Start(); refused != nil {
			break
		}
		kids = append(kids, c)
	}
	fmt.Printf("%d children\n", len(kids))
	for _, c := range kids {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	if refused != nil {
		return fmt.Errorf("child %d: %w", len(kids)+1, refused)
	}
	return nil
}

func tty(args []string) error {
	if _, err := parse(flags(), args, 0, 0); err != nil {
		return err
	}
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		fmt.Println("not a terminal")
		return exitError(1)
	}
	if err != nil {
		return err
	}
	fmt.Printf("terminal %d rows %d columns\n", ws.Row, ws.Col)
	return nil
}
