// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// valueSource is an image at hand as a value of the registry library.
type valueSource struct{ img v1.Image }

func (v valueSource) manifest(context.Context) ([]byte, string, error) {
	raw, err := v.img.RawManifest()
	if err != nil {
		return nil, "", err
	}
	mt, err := v.img.MediaType()
	return raw, string(mt), err
}

func (v valueSource) fetch(_ context.Context, d descriptor, w *blobWriter, _ report) error {
	h, err := v1.NewHash(d.Digest)
	if err != nil {
		return err
	}
	if cfg, err := v.img.ConfigName(); err == nil && cfg == h {
		raw, err := v.img.RawConfigFile()
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	}
	l, err := v.img.LayerByDigest(h)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.Copy(w, rc)
	return err
}
