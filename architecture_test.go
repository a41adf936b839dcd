// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package gatehouse has no code of its own; its test holds ARCHITECTURE.md
// against the imports.
package gatehouse

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const module = "gatehouse.dev/gatehouse/"

// table reads the rows "| `package` | … | imports |" of ARCHITECTURE.md.
func table(t *testing.T) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\| [^|]+ \\| ([^|]+) \\|$")
	rows := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(string(raw), -1) {
		var may []string
		for w := range strings.SplitSeq(m[2], ",") {
			may = append(may, strings.TrimSpace(w))
		}
		rows[m[1]] = may
	}
	return rows
}

type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		var x *exec.ExitError
		if errors.As(err, &x) {
			t.Fatalf("go list: %v\n%s", err, x.Stderr)
		}
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(p.ImportPath, module); ok && len(p.GoFiles) > 0 {
			all[name] = p
		}
	}
}

// allowed reports whether a package may import another: the table says full names
// or names below internal/.
func allowed(may []string, name string) bool {
	for _, m := range may {
		if m == "everything" || m == name || "internal/"+m == name {
			return true
		}
	}
	return false
}

// helpers are packages that tests or tools own; they are not part of the house.
func outside(name string) bool {
	return strings.HasPrefix(name, "bench") || strings.HasPrefix(name, "e2e")
}

func TestArchitectureIsWhatTheDocumentSays(t *testing.T) {
	rows, pkgs := table(t), packages(t)
	for name := range rows {
		if _, ok := pkgs[name]; !ok {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", name)
		}
	}
	for name, p := range pkgs {
		if outside(name) {
			continue
		}
		may, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row in ARCHITECTURE.md", name)
			continue
		}
		for _, i := range p.Imports {
			if dep, ours := strings.CutPrefix(i, module); ours && !allowed(may, dep) &&
				!strings.HasPrefix(dep, name+"/internal/") {
				t.Errorf("%s imports %s; its row allows %v", name, dep, may)
			}
		}
	}
}

// Kernel calls live in few packages, and each library has its home.
func TestLibrariesStayHome(t *testing.T) {
	homes := map[string][]string{
		"github.com/vishvananda/netlink":                {"internal/compartment", "internal/nettest", "internal/vswitch/datapath", "internal/guest/nic", "internal/compute/mirror"},
		"github.com/cilium/ebpf":                        {"internal/vswitch/bpf", "internal/vswitch/bpf/bpfrun", "internal/vswitch/datapath"},
		"go.etcd.io/bbolt":                              {"internal/store"},
		"github.com/miekg/dns":                          {"internal/dns"},
		"github.com/google/go-containerregistry/pkg/v1": {"internal/image", "internal/hello"},
		"github.com/spf13/cobra":                        {"internal/door/cli"},
	}
	for name, p := range packages(t) {
		if outside(name) {
			continue
		}
		for _, i := range p.Imports {
			for lib, at := range homes {
				if (i == lib || strings.HasPrefix(i, lib+"/")) && !allowed(at, name) {
					t.Errorf("%s imports %s, whose home is %v", name, i, at)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for name, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", name)
		}
	}
}
