// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"encoding/json"
	"io"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
)

// Images is what the service asks of the image store.
type Images interface {
	// Use resolves a reference and pins its image layers for the system id until
	// Release. Layers are directories, topmost first, ready for overlayfs.
	Use(ctx context.Context, systemRuntimeID, ref string) (Image, error)
	Release(ctx context.Context, systemRuntimeID string) error
	// Export writes a system's files to w as a tar, as the system sees them.
	Export(ctx context.Context, f Files, w io.Writer) error
	// Commit makes an image of what the system was made of and what it wrote; it
	// answers the image's ID.
	Commit(ctx context.Context, f Files, req CommitRequest) (id string, err error)
}

// Image is a resolved reference.
type Image struct {
	ID     string // config digest
	Name   string // as asked, normalised
	Layers []string
	Config ispec.ImageConfig
	OS     string
	Arch   string
}

// Networks is what the service asks of the host networking service.
type Networks interface {
	// Plug makes a namespace with the given id and one endpoint for each document
	// (ids set by the caller), attached in order; all or nothing. owner is the
	// compute system's RuntimeId: a namespace whose owner is gone is an orphan.
	Plug(ctx context.Context, owner, namespaceID string, endpoints []json.RawMessage) (Plugged, error)
	// Unplug removes the namespace and the endpoints made by Plug. Absent is no error.
	Unplug(ctx context.Context, namespaceID string) error
	// TakeOver tells that a library OS, which has read the addresses of a namespace,
	// speaks for its vNICs from now on, or no longer.
	TakeOver(ctx context.Context, namespaceID string, on bool) error
	// Look describes an existing namespace (Container.Networking.Namespace).
	Look(ctx context.Context, namespaceID string) (Plugged, error)
}

// Plugged says what a container needs to know of its network.
type Plugged struct {
	NamespaceID string
	NetNsPath   string
	Endpoints   []json.RawMessage // full HCN documents
	// Addrs of the first endpoint, Servers, Search and Options for resolv.conf.
	Addrs   []string
	Servers []string
	Search  []string
	Options []string
}

// Workers makes and finds the processes that hold compute systems. They outlive
// the daemon, so everything here must be right after a crash of either side.
type Workers interface {
	// Spawn writes spec.Dir/spec.json, starts the worker and returns when it
	// answers: the system is Created. An error leaves nothing.
	Spawn(ctx context.Context, spec held.Spec) (held.Client, error)
	// Adopt connects to the worker of a directory. held.ErrGone (by errors.Is):
	// it is dead; its journal can still be read and Sweep clears it away.
	Adopt(ctx context.Context, dir string) (held.Client, error)
	// Journal reads the journal of a dead worker from its directory.
	Journal(dir string) ([]held.JournalEntry, error)
	// Sweep ends whatever is left of a dead or unwanted worker: the processes in its
	// cgroup, the runtime's state, mounts, the worker itself, the directory. It
	// works from spec.json and dir alone and may be repeated.
	Sweep(ctx context.Context, dir string) error
}

// Tracer watches file systems.
type Tracer interface {
	// Watch tells of files that are opened on the file system that holds path, from
	// now on. See package trace.
	Watch(path string) (Watch, error)
}

// Watch tells of one file system until it is closed.
type Watch interface {
	// Next waits for files that were not opened before; what happened before ctx
	// ended is answered first.
	Next(ctx context.Context) ([]string, error)
	Close() error
}

// Machines is what the service asks about utility VMs. May be nil: there are none.
type Machines interface {
	// Base is what a machine is made of: the first of accelerators that works, and
	// the image of that name ("" = the default). An error has CodeHypervNotInstalled
	// when this host has none.
	Base(ctx context.Context, image string, accelerators []string) (MachineBase, error)
	// Layer returns the disk of an unpacked image layer, made at the first time.
	Layer(ctx context.Context, dir string) (string, error)
	// Scratch makes an empty writable disk at path.
	Scratch(ctx context.Context, path string) error
}

// MachineBase is program, kernel and accelerator of a machine.
type MachineBase struct {
	QEMU        string
	Accelerator string
	Image       model.VMImage
	// TSCKHz as in model.Facts.
	TSCKHz uint64
}

// EndpointStats is what the service asks of the networking service for
// Statistics.Network. May be nil.
type EndpointStats interface {
	EndpointStats(ctx context.Context, endpointID string) (hcs.NetworkStats, error)
}
