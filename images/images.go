// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package images holds the documents of the image store (Image, Layer, Progress),
// names of images, stored credentials of registries, and the Client that speaks to
// /images/v1 of a running gatehouse.
//
// It moves documents and streams; what a name means and what may be removed is
// decided by the daemon.
//
// Be aware:
//   - an image's ID is the digest of its configuration, as with Docker. Two
//     manifests (gzip and zstd, say) of the same content are one image.
//   - Pull, Load and Push answer a stream: the verb has succeeded only if the
//     call returned no error, however much progress was reported before.
//   - credentials go with each request and are kept by the client's side alone
//     (AuthFile); the daemon neither stores nor logs them.
package images

import (
	"log/slog"
	"net/url"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image of the store.
type Image struct {
	ID string // digest of the configuration, sha256:…
	// Names are complete, docker.io/library/debian:bookworm; Familiar shortens
	// them. None: the image can be reached by ID or digest alone.
	Names []string `json:",omitempty"`
	// Digests are the names by content the image was pulled under,
	// docker.io/library/debian@sha256:…
	Digests      []string `json:",omitempty"`
	Digest       string   // of the manifest
	MediaType    string   // of the manifest
	Size         int64    // bytes of the unpacked image layers; shared ones count in each image
	Created      time.Time
	OS           string
	Architecture string
	Variant      string  `json:",omitempty"`
	Layers       []Layer // base first, as in the manifest
	// Config is what a container of this image starts with. In lists it is absent.
	Config *ispec.ImageConfig `json:",omitempty"`
	// UsedBy are the RuntimeIds of compute systems that hold the image.
	UsedBy []string `json:",omitempty"`
}

// Layer is one image layer.
type Layer struct {
	DiffID       string // digest of the uncompressed archive: what the layer is
	Digest       string // digest of the blob as pulled: how it came
	MediaType    string
	Size         int64 // bytes of the blob
	UnpackedSize int64 // bytes of the files
}

// Status words of a Progress line.
const (
	StatusResolving   = "resolving"   // asking the registry for the manifest
	StatusReading     = "reading"     // taking an archive in; Current bytes so far
	StatusDownloading = "downloading" // Current of Total bytes of the blob ID
	StatusRetrying    = "retrying"    // the download of ID broke and goes on; Message says why
	StatusUnpacking   = "unpacking"   // Current of Total bytes of the blob ID
	StatusPushing     = "pushing"     // Current of Total bytes of everything
	StatusExists      = "exists"      // ID was here already
	StatusComplete    = "complete"    // ID is done
	StatusDone        = "done"        // last line: the verb succeeded; Images has the result
	StatusError       = "error"       // last line: the verb failed; Error says why
)

// Progress is one line of the answer to Pull, Load and Push.
type Progress struct {
	ID      string `json:",omitempty"` // digest of a blob or manifest; empty: the whole
	Status  string
	Current int64       `json:",omitempty"` // bytes
	Total   int64       `json:",omitempty"` // bytes; 0 = not known
	Message string      `json:",omitempty"`
	Images  []Image     `json:",omitempty"`
	Report  *SlimReport `json:",omitempty"` // in the last line of a slim
	Error   *Error      `json:",omitempty"`
}

// Removed says what Remove did.
type Removed struct {
	Untagged []string `json:",omitempty"` // names that no longer are
	Deleted  []string `json:",omitempty"` // IDs of images that are gone
}

// Registry is how to reach a registry and as whom. It is sent with each request
// that needs it.
type Registry struct {
	Username string `json:",omitempty"`
	Password string `json:",omitempty"`
	// IdentityToken replaces the password where a registry gave one out.
	IdentityToken string `json:",omitempty"`
	// CA are certificates (PEM) trusted besides the system's.
	CA string `json:",omitempty"`
	// Insecure: do not verify the registry's certificate.
	Insecure bool `json:",omitempty"`
	// PlainHTTP: no TLS at all. A registry on a loopback address may answer in
	// plain HTTP without it.
	PlainHTTP bool `json:",omitempty"`
}

// LogValue keeps credentials out of every log.
func (r Registry) LogValue() slog.Value {
	return slog.GroupValue(slog.Bool("credentials", r.Username != "" || r.IdentityToken != ""),
		slog.Bool("insecure", r.Insecure), slog.Bool("plain-http", r.PlainHTTP))
}

// PullRequest is the body of POST /pull.
type PullRequest struct {
	Ref string
	// Platform is os/arch[/variant]; empty = linux and the host's architecture.
	Platform string   `json:",omitempty"`
	Registry Registry `json:",omitzero"`
}

// ImportRequest goes with the archive of POST /import, as query.
type ImportRequest struct {
	Name string // empty = the image has none, only its ID
	// Platform is os/arch[/variant]; empty = linux and the host's architecture.
	Platform string
	// Changes to the configuration in the words of a Dockerfile: CMD, ENTRYPOINT,
	// ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
	Changes []string
	Message string // for the history
	From    string // where the archive is from, for the history
}

// Values is the request as a query.
func (r ImportRequest) Values() url.Values {
	v := url.Values{"change": r.Changes}
	for k, s := range map[string]string{"name": r.Name, "platform": r.Platform, "message": r.Message, "from": r.From} {
		if s != "" {
			v.Set(k, s)
		}
	}
	return v
}

// ImportRequestOf reads what Values writes.
func ImportRequestOf(v url.Values) ImportRequest {
	return ImportRequest{Name: v.Get("name"), Platform: v.Get("platform"), Changes: v["change"], Message: v.Get("message"), From: v.Get("from")}
}

// Levels of SlimRequest, each with what the one before drops.
const (
	SlimLossless = "lossless" // nothing that can be seen
	SlimRules    = "rules"    // and what rules name: documentation, caches, …
	SlimTraced   = "traced"   // and what is not used, as far as trials saw
)

// SlimRequest is the body of POST /slim.
type SlimRequest struct {
	Ref   string
	Name  string   `json:",omitempty"` // of the result; empty = none, only its ID
	Level string   `json:",omitempty"` // empty = SlimLossless
	Rules []string `json:",omitempty"` // by name; empty = all
	// Keep are paths, with all below, and patterns as of path.Match, that stay.
	Keep []string `json:",omitempty"`
	// Observed are paths that containers of the image opened; for SlimTraced.
	Observed []string `json:",omitempty"`
}

// SlimReport says what came of it. Sizes are bytes: of the blobs, and of the files.
type SlimReport struct {
	From                          string // digest of the manifest that it was made of
	Level                         string
	BytesBefore, BytesAfter       int64
	UnpackedBefore, UnpackedAfter int64
	Kept                          []SlimFile // regular files
	Dropped                       []SlimFile // regular files and symbolic links
}

// SlimFile is one decision.
type SlimFile struct {
	Path string
	Size int64
	Why  string
}

// PushRequest is the body of POST /push.
type PushRequest struct {
	Ref      string
	Registry Registry `json:",omitzero"`
}

// TagRequest is the body of POST /tag: Target becomes a name of Source.
type TagRequest struct{ Source, Target string }

// LoginRequest is the body of POST /login: are these credentials accepted?
type LoginRequest struct {
	Server   string // host[:port]; empty = docker.io
	Registry Registry
}
