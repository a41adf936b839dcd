// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/images"
)

// debian makes a root file system with nginx by debootstrap, from the mirror this
// machine uses, as a docker archive. It is kept between runs, since it takes a
// minute; GATEHOUSE_E2E_CACHE names another place.
func debian(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("GATEHOUSE_E2E_CACHE")
	if cache == "" {
		cache = filepath.Join(os.TempDir(), "gatehouse-e2e-cache")
	}
	tar := filepath.Join(cache, "debian-nginx-1.tar")
	if _, err := os.Stat(tar); err == nil {
		return tar
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(cache, "rootfs.")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("debootstrap", "--variant=minbase", "--include=nginx-light", "bookworm", dir, mirror(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	// Device nodes are refused in image layers; debootstrap's are made by the runtime.
	out, err = exec.Command("sh", "-c", "rm -rf "+dir+"/dev/* "+dir+"/var/cache/apt/archives/*.deb && tar -C "+dir+" --numeric-owner -cf "+tar+".new . && mv "+tar+".new "+tar).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return tar
}

// mirror is the first Debian mirror that apt is configured with.
func mirror(t *testing.T) string {
	t.Helper()
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	for _, f := range append(files, "/etc/apt/sources.list") {
		raw, _ := os.ReadFile(f)
		for _, w := range strings.Fields(string(raw)) {
			if strings.HasPrefix(w, "http") && strings.HasSuffix(strings.TrimRight(w, "/"), "/debian") {
				return w
			}
		}
	}
	return "http://deb.debian.org/debian"
}

// registry runs Debian's docker-registry with TLS and a password in the host's
// namespace; it returns its address and the CA's file.
func (h *host) registry() (addr, ca string) {
	h.t.Helper()
	dir := tempRoot(h.t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(crand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		h.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	ca = filepath.Join(dir, "ca.pem")
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}))
	write("htpasswd", []byte(h.must("htpasswd", "-Bbn", "alice", "wonderland")))
	write("config.yml", []byte(`version: 0.1
storage:
  filesystem:
    rootdirectory: `+dir+`/data
auth:
  htpasswd:
    realm: test
    path: `+dir+`/htpasswd
http:
  addr: 127.0.0.1:5443
  tls:
    certificate: `+ca+`
    key: `+dir+`/key.pem
`))
	h.background(h.ns, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	addr = "127.0.0.1:5443"
	eventually(h.t, 10*time.Second, "registry", func() bool {
		_, err := h.at(h.ns, "curl", "-s", "--cacert", ca, "https://"+addr+"/v2/")
		return err == nil
	})
	return addr, ca
}

// TestNginxFromRegistry: a real Debian image with a real server, pushed to and
// pulled from a real registry, published, fetched 1 000 times from outside while
// the daemon is killed in the middle: no request fails.
func TestNginxFromRegistry(t *testing.T) {
	h := newHost(t)
	rootfs := debian(t)
	h.start()
	addr, ca := h.registry()
	ref := addr + "/test/nginx:1"

	// The image comes into the registry by docker's own archive format.
	archive := filepath.Join(t.TempDir(), "nginx.tar")
	h.must("python3", "../scripts/mkimage.py", "--rootfs", rootfs, "--tag", ref, "--output", archive,
		"--cmd", "nginx -g 'daemon off;'")
	h.gh("image", "load", "--input", archive)
	auth := []string{"--tls-ca", ca, "--username", "alice", "--password-stdin"}
	push := append([]string{"image", "push"}, append(auth, ref)...)
	if out, err, code := h.tryStdin("wonderland", push...); code != 0 {
		t.Fatalf("push: %s%s", out, err)
	}
	h.gh("image", "rm", ref)
	if _, err, code := h.try("image", "pull", "--tls-ca", ca, ref); code == 0 || strings.Count(strings.TrimSpace(err), "\n") > 0 {
		t.Errorf("pull without a password: exit %d, %q", code, err)
	}
	if _, err, code := h.try("image", "pull", ref); code == 0 {
		t.Errorf("pull from a registry with an unknown CA: exit %d, %q", code, err)
	}
	t0 := time.Now()
	pull := append([]string{"image", "pull"}, append(auth, ref)...)
	if out, err, code := h.tryStdin("wonderland", pull...); code != 0 {
		t.Fatalf("pull: %s%s", out, err)
	}
	t.Logf("pulled and unpacked in %v", time.Since(t0))

	h.gh("run", "-d", "--name", "www", "-p", "8080:80", ref)
	eventually(t, 10*time.Second, "nginx answers", func() bool {
		out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8080/")
		return err == nil && strings.Contains(out, "nginx")
	})
	// The same in a fraction: what a trial opens, and what follows from it.
	out := h.gh("image", "slim", "--level", "traced", "--probe", "nsenter --net=/run/netns/"+h.ns+" "+h.hello+" get http://$GATEHOUSE_ADDRESS/", ref, "slim:1")
	t.Log(strings.TrimSpace(out))
	var both []images.Image
	if err := json.Unmarshal([]byte(h.gh("image", "inspect", ref, "slim:1")), &both); err != nil || len(both) != 2 {
		t.Fatalf("%d images, %v", len(both), err)
	}
	if both[1].Size*5 > both[0].Size {
		t.Errorf("%d bytes of files became %d: not five times smaller", both[0].Size, both[1].Size)
	}
	h.gh("run", "-d", "--name", "slim", "-p", "8081:80", "slim:1")
	eventually(t, 10*time.Second, "nginx answers from the smaller image", func() bool {
		out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8081/")
		return err == nil && strings.Contains(out, "nginx")
	})
	type res struct {
		out string
		err error
	}
	done := make(chan res, 1)
	go func() {
		out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8080/", "-n", "1000", "-c", "2", "-new", "-r", "500")
		done <- res{out, err}
	}()
	time.Sleep(700 * time.Millisecond)
	select {
	case <-done:
		t.Fatal("the 1 000 requests ended before the daemon was killed")
	default:
	}
	h.kill9()
	r := <-done
	if r.err != nil {
		t.Errorf("a request failed: %v", r.err)
	}
	t.Logf("1 000 requests, daemon killed in the middle: %s", r.out)
	h.start()
	if out := h.gh("exec", "www", "cat", "/etc/debian_version"); !strings.HasPrefix(out, "12") {
		t.Errorf("debian_version: %q", out)
	}
	h.gh("exec", "-u", "www-data", "www", "id", "-un")
	if out := h.gh("exec", "-u", "www-data", "www", "id", "-un"); strings.TrimSpace(out) != "www-data" {
		t.Errorf("user by name: %q", out)
	}
}
