// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package resource has the words that a door and a service share about any
// collection of documents: a document with its version, a caller, a collection's
// verbs. It knows none of our nouns.
package resource

import (
	"context"
	"encoding/json"
	"net/url"
)

// Doc is one document as it goes on the wire.
type Doc struct {
	ID      string
	Version uint64 // becomes the ETag
	JSON    json.RawMessage
}

// Caller is who asks, by the socket's peer credentials.
type Caller struct {
	UID, GID uint32
	Groups   []uint32 `json:",omitempty"` // supplementary
	PID      int32
	// Admin callers (root, the socket's group) may speak for other owners.
	Admin bool
	// Door is the protocol that the caller came by; "" = inside the daemon.
	Door string `json:",omitempty"`
}

// Owner is the default owner of what the caller makes.
func (c Caller) Owner() string { return "uid:" + uitoa(c.UID) }

func uitoa(u uint32) string { b, _ := json.Marshal(u); return string(b) }

type callerKey struct{}

// WithCaller attaches c to ctx.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns the caller, or root for calls made inside the daemon.
func CallerFrom(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Admin: true}
}

// Collection is one kind of documents behind the API: the same verbs for every
// kind. Errors carry their HTTP status and record themselves (see Error).
type Collection interface {
	// List answers a query: url values "query", "filter", "name", "network",
	// "namespace", "detailed" as in the API.
	List(ctx context.Context, q url.Values) ([]Doc, error)
	Get(ctx context.Context, id string, q url.Values) (Doc, error)
	// Create reports created=false when an identical create was repeated.
	Create(ctx context.Context, body json.RawMessage) (doc Doc, created bool, err error)
	// Modify takes a modify request. match is the If-Match version, 0 = any.
	Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (Doc, error)
	Delete(ctx context.Context, id string, match uint64) error
}

// Error is what every service error that reaches a door implements, reachable
// with errors.As through any wrapping.
type Error interface {
	error
	HTTPStatus() int
	// Record is the JSON body that the error becomes.
	Record() any
}
