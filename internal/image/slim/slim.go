// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package slim decides which files of an image its containers do without. It is
// pure: it looks at a tree that it is given and answers a plan.
//
// Directories are never dropped, nor what is empty: it costs nothing, and some
// programs only ask whether it is there. Nothing is changed.
package slim

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Level is how far it goes.
type Level string

// Levels, each with what the one before does.
const (
	// Lossless drops nothing that can be seen: layers become one, so that what a
	// later layer removed or replaced is gone.
	Lossless Level = "lossless"
	// ByRules drops what Rules name.
	ByRules Level = "rules"
	// Traced keeps what containers were seen to open, what follows from it, and
	// what the image's configuration names.
	Traced Level = "traced"
)

// Kind of a file.
type Kind uint8

// Kinds.
const (
	Regular Kind = iota
	Directory
	Symlink
	Other
)

// Entry is one file. Paths have no leading slash; the root is not in the tree.
type Entry struct {
	Kind   Kind
	Size   int64
	Target string // of a symbolic link
}

// Tree is what an image shows.
type Tree struct {
	Entries map[string]Entry
	// Open reads a regular file.
	Open func(path string) (File, error)
}

// File is open.
type File interface {
	io.ReaderAt
	io.Closer
}

// Options of Make.
type Options struct {
	Level Level
	// Rules by name, of Rules; empty = all. At level ByRules and above.
	Rules []string
	// Keep are paths, with all below, and patterns as of path.Match.
	Keep []string
	// Observed are paths that containers opened.
	Observed []string
	Config   ispec.ImageConfig
}

// Decision on one file: why it is kept, or goes.
type Decision struct {
	Path string
	Size int64
	Why  string
}

// Plan is what to do.
type Plan struct {
	Kept    []Decision // regular files, by path
	Dropped []Decision // regular files and symbolic links, by path
}

// Drops says whether a path is left out.
func (p Plan) Drops(name string) bool {
	_, ok := slices.BinarySearchFunc(p.Dropped, name, func(d Decision, name string) int { return strings.Compare(d.Path, name) })
	return ok
}

// Make decides. It fails on options that are wrong and on a tree that cannot be read.
func Make(t Tree, o Options) (Plan, error) {
	var p Plan
	rules, err := chosen(o.Rules)
	if err != nil {
		return p, err
	}
	for _, k := range o.Keep {
		if _, err := path.Match(k, ""); err != nil {
			return p, fmt.Errorf("keep %q: %w", k, err)
		}
	}
	if o.Level == Lossless && len(o.Rules)+len(o.Keep)+len(o.Observed) > 0 {
		return p, fmt.Errorf("level %s drops nothing: rules and paths to keep belong to %s and %s", Lossless, ByRules, Traced)
	}
	k := &keeper{t: t, why: map[string]string{}}
	switch o.Level {
	case Lossless:
		rules = nil
	case ByRules:
		k.asked(o)
	case Traced:
		k.asked(o)
		if err := k.used(o); err != nil {
			return p, err
		}
	default:
		return p, fmt.Errorf("level %q: must be %s, %s or %s", o.Level, Lossless, ByRules, Traced)
	}
	names := make([]string, 0, len(t.Entries))
	for name := range t.Entries {
		names = append(names, name)
	}
	slices.Sort(names)
	drop := map[string]string{}
	for _, name := range names {
		e := t.Entries[name]
		if e.Kind != Regular || k.why[name] != "" {
			continue
		}
		if why := matching(rules, name); why != "" {
			drop[name] = why
		} else if o.Level == Traced && e.Size > 0 {
			drop[name] = "not used"
		}
	}
	for _, name := range names {
		e := t.Entries[name]
		switch e.Kind {
		case Symlink: // goes with what it leads to
			if real, _, ok := t.resolve(name); ok && k.why[name] == "" && drop[real] != "" {
				p.Dropped = append(p.Dropped, Decision{name, 0, "leads to " + real})
			}
		case Regular:
			if why, ok := drop[name]; ok {
				p.Dropped = append(p.Dropped, Decision{name, e.Size, why})
				continue
			}
			why := k.why[name]
			if why == "" {
				why = "no rule names it"
				if o.Level == Traced {
					why = "empty"
				}
			}
			p.Kept = append(p.Kept, Decision{name, e.Size, why})
		}
	}
	return p, nil
}

// resolve follows symbolic links in all of a path. links are those it went through.
func (t Tree) resolve(name string) (real string, links []string, ok bool) {
	todo := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at := ""
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		next := path.Join(at, part)
		e, there := t.Entries[next]
		if !there {
			return "", links, false
		}
		if e.Kind == Symlink {
			if hops++; hops > 40 { // MAXSYMLINKS, include/linux/namei.h
				return "", links, false
			}
			links = append(links, next)
			if strings.HasPrefix(e.Target, "/") {
				at = ""
			}
			todo = append(strings.Split(e.Target, "/"), todo...)
			continue
		}
		at = next
	}
	return at, links, true
}
