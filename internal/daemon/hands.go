// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/trace"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/image"
)

// imageHand is the image store as the compute service asks for it: the two do not
// import each other, so the wiring converts.
type imageHand struct{ *image.Store }

func (h imageHand) Use(ctx context.Context, runtimeID, ref string) (compute.Image, error) {
	u, err := h.Store.Use(ctx, runtimeID, ref)
	return compute.Image(u), err
}

func (h imageHand) Export(ctx context.Context, f compute.Files, w io.Writer) error {
	return h.Store.Export(ctx, image.Files(f), w)
}

func (h imageHand) Commit(ctx context.Context, f compute.Files, req compute.CommitRequest) (string, error) {
	img, err := h.Store.Commit(ctx, image.Files(f), image.CommitRequest(req))
	return img.ID, err
}

// traceHand watches files.
type traceHand struct{}

func (traceHand) Watch(path string) (compute.Watch, error) { return trace.Start(path) }

// workerHand makes and finds workers.
type workerHand struct{ *worker.Spawner }

func (workerHand) Adopt(ctx context.Context, dir string) (held.Client, error) {
	return worker.Adopt(ctx, dir)
}

func (workerHand) Journal(dir string) ([]held.JournalEntry, error) { return worker.ReadJournal(dir) }

// Sweep ends a worker that nobody wants, alive or dead.
func (workerHand) Sweep(ctx context.Context, dir string) error {
	if !worker.Dead(dir) {
		c, err := worker.Adopt(ctx, dir)
		if err == nil {
			err = errors.Join(c.KillAll(ctx), c.Close(ctx))
		}
		if err != nil && !errors.Is(err, worker.ErrGone) && !worker.Dead(dir) {
			return fmt.Errorf("end worker %s: %w", filepath.Base(dir), err)
		}
	}
	return worker.Destroy(ctx, dir)
}
