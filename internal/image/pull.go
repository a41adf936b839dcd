// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"gatehouse.dev/gatehouse/images"
)

// Pull brings an image from its registry. r may be nil; it is called from several
// goroutines and must not block.
func (s *Store) Pull(ctx context.Context, req images.PullRequest, r func(images.Progress)) (images.Image, error) {
	op := "pull " + req.Ref
	ref, err := images.ParseReference(req.Ref)
	if err != nil {
		return images.Image{}, classify("pull", err)
	}
	want, err := parsePlatform(req.Platform)
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	report(r).say(images.Progress{Status: images.StatusResolving, Message: ref.String()})
	repo, err := dialRepo(ctx, ref.Repository(), transport.PullScope, req.Registry)
	if err != nil {
		return images.Image{}, classify(op, hint(err, ref, req.Registry))
	}
	defer repo.close()
	src := &pullSource{repo: repo, ref: ref, want: want, asked: req.Platform != "", lim: s.lim, retryFor: s.o.RetryFor}
	img, err := s.add(ctx, src, ref, r)
	if err != nil {
		return images.Image{}, classify(op, hint(err, ref, req.Registry))
	}
	return img, nil
}

// hint says what to do about a refusal of the registry's.
func hint(err error, ref images.Reference, reg images.Registry) error {
	err = untrusted(err)
	var e *transport.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusUnauthorized && e.StatusCode != http.StatusForbidden {
		return err
	}
	if reg.Username == "" && reg.IdentityToken == "" {
		return fmt.Errorf("%w (the image is missing or needs a login to %s)", err, ref.Domain)
	}
	return fmt.Errorf("%w (the credentials for %s are not accepted for it)", err, ref.Domain)
}

// pullSource is an image in a registry.
type pullSource struct {
	repo     *remoteRepo
	ref      images.Reference
	want     v1.Platform
	asked    bool // for this platform by name
	lim      Limits
	retryFor time.Duration
}

// maxNesting of indexes in indexes: an image has one or two.
const maxNesting = 4

func (p *pullSource) manifest(ctx context.Context) ([]byte, string, error) {
	var ref name.Reference = p.repo.repo.Tag(p.ref.Tag)
	if p.ref.Digest != "" {
		ref = p.repo.repo.Digest(p.ref.Digest)
	}
	for range maxNesting {
		d, err := retryQuickly(ctx, func() (*remote.Descriptor, error) {
			return remote.Get(ref, remote.WithTransport(p.repo.transport), remote.WithContext(ctx))
		})
		if err != nil {
			return nil, "", err
		}
		m, err := parseManifest(d.Manifest, string(d.MediaType), p.lim)
		if err != nil {
			return nil, "", err
		}
		if !isIndex(m.MediaType) {
			return d.Manifest, m.MediaType, nil
		}
		next, err := choose(m, p.want)
		if err != nil {
			return nil, "", err
		}
		ref = p.repo.repo.Digest(next.Digest)
	}
	return nil, "", bad("index: more than %d indexes in each other", maxNesting)
}

// stallTimeout is how long a download may stand still before it counts as broken.
const stallTimeout = 60 * time.Second

// fetch downloads a blob; where the connection breaks it goes on from the byte it
// had, as long as there is progress within retryFor.
func (p *pullSource) fetch(ctx context.Context, d descriptor, w *blobWriter, r report) error {
	deadline := time.Now().Add(p.retryFor)
	wait := 200 * time.Millisecond
	for {
		before := w.size
		err := p.fetchOnce(ctx, d, w, r)
		if err == nil && w.size < d.Size {
			err = fmt.Errorf("broke off after %d of %d bytes: %w", w.size, d.Size, io.ErrUnexpectedEOF)
		}
		if err == nil || !isTemporary(err) || ctx.Err() != nil {
			return err
		}
		if w.size > before {
			deadline, wait = time.Now().Add(p.retryFor), 200*time.Millisecond
		}
		if time.Now().Add(wait).After(deadline) {
			return images.Errorf(images.CodeUnavailable, "no progress for %v: %w", p.retryFor, err)
		}
		r.say(images.Progress{ID: d.Digest, Status: images.StatusRetrying, Current: w.size, Total: d.Size, Message: err.Error()})
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (p *pullSource) fetchOnce(ctx context.Context, d descriptor, w *blobWriter, r report) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	// The transport puts the scheme right that the registry was found to speak.
	u := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", p.repo.repo.Scheme(), p.repo.repo.RegistryStr(), p.repo.repo.RepositoryStr(), d.Digest)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	if w.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", w.size))
	}
	resp, err := p.repo.client.Do(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		var from int64
		if n, _ := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); n != 1 || from != w.size {
			err = w.restart() // and ask for the whole next time
			return errors.Join(err, errOtherRange)
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && w.size > 0:
		return errors.Join(w.restart(), errOtherRange)
	default:
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			return err
		}
		if err := w.restart(); err != nil {
			return err
		}
	}
	in := &meteredReader{ctx: ctx, r: resp.Body, n: w.size}
	say := r.every(images.Progress{ID: d.Digest, Status: images.StatusDownloading, Total: d.Size})
	in.say = func(n int64) {
		stall.Reset(stallTimeout)
		if say != nil {
			say(n)
		}
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errBroken, causeOf(ctx, err))
		}
	}
}

var (
	errBroken     = errors.New("the connection broke")
	errStalled    = errors.New("the registry sent nothing for a minute")
	errOtherRange = errors.New("the registry answered another range than asked")
)

// causeOf is errStalled where that is why the request was cancelled.
func causeOf(ctx context.Context, err error) error {
	if c := context.Cause(ctx); errors.Is(c, errStalled) {
		return c
	}
	return err
}

// isTemporary reports whether asking again may help.
func isTemporary(err error) bool {
	var (
		reg  *transport.Error
		netE net.Error
	)
	switch {
	case errors.Is(err, errBroken): // whoever cancelled is asked about apart
		return true
	case hasClass(err), errors.Is(err, context.Canceled):
		return false
	case errors.Is(err, errStalled), errors.Is(err, errOtherRange), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	case errors.As(err, &reg):
		return reg.StatusCode >= 500 || reg.StatusCode == http.StatusTooManyRequests || reg.StatusCode == http.StatusRequestTimeout
	case errors.As(err, &netE):
		return !isCertificate(err)
	}
	return false
}

// retryQuickly is for the first words with a registry, where a person waits for
// the refusal: three tries in two seconds.
func retryQuickly[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	wait := 500 * time.Millisecond
	for i := 0; ; i++ {
		v, err := fn()
		if err == nil || i == 2 || !isTemporary(err) {
			return v, err
		}
		if err := sleep(ctx, wait); err != nil {
			return v, err
		}
		wait *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
