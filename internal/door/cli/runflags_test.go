// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite golden files")

func testCaller() caller {
	return caller{
		cpus:   4,
		lookup: func(k string) (string, bool) { return "/root", k == "HOME" },
		exists: func(p string) error {
			if strings.HasPrefix(p, "/srv") {
				return nil
			}
			return fs.ErrNotExist
		},
		open: os.Open,
	}
}

// parseRun turns words into what they ask for, as the command does.
func parseRun(line string) (wish, error) {
	var f runFlags
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	set.SetInterspersed(false)
	f.register(set)
	if err := set.Parse(strings.Fields(line)); err != nil {
		return wish{}, err
	}
	return f.document(testCaller(), set.Arg(0), set.Args()[1:])
}

// TestRunDocuments: each file of the archive is a command line and, below it, the
// document and endpoint that it becomes.
func TestRunDocuments(t *testing.T) {
	golden := filepath.Join("testdata", "run.txtar")
	a, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range a.Files {
		line, want, _ := strings.Cut(string(f.Data), "\n")
		w, err := parseRun(line)
		var got string
		if err != nil {
			got = "error: " + err.Error() + "\n"
		} else {
			b, err := json.MarshalIndent(struct {
				Document any
				Network  string         `json:",omitempty"`
				Endpoint map[string]any `json:",omitempty"`
			}{w.Doc, w.Network, w.Endpoint}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = string(b) + "\n"
		}
		if *update {
			a.Files[i].Data = []byte(line + "\n" + got)
		} else if got != want {
			t.Errorf("%s: %s\ngot:\n%s\nwant:\n%s", f.Name, line, got, want)
		}
	}
	if *update {
		if err := os.WriteFile(golden, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunRefusals(t *testing.T) {
	for line, want := range map[string]string{
		"-w tmp i":                             `-w "tmp": not an absolute path`,
		"-v /none:/x i":                        "source /none does not exist",
		"--memory lots i":                      `--memory "lots": not a size`,
		"--cpus 9 i":                           `this host has 4`,
		"--cap-add NOSUCH i":                   `capability "NOSUCH": unknown`,
		"--pids-limit -2 i":                    "must be positive",
		"-p 70000:80 i":                        `host port "70000"`,
		"-p x:y i":                             `"x:y"`,
		"--ip 10.0.0.300 i":                    `--ip "10.0.0.300"`,
		"--ip ::1 i":                           "not an address of that family",
		"--ip6 10.0.0.1 i":                     "not an address of that family",
		"--mac-address 01:00:5e:00:00:01 i":    "multicast",
		"--mac-address zz i":                   "write it as",
		"--dns me i":                           `--dns "me"`,
		"--network none -p 80 i":               "-p has no effect with --network none",
		"--network host --ip 10.0.0.1 i":       "--ip has no effect",
		"--network container:a --hostname x i": "--hostname cannot be set",
		"--network container: i":               "use 1 to 128",
		"--label =x i":                         "--label",
		"--label io.gatehouse.rm=1 i":          "the daemon's own",
		"--stop-signal NOPE i":                 "--stop-signal",
		"--stop-timeout -1 i":                  "must not be negative",
		"--isolation jail i":                   "none of process, hypervisor, library-os",
		"-e =x i":                              "-e",
		"--env-file /none i":                   "--env-file",
		"--isolation hypervisor -q i":          "unknown shorthand",
	} {
		if _, err := parseRun(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run %s: got %v, want %q", line, err, want)
		}
	}
}
