// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/images"
)

func hasClass(err error) bool {
	var e *images.Error
	return errors.As(err, &e)
}

// classify gives any error of a verb its code; op stands first in the text. An
// error that has a code keeps it.
func classify(op string, err error) *images.Error {
	code := uint32(images.CodeUnspecified)
	var (
		own  *images.Error
		reg  *transport.Error
		netE net.Error
		urlE *url.Error
		opE  *net.OpError
	)
	switch {
	case errors.As(err, &own):
		code = own.Code
	case errors.Is(err, context.Canceled):
		code = images.CodeCancelled
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = images.CodeDiskFull
	case errors.As(err, &reg):
		switch reg.StatusCode {
		case http.StatusNotFound:
			code = images.CodeNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			code = images.CodeAccessDenied
		default:
			code = images.CodeUnavailable
		}
	case errors.As(err, &urlE), errors.As(err, &opE), errors.As(err, &netE), errors.Is(err, context.DeadlineExceeded):
		code = images.CodeUnavailable
	case errors.Is(err, fs.ErrNotExist):
		code = images.CodeNotFound
	}
	return images.Errorf(code, "%s: %w", op, err)
}

// isCertificate reports whether the registry's certificate is what is wrong: it
// will be wrong again.
func isCertificate(err error) bool {
	var e *tls.CertificateVerificationError
	var r tls.RecordHeaderError
	return errors.As(err, &e) || errors.As(err, &r)
}
