// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"slices"
	"strings"
)

// Hosts is the text of /etc/hosts.
func Hosts(hostname, id string, addrs []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"ff00::0\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	names := hostname
	if id != "" && !strings.EqualFold(id, hostname) {
		names += " " + id
	}
	for _, a := range addrs {
		a, _, _ = strings.Cut(a, "/")
		fmt.Fprintf(&b, "%s\t%s\n", a, names)
	}
	return b.String()
}

// Resolver is what /etc/resolv.conf says.
type Resolver struct {
	Servers, Search, Options []string
}

// WithSearch puts a comma-separated list before the search domains that are there.
func (r Resolver) WithSearch(list string) Resolver {
	var all []string
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s != "" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	for _, s := range r.Search {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	r.Search = all
	return r
}

// Text of resolv.conf. unqualified = names without a dot are asked as they are.
func (r Resolver) Text(unqualified bool) string {
	var b strings.Builder
	b.WriteString("# made by gatehouse\n")
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	options := slices.Clone(r.Options)
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) && len(r.Servers) > 0 {
		ndots := "ndots:1"
		if unqualified {
			ndots = "ndots:0"
		}
		options = append(options, ndots)
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}
