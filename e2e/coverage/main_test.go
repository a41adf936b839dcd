// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPageIsTrue holds docs/coverage.md against the tests.
func TestPageIsTrue(t *testing.T) {
	want, err := page("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/coverage.md")
	if err != nil || string(got) != want {
		t.Errorf("docs/coverage.md is not what the tests say (%v); run make generate", err)
	}
}

func TestMarks(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("hcn/a.go", `package hcn
type NetworkType string
type LoadBalancerFlags uint32
const (
	NAT NetworkType = "Nat"
	LoadBalancerFlagsNone LoadBalancerFlags = 0
	LoadBalancerFlagsDSR LoadBalancerFlags = 1
)
var Other = "x"
`)
	write("x/a_test.go", "package x\n\n// TestA: a|b does. And more.\n//\n//covers:type Nat\nfunc TestA() {}\n")
	got, err := page(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"| `Nat` | [TestA](../x/a_test.go) | a\\|b does |\n", "| `DSR` | – |  |\n", "| `Encryption` | – | refused |\n"} {
		if !strings.Contains(got, row) {
			t.Errorf("no row %q in\n%s", row, got)
		}
	}
	if strings.Contains(got, "None") || strings.Contains(got, "Other") {
		t.Errorf("rows of what is nothing to cover:\n%s", got)
	}
	write("x/b_test.go", "package x\n\n// TestB does.\n//\n//covers:type Warp\nfunc TestB() {}\n")
	if _, err := page(root); err == nil || !strings.Contains(err.Error(), "no type Warp") {
		t.Errorf("an unknown name: %v", err)
	}
	write("x/b_test.go", "package x\n\n// helper does.\n//\n//covers:type Nat\nfunc helper() {}\n")
	if _, err := page(root); err == nil || !strings.Contains(err.Error(), "at a test") {
		t.Errorf("a mark elsewhere: %v", err)
	}
}
