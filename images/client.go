// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
)

// DefaultSocket is where the daemon listens if nothing else is said.
const DefaultSocket = "/run/gatehouse/gatehouse.sock"

// Client speaks to /images/v1. The zero value works.
type Client struct {
	// Socket is the path of the daemon's socket. Empty = $GATEHOUSE_SOCKET, and if
	// that is empty too DefaultSocket.
	Socket string
	// Dial replaces the way to the socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// Transport replaces HTTP over the socket, and with it Socket and Dial.
	Transport http.RoundTripper
}

// PullOptions of Pull; the zero value takes the host's platform and stored
// credentials of the default AuthFile.
type PullOptions struct {
	// Platform is os/arch[/variant]; empty = linux and the daemon's architecture.
	Platform string
	// Registry as documented there. Without user name and token AuthFile is asked.
	Registry Registry
	// Auth is asked for credentials; nil = DefaultAuthFile.
	Auth *AuthFile
}

// PushOptions of Push, as PullOptions.
type PushOptions struct {
	Registry Registry
	Auth     *AuthFile
}

// Pull brings an image from its registry. progress may be nil; it is called from
// this goroutine.
func (c *Client) Pull(ctx context.Context, ref string, o PullOptions, progress func(Progress)) (Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Image{}, err
	}
	reg, err := withStored(o.Registry, o.Auth, r.Domain)
	if err != nil {
		return Image{}, err
	}
	imgs, err := c.stream(ctx, "/pull", jsonBody(PullRequest{Ref: ref, Platform: o.Platform, Registry: reg}), progress)
	if err != nil {
		return Image{}, err
	}
	if len(imgs) != 1 {
		return Image{}, fmt.Errorf("pull %s: the daemon answered %d images", ref, len(imgs))
	}
	return imgs[0], nil
}

// Push sends an image to the registry in its name.
func (c *Client) Push(ctx context.Context, ref string, o PushOptions, progress func(Progress)) error {
	r, err := ParseReference(ref)
	if err != nil {
		return err
	}
	reg, err := withStored(o.Registry, o.Auth, r.Domain)
	if err != nil {
		return err
	}
	_, err = c.stream(ctx, "/push", jsonBody(PushRequest{Ref: ref, Registry: reg}), progress)
	return err
}

func withStored(reg Registry, file *AuthFile, domain string) (Registry, error) {
	if reg.Username != "" || reg.IdentityToken != "" {
		return reg, nil
	}
	if file == nil {
		var err error
		if file, err = DefaultAuthFile(); err != nil {
			return reg, nil // no home, nothing stored
		}
	}
	cred, ok, err := file.Get(domain)
	if err != nil || !ok {
		return reg, err
	}
	reg.Username, reg.Password, reg.IdentityToken = cred.Username, cred.Password, cred.IdentityToken
	return reg, nil
}

// Load takes in every image of an archive: what `docker save` writes, or an OCI
// image layout in a tar, plain or compressed with gzip or zstd. It reads to the
// end of archive.
func (c *Client) Load(ctx context.Context, archive io.Reader, progress func(Progress)) ([]Image, error) {
	return c.stream(ctx, "/load", io.NopCloser(archive), progress)
}

// LoadPath is Load of a file, or of a directory that holds an OCI image layout.
func (c *Client) LoadPath(ctx context.Context, path string, progress func(Progress)) ([]Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if !st.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("load: %w", err)
		}
		defer f.Close()
		return c.Load(ctx, f, progress)
	}
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(tarDirectory(pw, path))
	}()
	imgs, err := c.Load(ctx, pr, progress)
	pr.Close()
	<-done
	return imgs, err
}

func tarDirectory(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := tw.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o644, Size: st.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(tw, f)
		return err
	})
	return errors.Join(err, tw.Close())
}

// Import makes an image of one layer of what a tar holds, plain or compressed with
// gzip or zstd. progress as for Pull.
func (c *Client) Import(ctx context.Context, req ImportRequest, archive io.Reader, progress func(Progress)) (Image, error) {
	imgs, err := c.stream(ctx, "/import?"+req.Values().Encode(), io.NopCloser(archive), progress)
	if err != nil {
		return Image{}, err
	}
	if len(imgs) != 1 {
		return Image{}, fmt.Errorf("import: the daemon answered %d images", len(imgs))
	}
	return imgs[0], nil
}

// Slim makes a smaller image of one that is here, which stays as it is. progress as
// for Pull.
func (c *Client) Slim(ctx context.Context, req SlimRequest, progress func(Progress)) (Image, SlimReport, error) {
	var rep SlimReport
	imgs, err := c.stream(ctx, "/slim", jsonBody(req), func(p Progress) {
		if p.Report != nil {
			rep = *p.Report
		} else if progress != nil {
			progress(p)
		}
	})
	if err != nil {
		return Image{}, rep, err
	}
	if len(imgs) != 1 {
		return Image{}, rep, fmt.Errorf("slim %s: the daemon answered %d images", req.Ref, len(imgs))
	}
	return imgs[0], rep, nil
}

// Formats of Save.
const (
	FormatDocker = "docker" // as `docker save`
	FormatOCI    = "oci"    // OCI image layout in a tar
)

// Save writes an archive of the named images. Empty format = FormatDocker.
func (c *Client) Save(ctx context.Context, refs []string, w io.Writer, format string) error {
	resp, err := c.do(ctx, http.MethodGet, "/save?"+url.Values{"ref": refs, "format": {format}}.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// List answers all images, newest first.
func (c *Client) List(ctx context.Context) ([]Image, error) {
	var out []Image
	return out, c.call(ctx, http.MethodGet, "/images", nil, &out)
}

// Inspect answers one image by name, digest or ID (or the start of it).
func (c *Client) Inspect(ctx context.Context, ref string) (Image, error) {
	var out Image
	return out, c.call(ctx, http.MethodGet, "/images/"+refPath(ref), nil, &out)
}

// Remove takes a name away, and with the last name the image. By ID the image
// goes with all its names if it has at most one or force is set. An image in use
// is removed only by force; what a running system holds of it stays until then.
func (c *Client) Remove(ctx context.Context, ref string, force bool) (Removed, error) {
	var out Removed
	return out, c.call(ctx, http.MethodDelete, "/images/"+refPath(ref)+"?force="+strconv.FormatBool(force), nil, &out)
}

// Tag gives an image one more name.
func (c *Client) Tag(ctx context.Context, source, target string) (Image, error) {
	var out Image
	return out, c.call(ctx, http.MethodPost, "/tag", TagRequest{Source: source, Target: target}, &out)
}

// Login asks the registry whether it takes these credentials, and stores them if
// so. nil auth = DefaultAuthFile.
func (c *Client) Login(ctx context.Context, server string, reg Registry, auth *AuthFile) error {
	if server == "" {
		server = DefaultDomain
	}
	if auth == nil {
		var err error
		if auth, err = DefaultAuthFile(); err != nil {
			return fmt.Errorf("login: %w", err)
		}
	}
	if err := c.call(ctx, http.MethodPost, "/login", LoginRequest{Server: server, Registry: reg}, nil); err != nil {
		return err
	}
	return auth.Set(server, Credentials{Username: reg.Username, Password: reg.Password, IdentityToken: reg.IdentityToken})
}

// Logout forgets the credentials of a registry; errdefs.ErrNotFound if there are
// none.
func (c *Client) Logout(server string, auth *AuthFile) error {
	if server == "" {
		server = DefaultDomain
	}
	if auth == nil {
		var err error
		if auth, err = DefaultAuthFile(); err != nil {
			return fmt.Errorf("logout: %w", err)
		}
	}
	return auth.Delete(server)
}

func refPath(ref string) string { return (&url.URL{Path: ref}).EscapedPath() }

func jsonBody(v any) io.ReadCloser {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // documents of this package always marshal
	}
	return io.NopCloser(bytes.NewReader(b))
}

func (c *Client) transport() http.RoundTripper {
	if c.Transport != nil {
		return c.Transport
	}
	dial := c.Dial
	if dial == nil {
		socket := c.Socket
		if socket == "" {
			socket = os.Getenv("GATEHOUSE_SOCKET")
		}
		if socket == "" {
			socket = DefaultSocket
		}
		dial = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}
	}
	return &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, // a verb a connection: nothing to close later
	}
}

// do sends a request and answers a response of class 2xx, or the error in it.
func (c *Client) do(ctx context.Context, method, path string, body io.ReadCloser) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse/images/v1"+path, nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Body, req.ContentLength = body, -1
	}
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("gatehouse is not reachable (is `gatehouse serve` running?): %w: %w", err, errdefs.ErrUnavailable)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := new(Error)
	if err := json.Unmarshal(b, e); err != nil || e.Text == "" {
		return nil, fmt.Errorf("%s %s: the daemon answered %s", method, path, resp.Status)
	}
	return nil, e
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.ReadCloser
	if in != nil {
		body = jsonBody(in)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

func (c *Client) stream(ctx context.Context, path string, body io.ReadCloser, progress func(Progress)) ([]Image, error) {
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 64<<20) // a line with many images, or every file of one, is long
	for sc.Scan() {
		if len(sc.Bytes()) == 0 {
			continue // keeps the connection warm
		}
		var p Progress
		if err := json.Unmarshal(sc.Bytes(), &p); err != nil {
			return nil, fmt.Errorf("POST %s: progress line: %w", path, err)
		}
		if p.Error != nil {
			return nil, p.Error
		}
		if progress != nil {
			progress(p)
		}
		if p.Status == StatusDone {
			return p.Images, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = sc.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("POST %s: the daemon's answer broke off: %w", path, err)
}
