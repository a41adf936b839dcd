// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/guest/modules"
)

// wanted are the modules of each set: what the agent loads together. A name with
// a "?" may be missing: not every kernel has it.
func wanted() []modules.Set {
	return []modules.Set{
		{Name: modules.Channel, Modules: []string{"virtio_mmio", "virtio_console"}},
		{Name: modules.SCSI, Modules: []string{"sd_mod", "virtio_scsi"}},
		{Name: modules.EROFS, Modules: []string{"erofs"}},
		{Name: modules.Ext4, Modules: []string{"ext4"}},
		{Name: modules.Overlay, Modules: []string{"overlay"}},
		{Name: modules.Net, Modules: []string{"virtio_net"}},
		{Name: modules.VirtioFS, Modules: []string{"virtiofs"}},
		{Name: modules.RNG, Modules: []string{"virtio-rng"}},
		{Name: modules.Balloon, Modules: []string{"virtio_balloon"}},
		{Name: modules.Panic, Modules: []string{"pvpanic-mmio?"}},
	}
}

// tree is a lib/modules/<version>.
type tree struct {
	paths   map[string]string // name to file
	builtin map[string]bool
	read    map[string]module
}

type module struct {
	name    string
	content []byte // plain
	needs   []string
}

// canon is a module's name as the kernel has it: files and tables mix - and _.
func canon(name string) string { return strings.ReplaceAll(name, "-", "_") }

func base(path string) (string, bool) {
	name := filepath.Base(path)
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		if n, ok := strings.CutSuffix(name, ".ko"+ext); ok {
			return canon(n), true
		}
	}
	return "", false
}

func openTree(dir string) (*tree, error) {
	t := &tree{paths: map[string]string{}, builtin: map[string]bool{}, read: map[string]module{}}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n, ok := base(path); ok && d.Type().IsRegular() {
			t.paths[n] = path
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(raw)) {
		if n, ok := base(strings.TrimSpace(line)); ok {
			t.builtin[n] = true
		}
	}
	return t, nil
}

var errNoModule = errors.New("this kernel has no such module")

// module reads one and what it says it needs, so that no depmod is wanted.
func (t *tree) module(name string) (module, error) {
	if m, ok := t.read[name]; ok {
		return m, nil
	}
	path, ok := t.paths[name]
	if !ok {
		return module{}, fmt.Errorf("%s: %w", name, errNoModule)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return module{}, err
	}
	m := module{name: name}
	if m.content, err = decompress(raw); err != nil {
		return module{}, fmt.Errorf("%s: %w", path, err)
	}
	if m.needs, err = needs(m.content); err != nil {
		return module{}, fmt.Errorf("%s: %w", path, err)
	}
	m.content = unsigned(m.content)
	t.read[name] = m
	return m, nil
}

// unsigned takes away the signature that distributions append (struct
// module_signature, whose last member is its length, and a line). The initrd is
// ours as a whole; verifying it module by module is half of what the agent costs
// from its start to the handshake (32 against 16 million instructions).
func unsigned(b []byte) []byte {
	const mark, info = "~Module signature appended~\n", 12
	rest, ok := bytes.CutSuffix(b, []byte(mark))
	if !ok || len(rest) < info {
		return b
	}
	size := int64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	if at := int64(len(rest)) - info - size; at > 0 {
		return rest[:at]
	}
	return b
}

// needs reads "depends=a,b" and "softdep=pre: c post: d" of a module's .modinfo.
// What should come before is wanted if the kernel has it: marked with "?".
func needs(content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(string(info), "\x00") {
		if v, ok := strings.CutPrefix(line, "depends="); ok && v != "" {
			out = append(out, strings.Split(v, ",")...)
		}
		if v, ok := strings.CutPrefix(line, "softdep=pre:"); ok {
			v, _, _ = strings.Cut(v, "post:")
			for _, n := range strings.Fields(v) {
				out = append(out, n+"?")
			}
		}
	}
	return out, nil
}

// closure lists the modules of a set, each after what it needs.
func (t *tree) closure(names []string) ([]module, error) {
	var out []module
	var under []string
	var visit func(string) error
	visit = func(name string) error {
		name, optional := strings.CutSuffix(name, "?")
		name = canon(name)
		if t.builtin[name] || slices.ContainsFunc(out, func(m module) bool { return m.name == name }) {
			return nil
		}
		if slices.Contains(under, name) {
			return fmt.Errorf("%s needs itself", name)
		}
		m, err := t.module(name)
		if errors.Is(err, errNoModule) && optional {
			return nil
		}
		if err != nil {
			return err
		}
		under = append(under, name)
		for _, n := range m.needs {
			if err := visit(n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		under = under[:len(under)-1]
		out = append(out, m)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}
