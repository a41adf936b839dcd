// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"crypto/x509"
	"errors"
	"strings"
)

// untrustedError is a certificate that is not trusted, and what to do.
type untrustedError struct{ err error }

// untrusted marks an error that comes of a certificate; others stay as they are.
func untrusted(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	if errors.As(err, &unknown) || errors.As(err, &host) {
		return untrustedError{err}
	}
	return err
}

func (e untrustedError) Unwrap() error { return e.err }

// Error leaves out what crypto/x509 guesses and what a second try without TLS,
// made at loopback addresses, ran into.
func (e untrustedError) Error() string {
	s, _, _ := strings.Cut(e.err.Error(), " (possibly because of")
	s, _, _ = strings.Cut(s, "; GET http:")
	return s + " (to trust its maker use --tls-ca FILE)"
}
