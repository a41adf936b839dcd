// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package slim

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

// treeOf makes a tree: "-> x" is a symbolic link, a name that ends in / a directory,
// all else a file's content.
func treeOf(files map[string]string) Tree {
	t := Tree{Entries: map[string]Entry{}}
	for name, c := range files {
		for d := name; strings.Contains(d, "/"); {
			d = d[:strings.LastIndexByte(d, '/')]
			if _, ok := files[d]; !ok {
				t.Entries[d] = Entry{Kind: Directory}
			}
		}
		if to, ok := strings.CutPrefix(c, "-> "); ok {
			t.Entries[name] = Entry{Kind: Symlink, Target: to}
		} else if !strings.HasSuffix(name, "/") {
			t.Entries[name] = Entry{Kind: Regular, Size: int64(len(c))}
		}
	}
	t.Open = func(name string) (File, error) {
		c, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return content{bytes.NewReader([]byte(c))}, nil
	}
	return t
}

func dropped(p Plan) (names []string) {
	for _, d := range p.Dropped {
		names = append(names, d.Path)
	}
	return names
}

func plan(t *testing.T, tree Tree, o Options) Plan {
	t.Helper()
	p, err := Make(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(p.Kept, p.Dropped...) {
		if d.Why == "" || tree.Entries[d.Path].Kind == Directory {
			t.Errorf("%+v", d)
		}
	}
	return p
}

func TestRules(t *testing.T) {
	tree := treeOf(map[string]string{
		"usr/share/doc/x/README": "r", "usr/share/doc/x/copyright": "c", "usr/share/man/man1/x.1": "m", "usr/lib/libx.a": "a",
		"usr/lib/libx.so": "s", "var/lib/dpkg/status": "d", "usr/share/man/link": "-> man1/x.1", "a.pyc": "p", "var/log/empty": "",
		"srv/usr/share/doc/mine": "m",
	})
	if got := dropped(plan(t, tree, Options{Level: Lossless})); got != nil {
		t.Errorf("lossless: %v", got)
	}
	want := []string{"a.pyc", "usr/lib/libx.a", "usr/share/doc/x/README", "usr/share/man/link", "usr/share/man/man1/x.1", "var/log/empty"}
	p := plan(t, tree, Options{Level: ByRules})
	if d := cmp.Diff(want, dropped(p)); d != "" {
		t.Error(d)
	}
	if !p.Drops("a.pyc") || p.Drops("usr/lib/libx.so") {
		t.Error("Drops")
	}
	want = []string{"usr/share/man/link", "usr/share/man/man1/x.1"}
	if d := cmp.Diff(want, dropped(plan(t, tree, Options{Level: ByRules, Rules: []string{"man", "docs"}, Keep: []string{"/usr/share/doc"}}))); d != "" {
		t.Error(d)
	}
	for _, o := range []Options{{Level: "most"}, {Level: ByRules, Rules: []string{"everything"}}, {Level: ByRules, Keep: []string{"["}},
		{Level: Lossless, Keep: []string{"x"}}} {
		if _, err := Make(tree, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// TestTraced: what was opened, what follows from it, what the configuration names.
func TestTraced(t *testing.T) {
	files := map[string]string{
		"bin": "-> usr/bin", "lib": "-> usr/lib",
		"usr/bin/app": "#!/usr/bin/env -S A=1 run\n", "usr/bin/env": "e", "usr/bin/run": "r", "usr/bin/spare": "s", "usr/bin/sh": "-> dash", "usr/bin/dash": "d",
		"usr/lib/data/a": "a", "usr/lib/data/b": "b", "opt/plugins/one.so": "1", "opt/plugins/two.so": "2",
		"etc/conf": "c", "etc/init.d/x": "#!/bin/sh\n", "etc/alternatives/s": "-> /usr/bin/spare", "etc/localtime": "-> ../usr/share/zoneinfo/B", "usr/share/zoneinfo/B": "b", "usr/share/zoneinfo/C": "c",
		"var/flag": "", "loop": "-> loop", "dangling": "-> /nowhere", "srv/www/index": "i", "var/lib/dpkg/status": "s",
		"usr/bin/tospare": "-> spare",
	}
	o := Options{Level: Traced, Keep: []string{"/opt/plugins/t*"}, Observed: []string{"/lib/data/a", "/gone (deleted)", "/proc/1/stat", "/", "/loop"},
		Config: ispec.ImageConfig{Entrypoint: []string{"app"}, Env: []string{"PATH=/sbin:/bin"}, Volumes: map[string]struct{}{"/srv/www": {}}}}
	p := plan(t, treeOf(files), o)
	want := []string{"etc/alternatives/s", "opt/plugins/one.so", "usr/bin/dash", "usr/bin/sh", "usr/bin/spare", "usr/bin/tospare", "usr/lib/data/b", "usr/share/zoneinfo/C"}
	if d := cmp.Diff(want, dropped(p)); d != "" {
		t.Error(d)
	}
}

// TestLinked: a real program brings its linker and libraries.
func TestLinked(t *testing.T) {
	const prog = "/bin/ls"
	f, err := elf.Open(prog)
	if err != nil {
		t.Skipf("no %s here: %v", prog, err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) == 0 {
		t.Skipf("%s is not linked dynamically: %v", prog, err)
	}
	b, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"usr/bin/ls": string(b), "lib": "-> usr/lib", "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n", "etc/ld.so.conf.d/a.conf": "# x\n/usr/lib/x86_64-linux-gnu\n/opt/lib\n",
		"usr/lib/x86_64-linux-gnu/libother.so": "o", "usr/lib/x86_64-linux-gnu/libnss_dns.so.2": "n", "usr/share/zoneinfo/UTC": "u", "usr/lib64/decoy.so": "d"}
	var want []string
	for i, l := range libs {
		at := "usr/lib/x86_64-linux-gnu/" + l
		if i == 0 && !strings.HasPrefix(l, "libc.") {
			at = "opt/lib/" + l
			files["usr/lib/x86_64-linux-gnu/"+l] = "-> " + "/" + at // both ways lead there
		}
		files[at] = string(b) // any ELF file
		want = append(want, at)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz-1)
			if _, err := p.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(string(b), "/")
			name = strings.Replace(name, "lib/", "usr/lib/", 1)
			files[name] = "linker"
			want = append(want, name)
		}
	}
	p := plan(t, treeOf(files), Options{Level: Traced, Config: ispec.ImageConfig{Cmd: []string{"/bin/ls"}}, Observed: []string{"/usr/bin/ls"}})
	kept := map[string]bool{}
	for _, d := range p.Kept {
		kept[d.Path] = true
	}
	if slices.Contains(libs, "libc.so.6") {
		want = append(want, "usr/lib/x86_64-linux-gnu/libnss_dns.so.2", "usr/share/zoneinfo/UTC")
	}
	for _, w := range want {
		if !kept[w] {
			t.Errorf("%s was dropped; kept: %v", w, slices.Sorted(maps.Keys(kept)))
		}
	}
	for _, no := range []string{"usr/lib/x86_64-linux-gnu/libother.so", "usr/lib64/decoy.so"} {
		if kept[no] {
			t.Errorf("%s was kept", no)
		}
	}
}

// FuzzNeeds: whatever is in a file of an image, it is looked at and no more.
func FuzzNeeds(f *testing.F) {
	f.Add([]byte("#!/bin/sh"))
	f.Add([]byte(elf.ELFMAG))
	if b, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Make(treeOf(map[string]string{"x": string(b), "etc/ld.so.conf": string(b)}), Options{Level: Traced, Observed: []string{"/x"}}); err != nil {
			t.Fatal(err)
		}
	})
}
