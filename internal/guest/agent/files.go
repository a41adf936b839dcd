// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// maxCopy bounds what CopyFile puts into the machine's memory.
const maxCopy = 64 << 20

// copyFile writes a file below FilesRoot, whole or not at all.
func (a *Agent) copyFile(q proto.CopyFileRequest) (any, error) {
	rel, err := filepath.Rel(proto.FilesRoot, filepath.Clean(q.Path))
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Path", Message: fmt.Sprintf("%q is not below %s", q.Path, proto.FilesRoot)}
	}
	a.mu.Lock()
	streams := a.streams
	a.mu.Unlock()
	st, err := streams.take(streamID{proto.StreamCopy, q.Key})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if err := os.MkdirAll(proto.FilesRoot, 0o755); err != nil {
		return nil, err
	}
	if err := pathrs.MkdirAll(proto.FilesRoot, filepath.Dir(rel), 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(proto.FilesRoot, ".copy-")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(st, maxCopy+1))
	if n > maxCopy {
		err = &hcs.Error{Code: hcs.CodeNoMemory, Message: fmt.Sprintf("%s is larger than %d MiB", q.Path, maxCopy>>20)}
	}
	err = errors.Join(err, f.Chown(int(q.Uid), int(q.Gid)), f.Chmod(os.FileMode(q.Mode&0o777)), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(proto.FilesRoot, rel))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return nil, err
}
