// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

func cat(args []string) error {
	names, err := parse(flags(), args, 0, -1)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, n := range names {
		f, err := os.Open(n)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func ls(args []string) error {
	fs := flags()
	long := fs.Bool("l", false, "")
	names, err := parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	for _, n := range names {
		if err := list(n, *long); err != nil {
			return err
		}
	}
	return nil
}

func list(name string, long bool) error {
	st, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		line(st, name, long)
		return nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		line(st, e.Name(), long)
	}
	return nil
}

func line(st os.FileInfo, name string, long bool) {
	if long {
		fmt.Printf("%s %12d %s\n", st.Mode(), st.Size(), name)
		return
	}
	fmt.Println(name)
}

func write(args []string) error {
	rest, err := parse(flags(), args, 2, 2)
	if err != nil {
		return err
	}
	return os.WriteFile(rest[0], []byte(rest[1]+"\n"), 0o644)
}

func rm(args []string) error {
	rest, err := parse(flags(), args, 1, -1)
	if err != nil {
		return err
	}
	for _, n := range rest {
		if err := os.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

func env(args []string) error {
	rest, err := parse(flags(), args, 0, 1)
	if err != nil {
		return err
	}
	if len(rest) == 1 {
		v, ok := os.LookupEnv(rest[0])
		if !ok {
			return exitError(1)
		}
		fmt.Println(v)
		return nil
	}
	all := os.Environ()
	sort.Strings(all)
	fmt.Println(strings.Join(all, "\n"))
	return nil
}

func echo(args []string) error {
	fs := flags()
	onErr := fs.Bool("2", false, "")
	rest, err := parse(fs, args, 0, -1)
	if err != nil {
		return err
	}
	w := os.Stdout
	if *onErr {
		w = os.Stderr
	}
	_, err = fmt.Fprintln(w, strings.Join(rest, " "))
	return err
}
