// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/resource"
)

// Grant is what a policy says of one caller and document.
type Grant struct {
	Isolation hcs.Isolation
	// Reason why, where the document left it open or an exception was made.
	Reason string

	by      string // whose word it is: the profile, or a rule
	allowed []hcs.Isolation
	rule    *hcs.PolicyRule // nil = none matched
	policy  hcs.Policy
	who     resource.Caller
}

func denied(field, format string, a ...any) error {
	return &hcs.Error{Code: hcs.CodeAccessDenied, Field: field, Message: fmt.Sprintf(format, a...)}
}

// Find finds what p, which is whole, says of who and a normalized document, whatever
// the isolation.
func Find(p hcs.Policy, who resource.Caller, d hcs.ComputeSystem) (Grant, error) {
	g := Grant{by: "profile " + string(p.Profile), allowed: p.AllowedIsolation, policy: p, who: who}
	if !who.Admin && d.Owner != who.Owner() {
		return g, denied("Owner", "%q: you are %q and may not speak for others", d.Owner, who.Owner())
	}
	g.Isolation = p.DefaultIsolation
	for i := range p.Rules {
		r := &p.Rules[i]
		if !matches(r.Match, who, d) {
			continue
		}
		g.rule, g.by = r, fmt.Sprintf("rule %d (%s)", i+1, describe(r.Match))
		if len(r.AllowedIsolation) > 0 {
			g.allowed = r.AllowedIsolation
		}
		if r.DefaultIsolation != "" {
			g.Isolation = r.DefaultIsolation
		}
		break
	}
	if !who.Admin && g.rule == nil {
		return g, denied("", "no rule of this host's policy is about user %d", who.UID)
	}
	return g, nil
}

// Decide finds what is granted and the isolation. One that was asked for is never
// changed.
func Decide(p hcs.Policy, who resource.Caller, d hcs.ComputeSystem) (Grant, error) {
	g, err := Find(p, who, d)
	if err != nil {
		return g, err
	}
	asked, field := hcs.IsolationHypervisor, "VirtualMachine"
	if d.VirtualMachine == nil && d.HostingSystemId == "" && d.Container != nil {
		asked, field = d.Container.Isolation, "Container.Isolation"
	}
	switch {
	case asked == hcs.IsolationDefault:
		if g.rule != nil || p.Profile != hcs.ProfileServer || g.Isolation != hcs.IsolationProcess {
			g.Reason = "default of " + g.by
		}
		return g, nil
	case slices.Contains(g.allowed, asked):
	case asked == hcs.IsolationProcess && p.DevProcessIsolation && who.Admin && (g.rule == nil || len(g.rule.AllowedIsolation) == 0):
		g.Reason = "dev"
	case !slices.Contains([]hcs.Isolation{hcs.IsolationProcess, hcs.IsolationHypervisor, hcs.IsolationLibraryOS}, asked):
		return g, badJSON(field, "%q: none of Default, Process, Hypervisor, LibraryOS", asked)
	default:
		return g, denied(field, "isolation %s is not allowed by %s; allowed: %s", asked, g.by, words(g.allowed))
	}
	g.Isolation = asked
	return g, nil
}

func words(list []hcs.Isolation) string {
	s := make([]string, len(list))
	for i, x := range list {
		s[i] = string(x)
	}
	return strings.Join(s, ", ")
}

func isHim(m hcs.PolicyMatch, who resource.Caller) bool {
	return (m.Uid == nil || *m.Uid == who.UID) && (m.Gid == nil || *m.Gid == who.GID || slices.Contains(who.Groups, *m.Gid))
}

func matches(m hcs.PolicyMatch, who resource.Caller, d hcs.ComputeSystem) bool {
	if !isHim(m, who) {
		return false
	}
	if m.Owner != "" && !glob(m.Owner, d.Owner) || m.Door != "" && m.Door != who.Door {
		return false
	}
	if m.Annotation != "" {
		if !who.Admin && m.Uid == nil && m.Gid == nil { // anybody can write one
			return false
		}
		name, pattern, valued := strings.Cut(m.Annotation, "=")
		v, has := d.Annotations[name]
		return has && (!valued || glob(pattern, v))
	}
	return true
}

func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}

func describe(m hcs.PolicyMatch) string {
	var s []string
	for _, x := range []struct {
		name string
		has  bool
		v    any
	}{{"Owner", m.Owner != "", m.Owner}, {"Door", m.Door != "", m.Door}, {"Annotation", m.Annotation != "", m.Annotation}} {
		if x.has {
			s = append(s, fmt.Sprintf("%s %v", x.name, x.v))
		}
	}
	if m.Uid != nil {
		s = append(s, fmt.Sprintf("Uid %d", *m.Uid))
	}
	if m.Gid != nil {
		s = append(s, fmt.Sprintf("Gid %d", *m.Gid))
	}
	return strings.Join(s, ", ")
}

// Admits tells whether a rule of p lets in a caller who has no full rights.
func Admits(p hcs.Policy, who resource.Caller) bool {
	return slices.ContainsFunc(p.Rules, func(r hcs.PolicyRule) bool {
		return (r.Match.Uid != nil || r.Match.Gid != nil) && isHim(r.Match, who)
	})
}

// Apply writes what was granted into a document: its isolation with the reason, the
// limits that it leaves to the rule, the utility VM image it leaves to the policy.
func (g Grant) Apply(d hcs.ComputeSystem) hcs.ComputeSystem {
	if v := d.VirtualMachine; v != nil && v.Image == "" && (v.Chipset == nil || v.Chipset.LinuxKernelDirect == nil) {
		c := *v
		c.Image = g.policy.UvmImage
		d.VirtualMachine = &c
	}
	if d.Container == nil {
		return d
	}
	c := *d.Container
	d.Container = &c
	c.Isolation = g.Isolation
	if had := d.Annotations[hcs.AnnotationIsolationReason]; had != g.Reason {
		d.Annotations = maps.Clone(d.Annotations)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[hcs.AnnotationIsolationReason] = g.Reason
		if g.Reason == "" { // the service's word, nobody else's
			delete(d.Annotations, hcs.AnnotationIsolationReason)
		}
	}
	if r := g.rule; r != nil {
		if r.MaxMemoryInMB > 0 && memoryOf(c) == 0 {
			c.Memory = &hcs.Memory{SizeInMB: r.MaxMemoryInMB}
		}
		if r.MaxProcessors > 0 && (c.Processor == nil || c.Processor.Count == 0 && c.Processor.Maximum == 0 && c.Processor.Weight == 0) && ociQuota(c) == 0 {
			p := hcs.Processor{}
			if c.Processor != nil {
				p = *c.Processor
			}
			p.Count = r.MaxProcessors
			c.Processor = &p
		}
	}
	return d
}

// Platform checks an image's against the host's, whose kernel runs all but utility
// VMs. open: the document left the isolation open, so that another may be taken.
func (g Grant) Platform(os, arch, hostArch string, open bool) (Grant, error) {
	if g.Isolation == hcs.IsolationHypervisor || (os == "" || os == "linux") && (arch == "" || arch == hostArch) {
		return g, nil
	}
	what := fmt.Sprintf("the image is for %s/%s, this host is linux/%s", os, arch, hostArch)
	if os == "linux" && open && slices.Contains(g.allowed, hcs.IsolationHypervisor) {
		g.Isolation, g.Reason = hcs.IsolationHypervisor, what
		return g, nil
	}
	use := "use --isolation hypervisor"
	if os != "linux" || !slices.Contains(g.allowed, hcs.IsolationHypervisor) {
		use = "use an image for this host"
	}
	return g, &hcs.Error{Code: hcs.CodeImageMismatch, Field: "Container.Image", Message: what + "; " + use}
}

// memoryOf is a container's limit in MiB, rounded up; 0 = none.
func memoryOf(c hcs.Container) uint64 {
	if c.Memory != nil && c.Memory.SizeInMB > 0 {
		return c.Memory.SizeInMB
	}
	if c.Oci != nil && c.Oci.Linux != nil && c.Oci.Linux.Resources != nil {
		if m := c.Oci.Linux.Resources.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
			return (uint64(*m.Limit) + 1<<20 - 1) >> 20
		}
	}
	return 0
}

// ociQuota is the CPUs' worth of time of an OCI spec, in thousandths; 0 = no cap.
func ociQuota(c hcs.Container) uint64 {
	if c.Oci != nil && c.Oci.Linux != nil && c.Oci.Linux.Resources != nil {
		if p := c.Oci.Linux.Resources.CPU; p != nil && p.Quota != nil && *p.Quota > 0 {
			per := uint64(period)
			if p.Period != nil && *p.Period > 0 {
				per = *p.Period
			}
			return (uint64(*p.Quota)*1000 + per - 1) / per
		}
	}
	return 0
}

// Quotas checks the limits of an applied document against the rule's.
func (g Grant) Quotas(d hcs.ComputeSystem, f Facts) error {
	r := g.rule
	if r == nil {
		return nil
	}
	exhausted := func(field, format string, a ...any) error {
		return &hcs.Error{Code: hcs.CodeNoMemory, Field: field, Message: fmt.Sprintf(format, a...) + " by " + g.by}
	}
	memory, cpus, at := uint64(0), uint64(0), "Container."
	switch {
	case d.Container != nil:
		memory = memoryOf(*d.Container)
		cpus = ociQuota(*d.Container)
		if p := d.Container.Processor; p != nil && p.Count > 0 {
			cpus = uint64(p.Count) * 1000
		} else if p != nil && p.Maximum > 0 {
			cpus = uint64(p.Maximum) * uint64(max(f.CPUs, 1)) / 10
		}
	case d.VirtualMachine != nil && d.VirtualMachine.ComputeTopology != nil:
		at = "VirtualMachine.ComputeTopology."
		if m := d.VirtualMachine.ComputeTopology.Memory; m != nil {
			memory = m.SizeInMB
		}
		if p := d.VirtualMachine.ComputeTopology.Processor; p != nil {
			cpus = uint64(p.Count) * 1000
		}
	}
	if r.MaxMemoryInMB > 0 && (memory > r.MaxMemoryInMB || memory == 0 && d.Container != nil) {
		return exhausted(at+"Memory.SizeInMB", "%d: at most %d are allowed", memory, r.MaxMemoryInMB)
	}
	if r.MaxProcessors > 0 && (cpus > uint64(r.MaxProcessors)*1000 || cpus == 0 && d.Container != nil) {
		if cpus == 0 {
			return exhausted(at+"Processor", "a Count or Maximum of at most %d processors is wanted", r.MaxProcessors)
		}
		return exhausted(at+"Processor", "%g processors: at most %d are allowed", float64(cpus)/1000, r.MaxProcessors)
	}
	return nil
}
