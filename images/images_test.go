// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package images

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                         "docker.io/library/debian:latest",
		"debian:12":                      "docker.io/library/debian:12",
		"gatehouse/hello":                "docker.io/gatehouse/hello:latest",
		"docker.io/debian":               "docker.io/library/debian:latest",
		"index.docker.io/library/debian": "docker.io/library/debian:latest",
		"localhost/a":                    "localhost/a:latest",
		"localhost:5000/a/b:t":           "localhost:5000/a/b:t",
		"[::1]:5000/a":                   "[::1]:5000/a:latest",
		"ghcr.io/a/b@" + someDigest:      "ghcr.io/a/b@" + someDigest,
		"ghcr.io/a/b:1@" + someDigest:    "ghcr.io/a/b:1@" + someDigest,
		"a__b/c--d/e.f":                  "docker.io/a__b/c--d/e.f:latest",
		"x:" + strings.Repeat("t", 128):  "docker.io/library/x:" + strings.Repeat("t", 128),
		"registry.example:443/" + "a":    "registry.example:443/a:latest",
	} {
		r, err := ParseReference(in)
		if err != nil || r.String() != want {
			t.Errorf("%s: got %s, %v; want %s", in, r, err, want)
		}
	}
	for _, bad := range []string{"", ":", "/", "a/", "/a", "A", "a:", "a:-x", "a@sha256:1", "a@md5:" + strings.Repeat("0", 32), "a b",
		"../a", "a//b", "x:" + strings.Repeat("t", 129), "a_-b", "http://a/b", strings.Repeat("a", 300), "host:port/a", "a\x00b", "é"} {
		if r, err := ParseReference(bad); err == nil {
			t.Errorf("%q: accepted as %s", bad, r)
		} else if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: class of %v", bad, err)
		}
	}
}

func TestFamiliar(t *testing.T) {
	for in, want := range map[string]string{
		"docker.io/library/debian:12":      "debian:12",
		"docker.io/gatehouse/hello:latest": "gatehouse/hello:latest",
		"localhost:5000/a:1":               "localhost:5000/a:1",
		"not a name":                       "not a name",
	} {
		if got := Familiar(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if ShortID(someDigest) != "0123456789ab" || ShortID("ab") != "ab" {
		t.Error("ShortID")
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"debian", "a/b:c", "h:1/p@" + someDigest, "[::1]/a", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q -> %q -> %v, %v", s, r, again, err)
		}
		short, err := ParseReference(Familiar(r.String()))
		if err != nil || short != r {
			t.Errorf("%q: familiar %q -> %v, %v", s, Familiar(r.String()), short, err)
		}
	})
}

func TestAuthFile(t *testing.T) {
	f := &AuthFile{Path: filepath.Join(t.TempDir(), "sub", "auth.json")}
	if _, ok, err := f.Get("ghcr.io"); ok || err != nil {
		t.Fatalf("no file: %v %v", ok, err)
	}
	want := Credentials{Username: "u", Password: "p:with:colons"}
	for _, server := range []string{"ghcr.io", DefaultDomain} {
		if err := f.Set(server, want); err != nil {
			t.Fatal(err)
		}
	}
	for _, server := range []string{"ghcr.io", "https://ghcr.io/", DefaultDomain, "index.docker.io"} {
		if got, ok, err := f.Get(server); !ok || err != nil || got != want {
			t.Errorf("%s: %v %v %v", server, got, ok, err)
		}
	}
	st, err := os.Stat(f.Path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	// A file as Docker writes it, with more in it than we know.
	if err := os.WriteFile(f.Path, []byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"x":{"auth":"%%"}},"psFormat":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := f.Get(DefaultDomain); !ok || err != nil || got.Password != "p" {
		t.Errorf("docker's: %v %v %v", got, ok, err)
	}
	if _, _, err := f.Get("x"); err == nil || strings.Contains(err.Error(), "%%") {
		t.Errorf("damaged: %v", err)
	}
	if err := f.Delete(DefaultDomain); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(DefaultDomain); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	if b, _ := os.ReadFile(f.Path); !strings.Contains(string(b), "psFormat") {
		t.Errorf("lost what it did not know: %s", b)
	}
	if n, _ := os.ReadDir(filepath.Dir(f.Path)); len(n) != 1 {
		t.Errorf("%d files", len(n))
	}
}

func TestErrorCrossesTheWire(t *testing.T) {
	for _, code := range []uint32{CodeNotFound, CodeExists, CodeInvalid, CodeInvalidData, CodeInUse, CodeAccessDenied, CodeUnavailable,
		CodeDiskFull, CodeNotSupported, CodeCancelled, CodeUnspecified} {
		e := Errorf(code, "what %s", "happened")
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got := new(Error)
		if err := json.Unmarshal(b, got); err != nil || *got != *e {
			t.Errorf("%s: %v, %v", b, got, err)
		}
		if e.HTTPStatus() < 400 || errors.Unwrap(e) == nil {
			t.Errorf("%#x: status %d, class %v", code, e.HTTPStatus(), errors.Unwrap(e))
		}
	}
}

func TestClientSaysThatNobodyListens(t *testing.T) {
	c := &Client{Socket: filepath.Join(t.TempDir(), "none.sock")}
	_, err := c.List(context.Background())
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "gatehouse serve") || errors.As(err, new(*net.AddrError)) {
		t.Errorf("got %v", err)
	}
}
