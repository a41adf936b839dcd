// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/images"
)

// registry is Debian's docker-registry on a loopback port.
type registry struct {
	t    testing.TB
	addr string
	conf string
	ca   string
	cmd  *exec.Cmd
}

// gate:house, made by htpasswd -B.
const htpasswd = "gate:$2y$05$4jZF7UF8P9IDTI.M9vqpZO68M6d0OQO.3BM5Jd8G/PGlAXl6GvNwC\n"

func startRegistry(t testing.TB, secure bool) *registry {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("needs Debian's docker-registry package")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	r := &registry{t: t, addr: addr, conf: filepath.Join(dir, "config.yml")}
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), addr)
	if secure {
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		r.ca = makeCert(t, cert, key)
		pw := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(pw, []byte(htpasswd), 0o600); err != nil {
			t.Fatal(err)
		}
		conf += fmt.Sprintf("  tls: {certificate: %s, key: %s}\nauth: {htpasswd: {realm: test, path: %s}}\n", cert, key, pw)
	}
	if err := os.WriteFile(r.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *registry) start() {
	r.t.Helper()
	r.cmd = exec.Command("docker-registry", "serve", r.conf)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for end := time.Now().Add(15 * time.Second); ; {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("the registry does not listen: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *registry) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

func makeCert(t testing.TB, certFile, keyFile string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb}), 0o600); err != nil {
		t.Fatal(err)
	}
	return string(cert)
}

func randomFile(t testing.TB, name string, n int) entry {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return file(name, string(b))
}

// pushTest loads an image and pushes it to the registry under name.
func pushTest(t testing.TB, reg images.Registry, name string, img testImage) images.Image {
	t.Helper()
	s := testStore(t, Options{})
	mustLoad(t, s, img.layout(t, name))
	got, err := s.Push(context.Background(), images.PushRequest{Ref: name, Registry: reg}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPullFromSecureRegistry(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	r := startRegistry(t, true)
	auth := images.Registry{Username: "gate", Password: "house", CA: r.ca}
	name := r.addr + "/team/app:1"
	img := threeLayers(t)
	pushed := pushTest(t, auth, name, img)

	s := testStore(t, Options{})
	got, err := s.Pull(ctx, images.PullRequest{Ref: name, Registry: auth}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != pushed.ID || got.Digest != pushed.Digest || !slices.Equal(got.Names, []string{name}) ||
		!slices.Equal(got.Digests, []string{r.addr + "/team/app@" + pushed.Digest}) {
		t.Errorf("got %+v", got)
	}
	byDigest := r.addr + "/team/app@" + pushed.Digest
	if got, err := s.Pull(ctx, images.PullRequest{Ref: byDigest, Registry: images.Registry{Username: "gate", Password: "house", Insecure: true}}, nil); err != nil || got.ID != pushed.ID {
		t.Errorf("by digest: %v", err)
	}
	if got, err := s.Inspect(ctx, byDigest); err != nil || got.ID != pushed.ID {
		t.Errorf("inspect by digest: %v", err)
	}

	for _, c := range []struct {
		what string
		req  images.PullRequest
		code uint32
		text string
	}{
		{"no credentials", images.PullRequest{Ref: name, Registry: images.Registry{CA: r.ca}}, images.CodeAccessDenied, "needs a login to " + r.addr},
		{"wrong password", images.PullRequest{Ref: name, Registry: images.Registry{CA: r.ca, Username: "gate", Password: "no"}}, images.CodeAccessDenied, "not accepted"},
		{"unknown authority", images.PullRequest{Ref: name, Registry: images.Registry{Username: "gate", Password: "house"}}, images.CodeUnavailable, "--tls-ca FILE"},
		{"no such tag", images.PullRequest{Ref: r.addr + "/team/app:2", Registry: auth}, images.CodeNotFound, "MANIFEST_UNKNOWN"},
		{"bad CA", images.PullRequest{Ref: name, Registry: images.Registry{CA: "junk"}}, images.CodeInvalid, "Registry.CA"},
		{"bad name", images.PullRequest{Ref: "UPPER"}, images.CodeInvalid, "UPPER"},
		{"bad platform", images.PullRequest{Ref: name, Platform: "linux", Registry: auth}, images.CodeInvalid, "platform"},
	} {
		_, err := s.Pull(ctx, c.req, nil)
		if err == nil {
			t.Errorf("%s: was accepted", c.what)
			continue
		}
		wantError(t, err, c.code, c.text)
		if strings.Contains(err.Error(), "house") {
			t.Errorf("%s: the error tells the password: %v", c.what, err)
		}
	}
	if err := s.Login(ctx, images.LoginRequest{Server: r.addr, Registry: auth}); err != nil {
		t.Errorf("login: %v", err)
	}
	wrong := auth
	wrong.Password = "wrong"
	wantError(t, s.Login(ctx, images.LoginRequest{Server: r.addr, Registry: wrong}), images.CodeAccessDenied, "")
}

func TestPlainHTTPOnlyWhereMeant(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	r := startRegistry(t, false)
	name := r.addr + "/app"
	pushTest(t, images.Registry{}, name, threeLayers(t))
	s := testStore(t, Options{})
	if _, err := s.Pull(ctx, images.PullRequest{Ref: name}, nil); err != nil {
		t.Errorf("loopback: %v", err)
	}
	g := schemeGuard{RoundTripper: http.DefaultTransport}
	req, _ := http.NewRequest(http.MethodGet, "http://10.0.0.1:5000/v2/", nil)
	_, err := g.RoundTrip(req)
	wantError(t, err, images.CodeUnavailable, "plain HTTP")
}

// relay is a slow line to the registry. cut ends every connection on it.
type relay struct {
	l     net.Listener
	to    string
	bps   int64
	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
	sent  atomic.Int64
}

func newRelay(t testing.TB, to string, bps int64) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, to: to, bps: bps, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); r.cut(); wg.Wait() })
	return r
}

func (r *relay) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer up.Close()
	r.mu.Lock()
	r.conns[c] = true
	r.mu.Unlock()
	defer func() { r.mu.Lock(); delete(r.conns, c); r.mu.Unlock() }()
	go func() { _, _ = io.Copy(up, c); up.Close() }()
	buf := make([]byte, 16<<10)
	for {
		n, err := up.Read(buf)
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
			r.sent.Add(int64(n))
			time.Sleep(time.Duration(int64(n) * int64(time.Second) / r.bps))
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("no %s in 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The registry is killed in the middle of a layer and comes back: the download
// goes on from the byte it had.
func TestPullSurvivesRegistryKilled(t *testing.T) {
	needRoot(t)
	r := startRegistry(t, false)
	const size = 16 << 20
	img := makeImage(t, plainLayer(tarOf(t, randomFile(t, "big", size))))
	pushTest(t, images.Registry{}, r.addr+"/big", img)
	line := newRelay(t, r.addr, 16<<20)
	s := testStore(t, Options{})
	var retried atomic.Int64
	done := make(chan error, 1)
	go func() {
		_, err := s.Pull(context.Background(), images.PullRequest{Ref: line.l.Addr().String() + "/big"}, func(p images.Progress) {
			if p.Status == images.StatusRetrying {
				retried.Add(1)
			}
		})
		done <- err
	}()
	waitFor(t, "third of the layer", func() bool { return line.sent.Load() > size/3 })
	r.kill()
	line.cut()
	waitFor(t, "retry", func() bool { return retried.Load() > 0 })
	r.start()
	waitFor(t, "two thirds", func() bool { return line.sent.Load() > 2*size/3 })
	line.cut() // and once more, the line alone
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := line.sent.Load(); n > size+size/4 {
		t.Errorf("%d bytes crossed the line for a layer of %d: it was not resumed", n, size)
	}
}

func TestConcurrentPullsWorkOnce(t *testing.T) {
	needRoot(t)
	r := startRegistry(t, false)
	const size = 4 << 20
	pushTest(t, images.Registry{}, r.addr+"/big", makeImage(t, plainLayer(tarOf(t, randomFile(t, "big", size)))))
	line := newRelay(t, r.addr, 16<<20)
	s := testStore(t, Options{})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range 8 {
		wg.Go(func() {
			c := context.Background()
			if i == 0 { // the first gives up; that is not the others' trouble
				c = ctx
			}
			_, err := s.Pull(c, images.PullRequest{Ref: line.l.Addr().String() + "/big"}, nil)
			if (err != nil) != (i == 0) {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	waitFor(t, "first bytes", func() bool { return line.sent.Load() > size/4 })
	cancel()
	wg.Wait()
	if n := line.sent.Load(); n > size+size/2 {
		t.Errorf("%d bytes crossed the line for a layer of %d", n, size)
	}
}

func TestPullCancelledLeavesNothing(t *testing.T) {
	needRoot(t)
	r := startRegistry(t, false)
	const size = 4 << 20
	pushTest(t, images.Registry{}, r.addr+"/big", makeImage(t, plainLayer(tarOf(t, file("a", "1"))), plainLayer(tarOf(t, randomFile(t, "big", size)))))
	line := newRelay(t, r.addr, 4<<20)
	s := testStore(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, images.PullRequest{Ref: line.l.Addr().String() + "/big"}, nil)
		done <- err
	}()
	waitFor(t, "first bytes", func() bool { return line.sent.Load() > size/4 })
	cancel()
	wantError(t, <-done, images.CodeCancelled, "canceled")
	for _, d := range []string{s.blobs(), s.dirs.layers(), s.ingest()} {
		if n := names(t, d); len(n) != 0 {
			t.Errorf("%s holds %v", filepath.Base(d), n)
		}
	}
}

func TestPullGivesUp(t *testing.T) {
	needRoot(t)
	s := testStore(t, Options{RetryFor: 300 * time.Millisecond})
	_, err := s.Pull(context.Background(), images.PullRequest{Ref: "127.0.0.1:1/app"}, nil)
	wantError(t, err, images.CodeUnavailable, "connection refused")
}

// A registry that lies: another content under a digest, and less of it.
func TestPullWrongContent(t *testing.T) {
	needRoot(t)
	img := threeLayers(t)
	lie := digestBytes(img.layers[0].blob)
	for _, c := range []struct {
		what  string
		serve func(http.ResponseWriter, []byte)
		want  string
	}{
		{"other bytes", func(w http.ResponseWriter, b []byte) { _, _ = w.Write(bytes.Repeat([]byte{'x'}, len(b))) }, "content has digest"},
		{"more bytes", func(w http.ResponseWriter, b []byte) { _, _ = w.Write(append(bytes.Clone(b), 'x')) }, "more than the"},
		{"fewer bytes", func(w http.ResponseWriter, b []byte) { _, _ = w.Write(b[:len(b)-1]) }, "no progress"},
		{"server error", func(w http.ResponseWriter, b []byte) { w.WriteHeader(500) }, "no progress"},
		{"gone", func(w http.ResponseWriter, b []byte) { w.WriteHeader(404) }, "404"},
	} {
		t.Run(c.what, func(t *testing.T) {
			srv := fakeRegistry(t, img, func(w http.ResponseWriter, digest string, b []byte) {
				if digest == lie {
					c.serve(w, b)
					return
				}
				_, _ = w.Write(b)
			})
			s := testStore(t, Options{RetryFor: 300 * time.Millisecond})
			_, err := s.Pull(context.Background(), images.PullRequest{Ref: srv + "/app"}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			for _, d := range []string{s.blobs(), s.dirs.layers(), s.ingest()} {
				if n := names(t, d); len(n) != 0 {
					t.Errorf("%s holds %v", filepath.Base(d), n)
				}
			}
		})
	}
}

// fakeRegistry serves one image and does what a real registry will not do on
// demand.
func fakeRegistry(t testing.TB, img testImage, blob func(w http.ResponseWriter, digest string, b []byte)) string {
	t.Helper()
	blobs := map[string][]byte{digestBytes(img.config): img.config}
	for _, l := range img.layers {
		blobs[digestBytes(l.blob)] = l.blob
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch p := r.URL.Path; {
		case p == "/v2/":
		case strings.HasPrefix(p, "/v2/app/manifests/"):
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(img.manifest)
		case strings.HasPrefix(p, "/v2/app/blobs/") && blobs[filepath.Base(p)] != nil:
			blob(w, filepath.Base(p), blobs[filepath.Base(p)])
		default:
			w.WriteHeader(404)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

// TestHelperPull is the child of TestCrashMidPull.
func TestHelperPull(t *testing.T) {
	lib, ref := os.Getenv("IMAGE_TEST_LIB"), os.Getenv("IMAGE_TEST_REF")
	if lib == "" {
		t.Skip("a child of TestCrashMidPull")
	}
	s, db := openStore(t, lib, Options{})
	defer db.Close()
	_, err := s.Pull(context.Background(), images.PullRequest{Ref: ref}, nil)
	t.Logf("pull: %v", err)
}

func TestCrashMidPull(t *testing.T) {
	needRoot(t)
	r := startRegistry(t, false)
	const size = 8 << 20
	img := makeImage(t, gzLayer(t, tarOf(t, file("a", "1"), file("b", "2"))), plainLayer(tarOf(t, randomFile(t, "big", size))))
	pushTest(t, images.Registry{}, r.addr+"/big", img)
	for _, at := range []int64{size / 50, size / 2, size} {
		line := newRelay(t, r.addr, 16<<20)
		lib := t.TempDir()
		ref := line.l.Addr().String() + "/big"
		child := exec.Command(os.Args[0], "-test.run=^TestHelperPull$", "-test.v")
		child.Env = append(os.Environ(), "IMAGE_TEST_LIB="+lib, "IMAGE_TEST_REF="+ref)
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "bytes", func() bool { return line.sent.Load() > at })
		_ = child.Process.Kill()
		_ = child.Wait()
		s, db := openStore(t, lib, Options{}) // which recovers
		checkWhole(t, s)
		if n := names(t, s.dirs.layers()); len(n) != 0 && len(s.images) == 0 {
			t.Errorf("killed after %d bytes: layers %v", at, n)
		}
		if _, err := s.Pull(context.Background(), images.PullRequest{Ref: ref}, nil); err != nil {
			t.Errorf("pull after the crash: %v", err)
		}
		checkWhole(t, s)
		db.Close()
	}
}
