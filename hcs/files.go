// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"context"
	"fmt"
	"io"
	"iter"
)

// CommitOptions [X] of Commit; all may be absent.
type CommitOptions struct {
	// Name of the image, with or without a tag; empty = it has only its ID.
	Name    string `json:",omitempty"`
	Author  string `json:",omitempty"`
	Message string `json:",omitempty"`
	// Changes to the image's configuration in the words of a Dockerfile: CMD,
	// ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
	Changes []string `json:",omitempty"`
	// NoPause lets the system run on while its files are read.
	NoPause bool `json:",omitempty"`
}

// CommitResult [X] names what Commit made.
type CommitResult struct {
	Image string // ID
}

// Export writes the files of a system to w as a tar: its root file system as it
// sees it, without what is mounted there. The system runs, or has stopped and is kept.
func (c *Client) Export(ctx context.Context, id string, w io.Writer) error {
	resp, err := c.do(ctx, "GET", systemPath(id, "export"), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// Commit makes an image of the one the system was made of and a layer of what the
// system changed.
func (c *Client) Commit(ctx context.Context, id string, o CommitOptions) (CommitResult, error) {
	var out CommitResult
	return out, c.Call(ctx, "POST", systemPath(id, "commit"), o, &out)
}

// FileAccess [X] is a file of a system's root file system that was opened.
type FileAccess struct {
	Path string // absolute, in the system; " (deleted)" may follow
}

// Trace tells which files of its root file system a system opens, each once, until
// it has stopped or ctx ends. When it returns, the watch has begun: asked for
// before Start it misses nothing. Walk the sequence to its end.
func (c *Client) Trace(ctx context.Context, id string) (iter.Seq2[FileAccess, error], error) {
	resp, err := c.do(ctx, "GET", systemPath(id, "trace"), nil)
	if err != nil {
		return nil, err
	}
	return lines[FileAccess](ctx, resp.Body), nil
}
