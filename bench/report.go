// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report is what the bench found: sections in the order of their measurement.
// Markdown is printed as it comes, JSON at the end.
type report struct {
	out      io.Writer
	json     bool
	Host     string     `json:"host"`
	Sections []*section `json:"sections"`
}

// section is one title with its tables.
type section struct {
	Title   string    `json:"title"`
	Tables  []table   `json:"tables"`
	Notes   []string  `json:"notes,omitempty"`
	Samples []samples `json:"samples,omitempty"`
}

type table struct {
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// samples are all values of one column of one row; Noisy marks those taken while
// strangers used the CPUs.
type samples struct {
	Row    string    `json:"row"`
	Column string    `json:"column"`
	Values []float64 `json:"values"`
	Noisy  []bool    `json:"noisy,omitempty"`
}

func (r *report) title(format string, a ...any) {
	r.Sections = append(r.Sections, &section{Title: fmt.Sprintf(format, a...)})
	r.printf("\n## %s\n", r.last().Title)
}

func (r *report) last() *section { return r.Sections[len(r.Sections)-1] }

func (r *report) printf(format string, a ...any) {
	if !r.json {
		fmt.Fprintf(r.out, format, a...)
	}
}

// table adds a table whose cells are parted by " | ".
func (r *report) table(head string, rows ...string) {
	split := func(s string) []string { return strings.Split(s, " | ") }
	t := table{Columns: split(head)}
	for _, row := range rows {
		t.Rows = append(t.Rows, split(row))
	}
	r.last().Tables = append(r.last().Tables, t)
	r.printf("\n| %s |\n|%s\n", head, strings.Repeat(" --- |", len(t.Columns)))
	for _, row := range rows {
		r.printf("| %s |\n", row)
	}
}

func (r *report) note(format string, a ...any) {
	n := fmt.Sprintf(format, a...)
	r.last().Notes = append(r.last().Notes, n)
	r.printf("\n%s\n", n)
}

func (r *report) end() error {
	if !r.json {
		return nil
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// series is one contender's samples.
type series []float64

func (s series) q(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	c := slices.Clone(s)
	slices.Sort(c)
	return c[int(p*float64(len(c)-1))]
}

// median of an even number of samples is the mean of the middle two.
func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	c := slices.Clone(s)
	slices.Sort(c)
	return (c[(len(c)-1)/2] + c[len(c)/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
