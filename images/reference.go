// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package images

import (
	"regexp"
	"strings"
)

// DefaultDomain is where a name without a host is looked for.
const DefaultDomain = "docker.io"

// Reference is the name of an image: Domain/Path, then :Tag or @Digest or both.
type Reference struct {
	Domain string // host[:port]
	Path   string // library/debian
	Tag    string
	Digest string // sha256:…
}

// Grammar of names: distribution's reference.md.
var (
	domainRE = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]{1,5})?$`)
	pathRE   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestRE = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
	shortRE  = regexp.MustCompile(`^[a-f0-9]{4,64}$`)
)

// ParseReference reads a name as people write it: "debian", "debian:12",
// "localhost:5000/a/b@sha256:…". Without tag and digest the tag is "latest".
func ParseReference(s string) (Reference, error) {
	bad := func(what string) (Reference, error) {
		return Reference{}, Errorf(CodeInvalid, "image name %q: %s", s, what)
	}
	if s == "" {
		return bad("empty")
	}
	if len(s) > 512 {
		return Reference{}, Errorf(CodeInvalid, "image name of %d bytes: longer than 512", len(s))
	}
	var r Reference
	rest := s
	if name, d, ok := strings.Cut(rest, "@"); ok {
		if !digestRE.MatchString(d) {
			return bad("the digest after @ must be sha256: and 64 hex digits")
		}
		rest, r.Digest = name, d
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !tagRE.MatchString(r.Tag) {
			return bad("the tag after : must be letters, digits, _ . - and at most 128 long")
		}
	}
	first, path, ok := strings.Cut(rest, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first) {
		r.Domain, r.Path = first, path
	} else {
		r.Domain, r.Path = DefaultDomain, rest
	}
	if r.Domain == "index.docker.io" {
		r.Domain = DefaultDomain
	}
	if r.Domain == DefaultDomain && !strings.Contains(r.Path, "/") {
		r.Path = "library/" + r.Path
	}
	if !domainRE.MatchString(r.Domain) {
		return bad("the registry must be host or host:port")
	}
	if !pathRE.MatchString(r.Path) {
		return bad("the path must be lower-case letters and digits, separated by / . _ -")
	}
	if len(r.Domain)+1+len(r.Path) > 255 {
		return bad("longer than 255")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// Repository is the name without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the complete name.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Familiar shortens a complete name as people write it: docker.io/library/ is
// left out. A text that is no name comes back as it is.
func Familiar(name string) string {
	if _, err := ParseReference(name); err != nil {
		return name
	}
	if s, ok := strings.CutPrefix(name, DefaultDomain+"/library/"); ok {
		return s
	}
	return strings.TrimPrefix(name, DefaultDomain+"/")
}

// ShortID is the form of an ID for tables: 12 hex digits.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// IsIDPrefix reports whether s may abbreviate an ID: sha256: and hex digits, or 4
// to 64 hex digits alone. Such a text may be a name, too ("cafe").
func IsIDPrefix(s string) bool { return shortRE.MatchString(strings.TrimPrefix(s, "sha256:")) }
