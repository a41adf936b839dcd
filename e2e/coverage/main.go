// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Command coverage makes docs/coverage.md: which tests with packets stand behind
// each network type, each policy and each flag of load balancers. Tests say so
// themselves, in a line below their comment:
//
//	// TestRules: what rules of endpoints and networks do to packets.
//	//
//	//covers:endpoint ACL TierAcl
//	//covers:network NetworkACL SetPolicy
//	func TestRules(t *testing.T) {
//
// What there is to cover is read from the constants of package hcn, so that a new
// one is in the table, without a test, as soon as it is declared.
//
// usage: coverage ROOT >docs/coverage.md
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kind is one table: a word of the marks, and the types of package hcn whose
// constants are its rows.
type kind struct {
	word, title string
	types       []string
	more        []string // names that are not constants of package hcn
	// still says which names do nothing to packets here, and what becomes of them.
	still map[string]string
}

func kinds() []kind {
	const stored = "stored and given back; has no meaning on Linux"
	return []kind{
		{word: "type", title: "Network types", types: []string{"NetworkType"}},
		{word: "endpoint", title: "Policies of endpoints", types: []string{"EndpointPolicyType"},
			more:  []string{"VLAN", "InterfaceParameters", "Encryption", "FirewallPolicy"},
			still: map[string]string{"Iov": stored, "FirewallPolicy": stored, "Encryption": "refused"}},
		{word: "network", title: "Policies of networks", types: []string{"NetworkPolicyType"}, more: []string{"NeighborDiscovery"},
			still: map[string]string{"VSwitchExtension": stored, "AutomaticDNS": "stored; the resolvers ask the host's in any case"}},
		{word: "subnet", title: "Policies of subnets", types: []string{"SubnetPolicyType"}},
		{word: "lb", title: "Flags and distributions of load balancers",
			types: []string{"LoadBalancerFlags", "LoadBalancerPortMappingFlags", "LoadBalancerDistribution"}, more: []string{"VipExternalIP"}},
		{word: "service", title: "Types and policies of services", types: []string{"ServiceType", "TrafficPolicy"}, more: []string{"Headless", "SRV", "Affinity"}},
	}
}

// test is one marked test.
type test struct{ name, file, says string }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: coverage ROOT >docs/coverage.md")
		os.Exit(2)
	}
	page, err := page(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
	fmt.Print(page)
}

// page is docs/coverage.md of the tree at root.
func page(root string) (string, error) {
	marks, err := marksOf(root)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# What stands behind each type and policy\n\n" +
		"Made by `make generate` of the marks `//covers:` at the tests; see `e2e/coverage`. Each of these tests sends packets\n" +
		"between network namespaces: those of `e2e` from a document sent to the daemon to the packet, those of\n" +
		"`internal/vswitch/datapath` from the switch's own state on. A row without a test is not proved, or not built.\n")
	var errs []error
	for _, k := range kinds() {
		names, err := constants(filepath.Join(root, "hcn"), k.types)
		if err != nil {
			return "", err
		}
		names = append(names, k.more...)
		slices.Sort(names)
		names = slices.Compact(names)
		fmt.Fprintf(&b, "\n## %s\n\n| name | test | about |\n| --- | --- | --- |\n", k.title)
		for _, n := range names {
			tests := marks[k.word+" "+n]
			delete(marks, k.word+" "+n)
			slices.SortFunc(tests, func(x, y test) int { return strings.Compare(x.file+x.name, y.file+y.name) })
			for _, t := range tests {
				fmt.Fprintf(&b, "| `%s` | [%s](../%s) | %s |\n", n, t.name, t.file, t.says)
			}
			if len(tests) == 0 {
				about := k.still[n]
				fmt.Fprintf(&b, "| `%s` | – | %s |\n", n, about)
			}
		}
	}
	for mark, tests := range marks {
		for _, t := range tests {
			errs = append(errs, fmt.Errorf("%s: %s: there is no %s to cover", t.file, t.name, mark))
		}
	}
	return b.String(), errors.Join(errs...)
}

// constants are the values of the string constants, and the names of the others
// without their type's, of some types of a package.
func constants(dir string, types []string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST && g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				typ, ok := v.Type.(*ast.Ident)
				if !ok || !slices.Contains(types, typ.Name) {
					continue
				}
				for i, n := range v.Names {
					name := strings.TrimPrefix(n.Name, typ.Name)
					if i < len(v.Values) {
						if l, ok := v.Values[i].(*ast.BasicLit); ok && l.Kind == token.STRING {
							name = strings.Trim(l.Value, `"`)
						}
					}
					if name != "" && name != "None" {
						out = append(out, name)
					}
				}
			}
		}
	}
	return out, nil
}

// marksOf finds the marked tests below root, by "kind name".
func marksOf(root string) (map[string][]test, error) {
	marks := map[string][]test{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Doc == nil {
				continue
			}
			t := test{fn.Name.Name, file, says(fn)}
			for _, c := range fn.Doc.List {
				rest, ok := strings.CutPrefix(c.Text, "//covers:")
				if !ok {
					continue
				}
				w := strings.Fields(rest)
				if len(w) < 2 || !strings.HasPrefix(t.name, "Test") {
					return fmt.Errorf("%s: %s: want //covers:KIND NAME… at a test, not %q", file, t.name, c.Text)
				}
				for _, name := range w[1:] {
					marks[w[0]+" "+name] = append(marks[w[0]+" "+name], t)
				}
			}
		}
		return nil
	})
	return marks, err
}

// says is the first sentence of a test's comment, without its name.
func says(fn *ast.FuncDecl) string {
	s := new(doc.Package).Synopsis(fn.Doc.Text())
	s = strings.TrimLeft(strings.TrimPrefix(s, fn.Name.Name), ": ")
	return strings.ReplaceAll(strings.TrimSuffix(s, "."), "|", `\|`)
}
