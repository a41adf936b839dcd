// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package slim

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Rule names files that a container hardly ever needs.
type Rule struct {
	Name, Why string
	// Below are directories of which everything goes, but what Except names.
	Below []string
	// Base are patterns of the last part of a path.
	Base   []string
	Except []string // patterns of the last part
}

// Rules are all there are. Package databases are kept: scanners need them.
var Rules = []Rule{
	{Name: "packages", Why: "downloaded packages and lists of what could be", Below: []string{
		"var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/cache/apk", "var/cache/yum", "var/cache/dnf", "var/cache/ldconfig",
		"root/.cache/pip", "root/.npm", "usr/local/share/.cache"}},
	{Name: "docs", Why: "documentation", Below: []string{"usr/share/doc", "usr/share/doc-base", "usr/share/info", "usr/share/gtk-doc", "usr/share/lintian", "usr/share/bug", "usr/local/share/doc"},
		Except: []string{"copyright", "LICENSE*", "COPYING*", "NOTICE*"}},
	{Name: "man", Why: "manual pages", Below: []string{"usr/share/man", "usr/local/share/man", "usr/local/man"}},
	{Name: "locales", Why: "translations", Below: []string{"usr/share/locale", "usr/share/i18n"}, Except: []string{"locale.alias"}},
	{Name: "pycache", Why: "Python writes it anew", Base: []string{"*.pyc", "*.pyo"}},
	{Name: "static", Why: "static libraries and headers are for building", Below: []string{"usr/include"}, Base: []string{"*.a", "*.la"}},
	{Name: "logs", Why: "what the build logged", Below: []string{"var/log"}},
}

func chosen(names []string) ([]Rule, error) {
	if len(names) == 0 {
		return Rules, nil
	}
	var out []Rule
	for _, n := range names {
		i := slices.IndexFunc(Rules, func(r Rule) bool { return r.Name == n })
		if i < 0 {
			var all []string
			for _, r := range Rules {
				all = append(all, r.Name)
			}
			return nil, fmt.Errorf("rule %q: there are %s", n, strings.Join(all, ", "))
		}
		out = append(out, Rules[i])
	}
	return out, nil
}

// matching answers why a file goes; empty = no rule names it.
func matching(rules []Rule, name string) string {
	for _, r := range rules {
		if r.matches(name) {
			return "rule " + r.Name + ": " + r.Why
		}
	}
	return ""
}

func (r Rule) matches(name string) bool {
	base := path.Base(name)
	if anyMatch(r.Except, base) {
		return false
	}
	return anyMatch(r.Base, base) || slices.ContainsFunc(r.Below, func(d string) bool { return strings.HasPrefix(name, d+"/") })
}

func anyMatch(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, s); return ok })
}
