// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package bpfnext makes, for tests, what a later version of the eBPF sources might
// be: the same programs over state maps laid out otherwise. Keys and values have
// their fields in another order, flow entries have one more, a table is smaller,
// so that every offset in the programs differs.
package bpfnext

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Layout is the version of the state maps' layout.
const Layout = "next"

// edit replaces text in a file, exactly so many times.
type edit struct {
	file, old, new string
	times          int
}

var edits = []edit{
	{"state.h", `(\t__u16 port;[^\n]*\n)(\t__u16 zone;\n)`, "$2$1", 4},                             // keys of flows and fragments
	{"state.h", `dmac\[6\], smac\[6\];`, "smac[6], dmac[6];", 2},                                   // first line of flows
	{"flow.h", `dmac\[6\], smac\[6\];`, "smac[6], dmac[6];", 1},                                    //
	{"state.h", `(packets, bytes);(\n\t__u32) last_s, born_s;`, "$1, added;$2 born_s, last_s;", 2}, // second line
	{"flow.h", `(packets, bytes);(\n\t__u32) last_s, born_s;`, "$1, added;$2 born_s, last_s;", 1},  //
	{"flow.h", `_Static_assert\(sizeof\(struct gh_flow\d\) == \d+, "flow\d"\);\n`, "", 2},          //
	{"state.h", `(\t__be16 sport_be, dport_be;\n)(\t__u32 last_s;\n)`, "$2$1", 1},                  // fragments
	{"state.h", `(\t__u64 rx_packets, rx_bytes;\n)(\t__u64 tx_packets, tx_bytes;\n)`, "$2$1", 1},   // counters of ports
	{"state.h", `__u64 packets, bytes;(\n\t__u32 ev_s)`, "__u64 bytes, packets;$1", 1},             // counters of drops
	{"state.h", `(\t__u32 backend;[^\n]*\n)(\t__u32 last_s;\n)`, "\t__u64 added;\n$2$1", 1},        // affinity
	{"state.h", `(\t__u16 zone;\n)(\t__u16 kind;[^\n]*\n)`, "$2$1", 1},
	{"state.h", `__uint\(max_entries, 16384\);(\n\t__type\(key, struct gh_frag)`, "__uint(max_entries, 8192);$1", 2},
}

// Sources copies the eBPF sources from one directory to another and edits them.
func Sources(from, to string) error {
	found, err := filepath.Glob(filepath.Join(from, "*.[ch]"))
	if err != nil {
		return err
	}
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := string(b)
		for _, e := range edits {
			if e.file != filepath.Base(path) {
				continue
			}
			re := regexp.MustCompile(e.old)
			if n := len(re.FindAllString(text, -1)); n != e.times {
				return fmt.Errorf("%s has %q %d times, not %d: bpfnext must follow the sources", e.file, e.old, n, e.times)
			}
			text = re.ReplaceAllString(text, e.new)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Compile makes the object from the sources in dir, with the compiler and the
// flags of gen.go there. It returns the object's path.
func Compile(gen, dir string) (string, error) {
	b, err := os.ReadFile(gen)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`-cc (\S+) .*-cflags "([^"]*)"`).FindSubmatch(b)
	if m == nil {
		return "", fmt.Errorf("%s: no compiler and flags", gen)
	}
	out := filepath.Join(dir, "switch.o")
	args := append(strings.Fields(string(m[2])), "-target", "bpfel", "-c", "switch.c", "-o", out)
	cmd := exec.Command(string(m[1]), args...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile: %w\n%s", err, text)
	}
	return out, nil
}

// Build makes a gatehouse of the next version from the module in root: its
// programs, the Go types generated from them, and its Layout take the place of
// this version's, which stay as they are on the disk. dir is for what is made.
func Build(root, dir, out string) error {
	at := filepath.Join(root, "internal", "vswitch", "bpf")
	if err := Sources(at, dir); err != nil {
		return err
	}
	gen, err := os.ReadFile(filepath.Join(at, "gen.go"))
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`(?m)^//go:generate go (tool bpf2go .*-cflags) "([^"]*)" (.*) switch\.c$`).FindSubmatch(gen)
	if m == nil {
		return fmt.Errorf("%s: no go:generate line as expected", at)
	}
	args := append(strings.Fields(string(m[1])), string(m[2]))
	args = append(args, "-go-package", "bpf", "-output-dir", dir)
	args = append(append(args, strings.Fields(string(m[3]))...), filepath.Join(dir, "switch.c"))
	if err := run(root, "go", args...); err != nil {
		return err
	}
	layout, err := os.ReadFile(filepath.Join(at, "layout.go"))
	if err != nil {
		return err
	}
	const is = `const StateLayout = "`
	i := strings.Index(string(layout), is)
	if i < 0 {
		return fmt.Errorf("%s: no StateLayout", at)
	}
	rest := string(layout)[i+len(is):]
	layout = []byte(string(layout)[:i+len(is)] + Layout + rest[strings.Index(rest, `"`):])
	if err := os.WriteFile(filepath.Join(dir, "layout.go"), layout, 0o644); err != nil {
		return err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for _, name := range []string{"layout.go", "switch_bpfel.go", "switch_bpfel.o"} {
		overlay.Replace[filepath.Join(at, name)] = filepath.Join(dir, name)
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return err
	}
	return run(root, "go", "build", "-overlay", file, "-o", out, "./cmd/gatehouse")
}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, text)
	}
	return nil
}
