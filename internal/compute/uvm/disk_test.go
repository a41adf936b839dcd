// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

// A copy has the content and takes no room for what is empty.
func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	_, e1 := f.WriteAt([]byte("begin"), 0)
	_, e2 := f.WriteAt(make([]byte, 8<<20), 16<<20) // zeroes that were written
	_, e3 := f.WriteAt([]byte("end"), size-3)
	if err := errors.Join(e1, e2, e3, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(to, from); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(from)
	b, _ := os.ReadFile(to)
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
	st, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	if n := st.Sys().(*syscall.Stat_t).Blocks * 512; n > 1<<20 {
		t.Errorf("the copy takes %d bytes", n)
	}
	if err := copySparse(to, from); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
}

// A file is made once, whoever asks, and is never there half made.
func TestDiskOnce(t *testing.T) {
	d := &Disks{Dir: t.TempDir()}
	to := filepath.Join(d.Dir, "x")
	var made atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := d.once(t.Context(), to, func(tmp string) error { made.Add(1); return os.WriteFile(tmp, []byte("whole"), 0o600) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("made %d times", n)
	}
	bad := filepath.Join(d.Dir, "y")
	if err := d.once(t.Context(), bad, func(tmp string) error { return errors.Join(os.WriteFile(tmp, nil, 0o600), errors.New("no")) }); err == nil {
		t.Error("an error is lost")
	}
	if l, _ := os.ReadDir(d.Dir); len(l) != 1 {
		t.Errorf("left: %v", l)
	}
}

func TestLayerDisk(t *testing.T) {
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		t.Skip("requires mkfs.erofs: erofs-utils is not installed")
	}
	d := &Disks{Layers: t.TempDir()}
	layer := filepath.Join(d.Layers, "aa", "fs")
	if err := os.MkdirAll(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(layer, "f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	disk, err := d.Layer(t.Context(), layer)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(b[1024:1028], []byte{0xe2, 0xe1, 0xf5, 0xe0}) {
		t.Errorf("%s is no EROFS: %v", disk, err)
	}
	if again, err := d.Layer(t.Context(), disk); again != disk || err != nil {
		t.Errorf("a layer that is a disk: %s, %v", again, err)
	}
	if _, err := d.Layer(t.Context(), t.TempDir()); hcs.CodeOf(err) != hcs.CodeInvalidLayer {
		t.Errorf("a directory of somebody else: %v", err)
	}
}
