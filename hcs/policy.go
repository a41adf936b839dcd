// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// AnnotationIsolationReason says why a system runs in its isolation, where its
// document left that open or where the policy made an exception.
const AnnotationIsolationReason = "io.gatehouse.isolation.reason"

// PolicyProfile is a set of defaults of a Policy.
type PolicyProfile string

// Profiles, after the editions of Windows: Server allows every isolation and
// prefers Process, Client has Hypervisor only.
const (
	ProfileServer PolicyProfile = "Server"
	ProfileClient PolicyProfile = "Client"
)

// Policy [X] says who may have which isolation on this host. It is asked at each
// Create; systems that run are left alone when it changes. Absent members are the
// profile's. The keys in brackets are those of the configuration, [compute.policy].
type Policy struct {
	Profile          PolicyProfile `json:",omitempty" toml:"profile"` // absent = Server
	AllowedIsolation []Isolation   `json:",omitempty" toml:"allowed_isolation"`
	DefaultIsolation Isolation     `json:",omitempty" toml:"default_isolation"`
	// DevProcessIsolation lets a caller with full rights ask for Process where it is
	// not allowed; the system is marked "dev". Rules with an AllowedIsolation of their
	// own are not excepted.
	DevProcessIsolation bool `json:",omitempty" toml:"dev_process_isolation"`
	// UvmImage is the utility VM image of documents that name none; absent = default.
	// With PinUvmImage, which profile Client has, nobody may name another.
	UvmImage    string `json:",omitempty" toml:"uvm_image"`
	PinUvmImage bool   `json:",omitempty" toml:"pin_uvm_image"`
	// Accelerators that utility VMs may use, best first: kvm, tcg. Absent = both.
	Accelerators []string `json:",omitempty" toml:"accelerators"`
	// Rules: the first that matches counts.
	Rules []PolicyRule `json:",omitempty" toml:"rules"`
}

// PolicyRule is what those whom Match names may do. It grants what it says and
// nothing else: an absent permission is none, an absent limit is no limit.
type PolicyRule struct {
	Match PolicyMatch `toml:"match"`
	// AllowedIsolation and DefaultIsolation: absent = the policy's.
	AllowedIsolation []Isolation `json:",omitempty" toml:"allowed_isolation"`
	DefaultIsolation Isolation   `json:",omitempty" toml:"default_isolation"`
	// MaxMemoryInMB and MaxProcessors of one system. A document that names no limit
	// gets these.
	MaxMemoryInMB uint64 `json:",omitempty" toml:"max_memory_in_mb"`
	MaxProcessors uint32 `json:",omitempty" toml:"max_processors"`
	// AllowPrivileged: host devices, capabilities beyond the default ones, hooks,
	// profiles, mounts and all else of an OCI spec that loosens a container.
	AllowPrivileged bool `json:",omitempty" toml:"allow_privileged"`
	// AllowHostNamespaces: the host's own namespaces, or any by its path.
	AllowHostNamespaces bool `json:",omitempty" toml:"allow_host_namespaces"`
	// AllowHostPaths are host directories below which paths may be mapped; "/" = all.
	AllowHostPaths []string `json:",omitempty" toml:"allow_host_paths"`
	// AllowVmProcesses: processes in a utility VM itself. AllowTemplates: clones and
	// templates. UvmImages: utility VM images besides the policy's.
	AllowVmProcesses bool     `json:",omitempty" toml:"allow_vm_processes"`
	AllowTemplates   bool     `json:",omitempty" toml:"allow_templates"`
	UvmImages        []string `json:",omitempty" toml:"uvm_images"`
}

// PolicyMatch names callers; all members that are there must fit.
type PolicyMatch struct {
	// Owner is a pattern (path.Match) of a system's owner.
	Owner string `json:",omitempty" toml:"owner"`
	// Uid and Gid are the caller's, Gid also one of its supplementary groups. A rule
	// with one of them lets in callers that could not use the socket otherwise.
	Uid *uint32 `json:",omitempty" toml:"uid"`
	Gid *uint32 `json:",omitempty" toml:"gid"`
	// Door is the protocol the caller came by: api.
	Door string `json:",omitempty" toml:"door"`
	// Annotation is "name" or "name=pattern" of the document; it counts for callers
	// with full rights, or beside Uid or Gid.
	Annotation string `json:",omitempty" toml:"annotation"`
}

// WithDefaults fills in what p leaves to its profile and writes words as the wire
// does. An error is an *Error whose Field is the member.
func (p Policy) WithDefaults() (Policy, error) {
	switch {
	case p.Profile == "", strings.EqualFold(string(p.Profile), string(ProfileServer)):
		p.Profile = ProfileServer
	case strings.EqualFold(string(p.Profile), string(ProfileClient)):
		p.Profile = ProfileClient
	default:
		return p, badPolicy("Profile", "%q: neither Server nor Client", p.Profile)
	}
	var err error
	if p.AllowedIsolation, err = isolations("AllowedIsolation", p.AllowedIsolation); err != nil {
		return p, err
	}
	if len(p.AllowedIsolation) == 0 {
		p.AllowedIsolation = []Isolation{IsolationProcess, IsolationHypervisor, IsolationLibraryOS}
		if p.Profile == ProfileClient {
			p.AllowedIsolation = []Isolation{IsolationHypervisor}
		}
	}
	if p.DefaultIsolation == "" {
		p.DefaultIsolation = IsolationProcess
		if p.Profile == ProfileClient {
			p.DefaultIsolation = IsolationHypervisor
		}
		if !slices.Contains(p.AllowedIsolation, p.DefaultIsolation) {
			p.DefaultIsolation = p.AllowedIsolation[0]
		}
	}
	if p.DefaultIsolation, err = isolation("DefaultIsolation", p.DefaultIsolation); err != nil {
		return p, err
	}
	if !slices.Contains(p.AllowedIsolation, p.DefaultIsolation) {
		return p, badPolicy("DefaultIsolation", "%s is not among AllowedIsolation", p.DefaultIsolation)
	}
	if p.UvmImage == "" {
		p.UvmImage = "default"
	}
	p.PinUvmImage = p.PinUvmImage || p.Profile == ProfileClient
	if len(p.Accelerators) == 0 {
		p.Accelerators = []string{"kvm", "tcg"}
	}
	for _, a := range p.Accelerators {
		if a != "kvm" && a != "tcg" {
			return p, badPolicy("Accelerators", "%q: neither kvm nor tcg", a)
		}
	}
	p.Rules = slices.Clone(p.Rules)
	for i := range p.Rules {
		if err := p.Rules[i].check(fmt.Sprintf("Rules[%d].", i), p); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (r *PolicyRule) check(f string, p Policy) (err error) {
	m := r.Match
	if m == (PolicyMatch{}) {
		return badPolicy(f+"Match", "is empty; name an owner, uid, gid, door or annotation")
	}
	_, pattern, _ := strings.Cut(m.Annotation, "=")
	for member, x := range map[string]string{"Owner": m.Owner, "Annotation": pattern} {
		if _, err := path.Match(x, ""); err != nil {
			return badPolicy(f+"Match."+member, "%q is not a pattern like ci-*", x)
		}
	}
	if r.AllowedIsolation, err = isolations(f+"AllowedIsolation", r.AllowedIsolation); err != nil {
		return err
	}
	allowed := r.AllowedIsolation
	if len(allowed) == 0 {
		allowed = p.AllowedIsolation
	}
	if r.DefaultIsolation != "" {
		if r.DefaultIsolation, err = isolation(f+"DefaultIsolation", r.DefaultIsolation); err != nil {
			return err
		}
		if !slices.Contains(allowed, r.DefaultIsolation) {
			return badPolicy(f+"DefaultIsolation", "%s is not among AllowedIsolation", r.DefaultIsolation)
		}
	} else if !slices.Contains(allowed, p.DefaultIsolation) {
		r.DefaultIsolation = allowed[0]
	}
	r.AllowHostPaths = slices.Clone(r.AllowHostPaths)
	for i, h := range r.AllowHostPaths {
		if !path.IsAbs(h) {
			return badPolicy(fmt.Sprintf("%sAllowHostPaths[%d]", f, i), "%q: not an absolute path", h)
		}
		r.AllowHostPaths[i] = path.Clean(h)
	}
	return nil
}

func isolations(field string, in []Isolation) ([]Isolation, error) {
	out := slices.Clone(in)
	for i := range out {
		var err error
		if out[i], err = isolation(field, out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// isolation takes the wire's words in any case, and library-os as the command line does.
func isolation(field string, x Isolation) (Isolation, error) {
	for _, i := range []Isolation{IsolationProcess, IsolationHypervisor, IsolationLibraryOS} {
		if strings.EqualFold(strings.ReplaceAll(string(x), "-", ""), string(i)) {
			return i, nil
		}
	}
	return "", badPolicy(field, "%q: none of Process, Hypervisor, LibraryOS", x)
}

func badPolicy(field, format string, a ...any) error {
	return &Error{Code: CodeInvalidArg, Field: field, Message: fmt.Sprintf(format, a...)}
}
