// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"gatehouse.dev/gatehouse/internal/guest/modules"
)

//go:embed all:bin
var bin embed.FS

// ErrNotBuilt: this binary does not hold the agent.
var ErrNotBuilt = errors.New("this gatehouse was built without the guest agent; run make")

// agent is the program cmd/guest, built before the binary that embeds it.
func agent(goarch string) ([]byte, error) {
	b, err := bin.ReadFile("bin/guest-" + goarch)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotBuilt
	}
	if err != nil {
		return nil, fmt.Errorf("guest agent for %s: %w", goarch, err)
	}
	return b, nil
}

// builder makes one image in dir.
type builder struct {
	Options
	dir   string
	image Image
	agent []byte
}

func (b *builder) say(what string) {
	if b.Progress != nil {
		b.Progress(what)
	}
}

func (b *builder) build(ctx context.Context) error {
	if err := b.Source.check(); err != nil {
		return err
	}
	goarch := b.Source.arch()
	a, err := archOf(goarch)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "gatehouse-uvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	f, err := b.Source.fetch(ctx, work, b.say)
	if err != nil {
		return err
	}
	b.image.Architecture, b.image.KernelVersion, b.image.Cmdline = goarch, f.version, a.cmdline
	b.image.AgentVersion = digest(b.agent)
	b.say("kernel " + f.version)
	if err := b.kernel(f.kernel); err != nil {
		return err
	}
	if err := b.initrd(f.modules); err != nil {
		return err
	}
	if goarch == runtime.GOARCH { // the tools are this host's
		b.say("tools")
		if err := b.tools(ctx, filepath.Join(work, "tools")); err != nil {
			return err
		}
	}
	if b.image.Digest, err = b.digest(); err != nil {
		return err
	}
	slices.Sort(b.image.Features)
	doc, err := json.MarshalIndent(b.image, "", "  ")
	if err != nil {
		return err
	}
	return write(filepath.Join(b.dir, "image.json"), append(doc, '\n'))
}

func (b *builder) kernel(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plain, err := plainKernel(raw, b.image.Architecture)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	b.image.Kernel = "vmlinux"
	return write(filepath.Join(b.dir, b.image.Kernel), plain)
}

// initrd holds the agent as /init, the modules, and the console that a kernel
// wants before there is a /dev. Not compressed: that would cost more at boot than
// the bytes.
func (b *builder) initrd(dir string) error {
	t, err := openTree(dir)
	if err != nil {
		return fmt.Errorf("modules: %w", err)
	}
	var sets []modules.Set
	contents := map[string][]byte{}
	for _, w := range wanted() {
		set := modules.Set{Name: w.Name}
		list, err := t.closure(w.Modules)
		if err != nil {
			return fmt.Errorf("modules for %s: %w", w.Name, err)
		}
		for _, m := range list {
			contents[m.name+".ko"] = m.content
			set.Modules = append(set.Modules, m.name+".ko")
		}
		sets = append(sets, set)
	}
	b.image.Features = append(b.image.Features, "erofs", "virtiofs", "overlay", "seccomp")
	b.image.Initrd = "initrd"
	out, err := os.Create(filepath.Join(b.dir, b.image.Initrd))
	if err != nil {
		return err
	}
	defer out.Close()
	w := bufio.NewWriterSize(out, 1<<20)
	c := cpio{w: w}
	c.dir("dev")
	c.char("dev/console", [2]uint32{5, 1})
	c.file("init", b.agent)
	root := modules.Dir[1:]
	c.dir(root)
	c.file(root+"/"+modules.Index, []byte(modules.Write(sets)))
	for _, name := range sorted(contents) {
		c.file(root+"/"+name, contents[name])
	}
	return errors.Join(c.end(), w.Flush(), out.Sync())
}

func sorted(m map[string][]byte) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (b *builder) tools(ctx context.Context, dir string) error {
	names := b.Tools
	if names == nil {
		names = DefaultTools()
	}
	have, err := tools(names, dir)
	if err != nil || len(have) == 0 {
		return err
	}
	b.image.Tools = "tools.erofs"
	if err := mkfs(ctx, dir, filepath.Join(b.dir, b.image.Tools)); err != nil {
		return err
	}
	if has(have, "crun") {
		b.image.Features = append(b.image.Features, "crun")
	}
	return nil
}

func has(list []string, s string) bool { return slices.Contains(list, s) }

// digest of the files that make the machine.
func (b *builder) digest() (string, error) {
	h := sha256.New()
	for _, name := range []string{b.image.Kernel, b.image.Initrd, b.image.Tools} {
		if name == "" {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, name, digest(raw))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func write(path string, content []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
