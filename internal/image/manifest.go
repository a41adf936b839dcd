// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
)

// descriptor is what we read of an OCI or Docker descriptor.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *v1.Platform      `json:"platform,omitempty"`
}

// manifest is what we read of a manifest or an index, OCI or Docker schema 2.
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Manifests     []descriptor `json:"manifests"`
}

func isIndex(mediaType string) bool {
	return types.MediaType(mediaType).IsIndex()
}

func isManifest(mediaType string) bool { return types.MediaType(mediaType).IsImage() }

// Media types of image layers that we can unpack; what they are compressed with
// is seen in their bytes.
var layerTypes = []string{
	string(types.OCIUncompressedLayer), string(types.OCILayer), string(types.OCILayerZStd),
	string(types.DockerUncompressedLayer), string(types.DockerLayer), dockerLayerZstd,
}

// dockerLayerZstd is what buildkit writes in manifests of Docker's kind.
const dockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"

func (d descriptor) check(field string, maxSize int64) error {
	if err := checkDigest(field+".digest", d.Digest); err != nil {
		return err
	}
	if d.Size < 0 || d.Size > maxSize {
		return bad("%s.size %d: must be 0 to %d", field, d.Size, maxSize)
	}
	return nil
}

// parseManifest reads a manifest or index and checks its form. mediaType is what
// came with it, and may be empty.
func parseManifest(raw []byte, mediaType string, lim Limits) (manifest, error) {
	var m manifest
	if len(raw) > maxManifest {
		return m, bad("manifest of %d bytes: larger than %d", len(raw), maxManifest)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, bad("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return m, bad("manifest: schemaVersion %d: only 2 is supported (an image of Docker before 1.10?)", m.SchemaVersion)
	}
	if m.MediaType == "" { // optional in OCI
		m.MediaType = mediaType
	}
	if m.MediaType == "" {
		m.MediaType = string(types.OCIManifestSchema1)
		if m.Manifests != nil {
			m.MediaType = string(types.OCIImageIndex)
		}
	}
	if isIndex(m.MediaType) {
		if m.Layers != nil || m.Config.Digest != "" {
			return m, bad("index: holds layers or a config: index and manifest at once") // CVE-2021-41190
		}
		for i, d := range m.Manifests {
			if err := d.check(fmt.Sprintf("index: manifests[%d]", i), maxManifest); err != nil {
				return m, err
			}
		}
		return m, nil
	}
	if !isManifest(m.MediaType) {
		return m, bad("manifest: mediaType %q: neither an image nor an index", m.MediaType)
	}
	if m.Manifests != nil {
		return m, bad("manifest: holds manifests: index and manifest at once")
	}
	if err := m.Config.check("manifest: config", maxConfig); err != nil {
		return m, err
	}
	if len(m.Layers) > lim.Layers {
		return m, bad("manifest: %d layers: more than %d", len(m.Layers), lim.Layers)
	}
	for i, l := range m.Layers {
		field := fmt.Sprintf("manifest: layers[%d]", i)
		if err := l.check(field, lim.Bytes); err != nil {
			return m, err
		}
		if !slices.Contains(layerTypes, l.MediaType) {
			return m, bad("%s.mediaType %q: not a kind of image layer that can be unpacked", field, l.MediaType)
		}
	}
	return m, nil
}

// parseConfig reads an image configuration that belongs to m.
func parseConfig(raw []byte, m manifest) (ispec.Image, error) {
	var c ispec.Image
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, bad("image configuration: %w", err)
	}
	if c.RootFS.Type != "layers" && (c.RootFS.Type != "" || len(m.Layers) > 0) {
		return c, bad("image configuration: rootfs.type %q: must be layers", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return c, bad("image configuration: %d rootfs.diff_ids for %d layers of the manifest", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := checkDigest(fmt.Sprintf("image configuration: rootfs.diff_ids[%d]", i), string(d)); err != nil {
			return c, err
		}
	}
	return c, nil
}

func hostPlatform() v1.Platform {
	p := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = "v7"
	}
	return p
}

// parsePlatform reads os/arch[/variant]; "" is the host's.
func parsePlatform(s string) (p v1.Platform, err error) {
	if s == "" {
		return hostPlatform(), nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return p, images.Errorf(images.CodeInvalid, "platform %q: must be os/architecture or os/architecture/variant", s)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	if p.OS != "linux" {
		return p, images.Errorf(images.CodeNotSupported, "platform %q: only linux images can be kept", s)
	}
	return p, nil
}

// fits reports whether an image for have runs where want is asked for.
func fits(want, have v1.Platform) bool {
	if have.OS != want.OS || have.Architecture != want.Architecture {
		return false
	}
	if want.Variant == have.Variant || want.Variant == "" || have.Variant == "" {
		return true
	}
	return want.Architecture == "arm" && have.Variant < want.Variant // v7 runs v6 and v5
}

// choose takes the manifest for a platform out of an index: the best variant, of
// equals the first.
func choose(m manifest, want v1.Platform) (descriptor, error) {
	var best *descriptor
	var have []string
	for i, d := range m.Manifests {
		if !isManifest(d.MediaType) && !isIndex(d.MediaType) || d.Annotations["vnd.docker.reference.type"] != "" {
			continue // attestations and other things that hang on the image
		}
		if d.Platform == nil {
			if best == nil && len(m.Manifests) == 1 {
				best = &m.Manifests[i]
			}
			continue
		}
		have = append(have, d.Platform.String())
		if fits(want, *d.Platform) && (best == nil || best.Platform != nil && best.Platform.Variant != want.Variant && best.Platform.Variant < d.Platform.Variant) {
			best = &m.Manifests[i]
		}
	}
	if best == nil {
		return descriptor{}, images.Errorf(images.CodeNotFound, "no image for %s; there are: %s", want.String(), strings.Join(have, ", "))
	}
	return *best, nil
}

func ociDigest(d string) digest.Digest { return digest.Digest(d) }
