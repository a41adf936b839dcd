// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// layers makes directories of files: "path" -> text, "path@" -> link target,
// "path!" -> whiteout, "path/" -> opaque directory.
func layers(t *testing.T, in ...map[string]string) stack {
	t.Helper()
	var st stack
	for _, files := range in {
		dir := t.TempDir()
		for name, text := range files {
			p := filepath.Join(dir, name[:len(name)-1])
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			switch name[len(name)-1] {
			case '@':
				err = os.Symlink(text, p)
			case '!':
				err = syscall.Mknod(p, syscall.S_IFCHR, 0)
			case '/':
				if err = os.MkdirAll(p, 0o755); err == nil {
					err = syscall.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0)
				}
			default:
				err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		st = append(st, dir)
	}
	return st
}

func TestStackReadsAsOverlayfsWould(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("requires root: it makes whiteouts")
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for name, c := range map[string]struct {
		st   stack
		want string // "" = not there
	}{
		"base":                  {layers(t, f("x", ""), f("etc/passwd", "base")), "base"},
		"top hides":             {layers(t, f("etc/passwd", "top"), f("etc/passwd", "base")), "top"},
		"whiteout":              {layers(t, f("etc/passwd!", ""), f("etc/passwd", "base")), ""},
		"whiteout of directory": {layers(t, f("etc!", ""), f("etc/passwd", "base")), ""},
		"opaque":                {layers(t, f("etc//", "", "etc/x", ""), f("etc/passwd", "base")), ""},
		"below opaque":          {layers(t, f("x", ""), f("etc//", "", "etc/passwd", "middle"), f("etc/passwd", "base")), "middle"},
		"file ends the merge":   {layers(t, f("etc/x", ""), f("etc", "a file"), f("etc/passwd", "base")), ""},
		"link":                  {layers(t, f("etc/passwd@", "../usr/p"), f("usr/p", "linked")), "linked"},
		"absolute link":         {layers(t, f("etc/passwd@", "/usr/p"), f("usr/p", "linked")), "linked"},
		"link of directory":     {layers(t, f("etc@", "/real"), f("real/passwd", "linked")), "linked"},
		"link out":              {layers(t, f("etc/passwd@", secret)), ""},
		"link far out":          {layers(t, f("etc/passwd@", "../../../../../../../.."+secret)), ""},
		"directory link out":    {layers(t, f("etc@", filepath.Dir(secret)), f("x", "")), ""},
		"loop":                  {layers(t, f("etc/passwd@", "passwd")), ""},
		"directory":             {layers(t, f("etc/passwd/x", "")), ""},
		"nothing":               {layers(t, f("x", "")), ""},
	} {
		got, err := c.st.read("etc/passwd")
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q %v", name, got, err)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadInRoot(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{os.Mkdir(filepath.Join(root, "etc"), 0o755), os.Symlink("/usr/p", filepath.Join(root, "etc/passwd")), os.Symlink("/etc/hostname", filepath.Join(root, "etc/out")),
		os.Mkdir(filepath.Join(root, "usr"), 0o755), os.WriteFile(filepath.Join(root, "usr/p"), []byte("inside"), 0o644), syscall.Mkfifo(filepath.Join(root, "etc/fifo"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b, err := readInRoot(root, "etc/passwd"); err != nil || string(b) != "inside" {
		t.Errorf("%q %v", b, err)
	}
	for _, name := range []string{"etc/out", "etc/fifo", "etc", "none"} {
		if b, err := readInRoot(root, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
}
