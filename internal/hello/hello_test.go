// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hello

import (
	"archive/tar"
	"errors"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestFromProgramIsDeterministic(t *testing.T) {
	a, err := FromProgram([]byte("program"), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := FromProgram([]byte("program"), "amd64")
	da, _ := a.Digest()
	if db, _ := b.Digest(); da != db {
		t.Errorf("two digests of the same program: %s %s", da, db)
	}
	if c, _ := FromProgram([]byte("other"), "amd64"); c != nil {
		if dc, _ := c.Digest(); dc == da {
			t.Error("another program has the same digest")
		}
	}
	r := tar.NewReader(mutate.Extract(a))
	modes := map[string]int64{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		modes[h.Name] = h.Mode
	}
	for name, mode := range map[string]int64{"hello": 0o755, "tmp": 0o1777, "etc/passwd": 0o644, "root": 0o700} {
		if modes[name] != mode && modes[name+"/"] != mode {
			t.Errorf("%s: mode %o, want %o (have %v)", name, modes[name], mode, modes)
		}
	}
	cfg, err := a.ConfigFile()
	if err != nil || cfg.Config.Entrypoint[0] != "/hello" || cfg.Config.Cmd[0] != "serve" || cfg.OS != "linux" {
		t.Errorf("config %+v, %v", cfg, err)
	}
}

func TestMissingProgramSaysWhatToDo(t *testing.T) {
	if _, err := Image("pdp11"); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("got %v, want ErrNotBuilt", err)
	}
}
