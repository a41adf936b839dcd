// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
)

// table is a listing: columns after wide are shown with -o wide only.
type table struct {
	head []string
	wide int // how many of head are always shown; 0 = all
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer, wide bool) {
	n := len(t.head)
	if t.wide > 0 && !wide {
		n = t.wide
	}
	width := make([]int, n)
	all := append([][]string{t.head}, t.rows...)
	for _, r := range all {
		for i := range n {
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	for _, r := range all {
		var b strings.Builder
		for i := range n {
			b.WriteString(r[i])
			if i < n-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(r[i])+3))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// list shows a listing as -o asks: docs are what json prints, names what name does.
func (a *app) list(t *table, docs any, names []string) error {
	switch a.output {
	case "", "wide":
		t.write(a.out, a.output == "wide")
	case "name":
		for _, n := range names {
			fmt.Fprintln(a.out, n)
		}
	case "json":
		return a.json(docs)
	default:
		return &exit{2, fmt.Errorf("-o %q: none of json, wide, name", a.output)}
	}
	return nil
}

// json prints a document for people and programs alike.
func (a *app) json(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// ago is a duration as people say it.
func ago(d time.Duration) string { return strings.ToLower(units.HumanDuration(max(d, 0))) }

// iec is a size with powers of 1024, "1.5MiB".
func iec(n uint64) string { return units.BytesSize(float64(n)) }

// si is a size with powers of 1000, "1.5MB".
func si(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// short is the beginning of a GUID or digest, enough to tell by eye.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return strings.ToLower(id[:min(len(id), 12)])
}

func ellipsis(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
