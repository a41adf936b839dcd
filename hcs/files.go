// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"context"
	"fmt"
	"io"
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
