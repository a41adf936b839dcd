// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"gatehouse.dev/gatehouse/images"
)

// remoteRepo is one repository of a registry, with the way there: TLS, plain HTTP
// only where allowed, credentials answered to the registry's challenge.
type remoteRepo struct {
	repo      name.Repository
	transport http.RoundTripper
	client    *http.Client
	base      *http.Transport
}

// dialRepo makes the first contact. scope is transport.PullScope or PushScope.
func dialRepo(ctx context.Context, repository, scope string, reg images.Registry) (*remoteRepo, error) {
	var opts []name.Option
	if reg.PlainHTTP {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(repository, opts...)
	if err != nil {
		return nil, images.Errorf(images.CodeInvalid, "%w", err)
	}
	base, err := baseTransport(reg)
	if err != nil {
		return nil, err
	}
	r := &remoteRepo{repo: repo, base: base}
	r.transport, err = retryQuickly(ctx, func() (http.RoundTripper, error) {
		return transport.NewWithContext(ctx, repo.Registry, authOf(reg),
			transport.NewUserAgent(schemeGuard{base, reg.PlainHTTP}, "gatehouse"), []string{repo.Scope(scope)})
	})
	if err != nil {
		base.CloseIdleConnections()
		return nil, err
	}
	r.client = &http.Client{Transport: r.transport}
	return r, nil
}

func (r *remoteRepo) close() { r.base.CloseIdleConnections() }

func authOf(reg images.Registry) authn.Authenticator {
	if reg.Username == "" && reg.IdentityToken == "" {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: reg.Username, Password: reg.Password, IdentityToken: reg.IdentityToken})
}

func baseTransport(reg images.Registry) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: reg.Insecure}, // the user's word, for one request
	}
	if reg.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(reg.CA)) {
			return nil, images.Errorf(images.CodeInvalid, "Registry.CA: holds no certificate in PEM form")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// schemeGuard refuses plain HTTP, which the registry client tries for private
// addresses and follows in redirects, unless asked for or on loopback: a
// password and an image must not cross a wire in the clear by accident.
type schemeGuard struct {
	http.RoundTripper
	allowed bool
}

func (g schemeGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !g.allowed && !isLoopback(req.URL.Hostname()) {
		return nil, images.Errorf(images.CodeUnavailable, "plain HTTP to %s is refused; ask for plain HTTP if that is meant", req.URL.Host)
	}
	return g.RoundTripper.RoundTrip(req)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// Login asks a registry whether it takes the credentials.
func (s *Store) Login(ctx context.Context, req images.LoginRequest) error {
	server := req.Server
	if server == "" {
		server = images.DefaultDomain
	}
	op := "login to " + server
	if req.Registry.Username == "" && req.Registry.IdentityToken == "" {
		return images.Errorf(images.CodeInvalid, "%s: a user name is needed", op)
	}
	var opts []name.Option
	if req.Registry.PlainHTTP {
		opts = append(opts, name.Insecure)
	}
	registry, err := name.NewRegistry(server, opts...)
	if err != nil {
		return images.Errorf(images.CodeInvalid, "%s: %w", op, err)
	}
	base, err := baseTransport(req.Registry)
	if err != nil {
		return classify(op, untrusted(err))
	}
	defer base.CloseIdleConnections()
	rt, err := transport.NewWithContext(ctx, registry, authOf(req.Registry),
		transport.NewUserAgent(schemeGuard{base, req.Registry.PlainHTTP}, "gatehouse"), nil)
	if err != nil {
		return classify(op, untrusted(err))
	}
	hreq, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s/v2/", registry.Scheme(), registry.RegistryStr()), nil)
	if err != nil {
		return classify(op, untrusted(err))
	}
	resp, err := (&http.Client{Transport: rt}).Do(hreq)
	if err != nil {
		return classify(op, untrusted(err))
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return classify(op, untrusted(err))
	}
	return nil
}
