// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pierrec/lz4/v4"
)

// put makes an image by hand.
func put(t *testing.T, c Catalogue, name, version string) {
	t.Helper()
	dir := filepath.Join(c.Dir, building+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(dir, "image.json"), []byte(`{"Name":"`+name+`","KernelVersion":"`+version+`","Kernel":"vmlinux"}`)); err != nil {
		t.Fatal(err)
	}
	if err := c.publish(dir, name); err != nil {
		t.Fatal(err)
	}
}

func TestCatalogue(t *testing.T) {
	c := Catalogue{filepath.Join(t.TempDir(), "uvm")}
	if all, err := c.List(); len(all) != 0 || err != nil {
		t.Errorf("an absent catalogue: %v, %v", all, err)
	}
	put(t, c, "b", "1")
	put(t, c, "a", "1")
	put(t, c, "b", "2") // in place of the first
	all, err := c.List()
	if err != nil || len(all) != 2 || all[0].Name != "a" || all[1].KernelVersion != "2" {
		t.Errorf("list: %+v, %v", all, err)
	}
	if all[1].KernelPath() != filepath.Join(c.Dir, "b/vmlinux") || all[1].ToolsPath() != "" {
		t.Errorf("paths %s %q", all[1].KernelPath(), all[1].ToolsPath())
	}
	// A build that died leaves nothing that is listed, and goes with the next change.
	half := filepath.Join(c.Dir, building+"c")
	if err := os.Mkdir(half, 0o755); err != nil {
		t.Fatal(err)
	}
	if all, _ := c.List(); len(all) != 2 {
		t.Errorf("half an image is listed: %+v", all)
	}
	if err := c.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Error("half an image stays")
	}
	if err := c.Remove("a"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := c.Get("a"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "gatehouse uvm build a") {
		t.Errorf("get: %v", err)
	}
	for _, name := range []string{"", "../x", ".x", "a/b", strings.Repeat("x", 65)} {
		if err := c.Remove(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestImageNamesFilesBesideIt(t *testing.T) {
	c := Catalogue{t.TempDir()}
	if err := os.Mkdir(filepath.Join(c.Dir, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "x/image.json"), []byte(`{"Kernel":"../../etc/passwd"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("x"); err == nil {
		t.Error("a kernel elsewhere is accepted")
	}
}

func TestOneChangeAtATime(t *testing.T) {
	c := Catalogue{t.TempDir()}
	unlock, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Remove("x"); !errdefs.IsUnavailable(err) {
		t.Errorf("beside another: %v", err)
	}
	unlock()
}

func TestSourceIsOne(t *testing.T) {
	for name, s := range map[string]Source{
		"two":        {Deb: "x", Host: true},
		"no modules": {Kernel: "x"},
		"foreign":    {Host: true, Architecture: "arm64x"},
		"unknown":    {Architecture: "pdp11"},
	} {
		if err := s.check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Source{}).check(); err != nil {
		t.Error(err)
	}
}

// bzImage wraps a payload as the x86 boot protocol does.
func bzImage(payload []byte) []byte {
	b := make([]byte, 3*512+16)
	b[0x1f1] = 2
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], 16)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, payload...), "trailer"...)
}

func TestKernelComesOutOfItsWrapping(t *testing.T) {
	plain := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel "), 1000)...)
	packed := map[string][]byte{"plain": plain}
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(plain)
	_ = w.Close()
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(plain))) // as the kernel's build adds it
	packed["lz4"] = append(bytes.Clone(b.Bytes()), size...)
	for name, args := range map[string][]string{"gzip": {"gzip", "-c"}, "xz": {"xz", "-c", "--x86", "--lzma2", "--check=crc32"}, "zstd": {"zstd", "-c"}} {
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = bytes.NewReader(plain)
		out, err := c.Output()
		if err != nil {
			t.Logf("%s is not tried: %v", name, err)
			continue
		}
		packed[name] = append(out, size...)
	}
	for name, p := range packed {
		got, err := plainKernel(bzImage(p), "amd64")
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(plain))
		}
	}
	if _, err := plainKernel(bzImage([]byte("nothing")), "amd64"); err == nil {
		t.Error("what is no kernel is accepted")
	}
	broken := bzImage(plain)
	binary.LittleEndian.PutUint32(broken[0x24c:], 1<<31)
	if _, err := plainKernel(broken, "amd64"); err == nil {
		t.Error("a payload beyond the file is accepted")
	}
	if _, err := plainKernel([]byte("MZ"), "arm64"); err == nil {
		t.Error("what is no Image is accepted")
	}
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	tr := &tree{builtin: map[string]bool{"core": true}, paths: map[string]string{}, read: map[string]module{
		"a": {name: "a", needs: []string{"b", "core", "none?"}}, "b": {name: "b", needs: []string{"c-d"}}, "c_d": {name: "c_d"},
		"x": {name: "x", needs: []string{"y"}}, "y": {name: "y", needs: []string{"x"}},
	}}
	list, err := tr.closure([]string{"a", "b", "absent?"})
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	if err != nil || !slices.Equal(names, []string{"c_d", "b", "a"}) {
		t.Errorf("order %v, %v", names, err)
	}
	if _, err := tr.closure([]string{"absent"}); !errors.Is(err, errNoModule) {
		t.Errorf("absent: %v", err)
	}
	if _, err := tr.closure([]string{"x"}); err == nil {
		t.Error("a circle has an order")
	}
}

func TestModulesLoseTheirSignature(t *testing.T) {
	signed := append([]byte("module"), "signature\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09~Module signature appended~\n"...)
	if got := unsigned(signed); string(got) != "module" {
		t.Errorf("%q", got)
	}
	for _, b := range [][]byte{nil, []byte("module"), []byte("~Module signature appended~\n"), signed[3:][len("mod"):]} {
		if got := unsigned(b); len(b) > 0 && len(got) == 0 {
			t.Errorf("%q becomes nothing", b)
		}
	}
}

func TestArchiveIsReadByCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	var b bytes.Buffer
	c := cpio{w: &b}
	c.dir("d")
	c.file("d/odd", []byte("12345"))
	c.file("init", []byte("x"))
	c.char("console", [2]uint32{5, 1})
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-itv", "--quiet")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"drwxr-xr-x", "5 Jan", "d/odd", "-rwxr-xr-x", "crw-------", "5,   1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio lacks %q:\n%s", want, out)
		}
	}
}
