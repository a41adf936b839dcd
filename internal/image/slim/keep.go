// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package slim

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// keeper collects files to keep and what they need in turn.
type keeper struct {
	t    Tree
	why  map[string]string // by real path; of links, too
	todo []string          // files whose needs were not looked at
	libs []string          // directories of libraries, found once
}

// keep keeps what a path leads to, and the links on the way.
func (k *keeper) keep(name, why string) bool {
	real, links, ok := k.t.resolve(name)
	if !ok {
		return false
	}
	for _, l := range links {
		k.mark(l, why)
	}
	k.mark(real, why)
	return true
}

func (k *keeper) mark(name, why string) {
	e, there := k.t.Entries[name] // the root is not
	if _, ok := k.why[name]; ok || !there {
		return
	}
	k.why[name] = why
	if e.Kind == Regular {
		k.todo = append(k.todo, name)
	}
}

// below keeps everything in a directory.
func (k *keeper) below(dir, why string) {
	real, _, ok := k.t.resolve(dir)
	if !ok || k.t.Entries[real].Kind != Directory {
		return
	}
	for name := range k.t.Entries {
		if strings.HasPrefix(name, real+"/") {
			k.keep(name, why)
		}
	}
}

// asked keeps what the caller and the image's configuration name.
func (k *keeper) asked(o Options) {
	for _, p := range o.Keep {
		p = strings.Trim(path.Clean("/"+p), "/")
		if k.keep(p, "asked for") {
			k.below(p, "asked for")
			continue
		}
		for name := range k.t.Entries {
			if ok, _ := path.Match(p, name); ok {
				k.keep(name, "asked for")
				k.below(name, "asked for")
			}
		}
	}
	c := o.Config
	for v := range c.Volumes {
		k.below(v, "a volume of the image")
	}
	for _, words := range [][]string{c.Entrypoint, c.Cmd} {
		for i, w := range words {
			if strings.HasPrefix(w, "/") {
				k.keep(w, "named in the image's configuration")
			} else if i == 0 {
				k.command(w, c.Env, "named in the image's configuration")
			}
		}
	}
}

// command keeps a program that is found as a shell would.
func (k *keeper) command(name string, env []string, why string) {
	if strings.Contains(name, "/") {
		k.keep(name, why)
		return
	}
	dirs := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = v
		}
	}
	for _, d := range strings.Split(dirs, ":") {
		if k.keep(path.Join(d, name), why) {
			return
		}
	}
}

// used keeps what was seen to be opened, what a system is lost without, and all
// that these need.
func (k *keeper) used(o Options) error {
	for _, p := range o.Observed {
		k.keep(strings.TrimSuffix(p, " (deleted)"), "was opened")
	}
	// Small, and read on ways that no trial goes: errors, other names, other zones.
	// What a script there would run is not needed for that, nor are all the programs
	// that alternatives lead to.
	for name := range k.t.Entries {
		if !strings.HasPrefix(name, "etc/") || strings.HasPrefix(name, "etc/alternatives/") {
			continue
		}
		real, links, ok := k.t.resolve(name)
		if !ok {
			continue
		}
		for _, n := range append(links, real) {
			if _, kept := k.why[n]; !kept {
				k.why[n] = "configuration"
			}
		}
	}
	for _, p := range []string{"usr/lib/os-release", "var/lib/dpkg/status", "lib/apk/db/installed", "usr/lib/apk/db/installed",
		"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"} {
		k.keep(p, "says what is installed")
	}
	k.below("var/lib/dpkg/status.d", "says what is installed")
	for len(k.todo) > 0 {
		name := k.todo[0]
		k.todo = k.todo[1:]
		if err := k.needs(name, o.Config.Env); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// needs keeps what a file cannot run without.
func (k *keeper) needs(name string, env []string) error {
	f, err := k.t.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		line, _, _ := bytes.Cut(head[2:], []byte("\n"))
		words := strings.Fields(string(line))
		for i, w := range words {
			if i == 0 || words[0] == "/usr/bin/env" && !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
				k.command(w, env, "runs /"+name)
			}
		}
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		k.binary(name, f, env)
	}
	return nil
}

// families are libraries that load others by name, when it comes to that, and read
// files then. Patterns stand for what is beside them.
var families = []struct {
	of     string
	beside []string
	files  []string
}{
	{"libc.so.6", []string{"libnss_*.so*", "libresolv.so*", "libgcc_s.so*"}, []string{"etc/ld.so.cache", "usr/share/zoneinfo/UTC", "usr/lib/locale/C.utf8"}},
	{"libcrypto.so*", []string{"engines-*", "ossl-modules"}, []string{"usr/lib/ssl", "usr/share/ca-certificates"}},
}

// binary keeps what a program or library is linked with. One that cannot be
// understood needs nothing.
func (k *keeper) binary(name string, r io.ReaderAt, env []string) {
	f, err := elf.NewFile(r)
	if err != nil {
		return
	}
	why := "linked with /" + name
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err == nil {
				k.keep(string(bytes.TrimRight(b, "\x00")), "loads /"+name)
			}
		}
	}
	dirs := k.paths(f, name, env)
	libs, _ := f.ImportedLibraries()
	for _, lib := range libs {
		if strings.Contains(lib, "/") {
			k.keep(lib, why)
			continue
		}
		for _, d := range dirs {
			if k.keep(path.Join(d, lib), why) {
				break
			}
		}
	}
	for _, fam := range families {
		if ok, _ := path.Match(fam.of, path.Base(name)); !ok {
			continue
		}
		why := "may be loaded by /" + name
		for other := range k.t.Entries {
			if path.Dir(other) == path.Dir(name) && anyMatch(fam.beside, path.Base(other)) {
				k.keep(other, why)
				k.below(other, why)
			}
		}
		for _, p := range fam.files {
			if k.keep(p, why) {
				k.below(p, why)
			}
		}
	}
}

// paths is where the dynamic linker looks, in its order (ld.so(8)).
func (k *keeper) paths(f *elf.File, name string, env []string) []string {
	var out []string
	add := func(list string) {
		for _, d := range strings.Split(list, ":") {
			if d != "" {
				d = strings.NewReplacer("$ORIGIN", "/"+path.Dir(name), "${ORIGIN}", "/"+path.Dir(name)).Replace(d)
				out = append(out, d)
			}
		}
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		v, _ := f.DynString(tag)
		for _, s := range v {
			add(s)
		}
	}
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "LD_LIBRARY_PATH="); ok {
			add(v)
		}
	}
	if k.libs == nil {
		k.libs = k.systemLibs()
	}
	return append(out, k.libs...)
}

// systemLibs are the directories of /etc/ld.so.conf and those every linker knows,
// with the multiarch ones below them.
func (k *keeper) systemLibs() []string {
	var out []string
	var read func(name string, depth int)
	read = func(name string, depth int) {
		real, _, ok := k.t.resolve(name)
		if !ok || k.t.Entries[real].Kind != Regular || depth > 4 {
			return
		}
		f, err := k.t.Open(real)
		if err != nil {
			return
		}
		defer f.Close()
		b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		for _, line := range strings.Split(string(b), "\n") {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			switch {
			case len(words) == 2 && words[0] == "include":
				var found []string
				for e := range k.t.Entries {
					if ok, _ := path.Match(strings.TrimPrefix(path.Clean(words[1]), "/"), e); ok {
						found = append(found, e)
					}
				}
				slices.Sort(found)
				for _, e := range found {
					read(e, depth+1)
				}
			case len(words) == 1 && strings.HasPrefix(line, "/"):
				out = append(out, words[0])
			}
		}
	}
	read("etc/ld.so.conf", 0)
	var arch []string
	for e := range k.t.Entries {
		d, base := path.Split(e)
		if (d == "lib/" || d == "usr/lib/") && strings.Contains(base, "-linux-") {
			arch = append(arch, e)
		}
	}
	slices.Sort(arch)
	out = append(out, arch...)
	return append(out, "lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib")
}
