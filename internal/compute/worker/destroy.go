// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/instance"
)

// RuntimeRoot is the OCI runtime's state directory of an instance.
func RuntimeRoot(i instance.Instance) string { return filepath.Join(i.Run, "runtime") }

// WorkerCgroup is where an instance's workers live, for Spawner.Cgroup.
func WorkerCgroup(i instance.Instance) string { return i.Cgroup + "/workers" }

// Destroy removes what a dead worker left: processes, cgroup, the runtime's
// state, and dir at last. A live worker is refused; an absent dir is no error.
// Read the journal first.
func Destroy(ctx context.Context, dir string) error {
	if !Dead(dir) {
		return errdefs.ErrFailedPrecondition.WithMessage("destroy worker " + dir + ": it is alive")
	}
	spec, err := readSpec(dir)
	if err != nil {
		// Without a spec no worker was ever ordered.
		spec = Spec{Dir: dir}
	}
	if err := destroy(ctx, spec); err != nil {
		return fmt.Errorf("destroy worker %s: %w", dir, err)
	}
	return nil
}

func destroy(ctx context.Context, spec Spec) error {
	if spec.RuntimeID != "" {
		if err := silo.Destroy(ctx, siloConfig(spec)); err != nil {
			return err
		}
	}
	return os.RemoveAll(spec.Dir)
}

// Holdings are everything on the host that carries an instance's name and belongs to
// compute systems.
type Holdings struct {
	Workers []OwnedWorker
	// Cgroups are paths below the hierarchies' roots, Processes how many are inside.
	Cgroups []OwnedCgroup
	// RuntimeState are directories of the OCI runtime.
	RuntimeState []string
}

// OwnedWorker is a worker's directory.
type OwnedWorker struct {
	RuntimeID, Dir string
	Alive          bool
}

// OwnedCgroup is one group.
type OwnedCgroup struct {
	Path      string
	RuntimeID string // the last part of Path
	Processes int
}

// Owned finds what an instance owns, without memory.
func Owned(i instance.Instance) (Holdings, error) {
	var o Holdings
	dirs, err := readDirs(filepath.Join(i.Run, "workers"))
	if err != nil {
		return o, fmt.Errorf("list workers: %w", err)
	}
	for _, d := range dirs {
		o.Workers = append(o.Workers, OwnedWorker{RuntimeID: filepath.Base(d), Dir: d, Alive: !Dead(d)})
	}
	if o.RuntimeState, err = readDirs(RuntimeRoot(i)); err != nil {
		return o, fmt.Errorf("list runtime state: %w", err)
	}
	on, err := silo.LoadCgroups()
	if err != nil {
		return o, err
	}
	seen := map[string]bool{}
	for _, d := range on.Dirs(i.Cgroup) {
		subs, err := readDirs(d)
		if err != nil {
			return o, fmt.Errorf("list cgroups: %w", err)
		}
		for _, s := range subs {
			seen[filepath.Base(s)] = true
		}
	}
	for name := range seen {
		p := filepath.Join(i.Cgroup, name)
		if p == WorkerCgroup(i) {
			continue
		}
		o.Cgroups = append(o.Cgroups, OwnedCgroup{Path: p, RuntimeID: name, Processes: len(silo.Cgroup{On: on, Path: p}.Processes())})
	}
	slices.SortFunc(o.Cgroups, func(a, b OwnedCgroup) int { return strings.Compare(a.Path, b.Path) })
	return o, nil
}

func readDirs(dir string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// Orphans are the names in o that no live worker stands behind: of cgroups and
// runtime state whose worker is gone, and dead workers.
func (o Holdings) Orphans() []string {
	alive := map[string]bool{}
	var out []string
	for _, w := range o.Workers {
		if w.Alive {
			alive[w.RuntimeID] = true
		} else {
			out = append(out, "worker "+w.Dir)
		}
	}
	for _, c := range o.Cgroups {
		if !alive[c.RuntimeID] {
			out = append(out, fmt.Sprintf("cgroup %s (%d processes)", c.Path, c.Processes))
		}
	}
	for _, d := range o.RuntimeState {
		if !alive[strings.TrimPrefix(filepath.Base(d), "gh-")] {
			out = append(out, "runtime state "+d)
		}
	}
	return out
}

// Sweep removes every orphan: Destroy for dead workers, and groups and state whose
// worker's directory is gone. With nothing left it removes the empty parents too.
// No verb may be under way.
func Sweep(ctx context.Context, i instance.Instance) error {
	o, err := Owned(i)
	if err != nil {
		return err
	}
	on, err := silo.LoadCgroups()
	if err != nil {
		return err
	}
	var errs []error
	alive := map[string]bool{}
	for _, w := range o.Workers {
		if w.Alive {
			alive[w.RuntimeID] = true
			continue
		}
		errs = append(errs, Destroy(ctx, w.Dir))
	}
	for _, c := range o.Cgroups {
		if alive[c.RuntimeID] {
			continue
		}
		g := silo.Cgroup{On: on, Path: c.Path}
		if err := g.Kill(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, g.Remove(ctx))
	}
	for _, d := range o.RuntimeState {
		if !alive[strings.TrimPrefix(filepath.Base(d), "gh-")] {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	if len(alive) == 0 {
		for _, p := range []string{WorkerCgroup(i), i.Cgroup} {
			silo.Cgroup{On: on, Path: p}.RemoveEmpty()
		}
		_ = os.Remove(filepath.Join(i.Run, "workers"))
		_ = os.Remove(RuntimeRoot(i))
	}
	return errors.Join(errs...)
}
