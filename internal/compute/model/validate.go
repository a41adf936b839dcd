// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Limits of documents; ours, each far above what anybody uses.
const (
	maxLayers    = 500 // overlayfs itself stops there, fs/overlayfs/ovl_entry.h OVL_MAX_STACK
	maxEndpoints = 32
	maxMemoryMB  = 1 << 40
	// minMemoryMB: below it the runtime itself cannot start anything; Docker's floor.
	minMemoryMB = 6
)

func invalid(field, format string, a ...any) error {
	return &hcs.Error{Code: hcs.CodeInvalidArg, Field: field, Message: fmt.Sprintf(format, a...)}
}

func badJSON(field, format string, a ...any) error {
	return &hcs.Error{Code: hcs.CodeInvalidJSON, Field: field, Message: fmt.Sprintf(format, a...)}
}

func refuse(field, format string, a ...any) error {
	return &hcs.Error{Code: hcs.CodeNotSupported, Field: field, Message: fmt.Sprintf(format, a...)}
}

// CheckID says whether id can name a compute system.
func CheckID(id string) error {
	if len(id) == 0 || len(id) > 128 {
		return invalid("Id", "%q: 1 to 128 characters are wanted", id)
	}
	for i, c := range []byte(id) {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || !strings.ContainsRune("_.@-", rune(c))) {
			return invalid("Id", "%q: letters, digits, and after the first _ . @ - are allowed", id)
		}
	}
	return nil
}

// Normalize fills in what a create document leaves open and renames old spellings.
// It changes nothing that was said, and leaves the isolation to Decide.
func Normalize(id, owner string, d hcs.ComputeSystem) hcs.ComputeSystem {
	if d.Owner == "" {
		d.Owner = owner
	}
	if d.SchemaVersion == nil {
		d.SchemaVersion = &hcs.SchemaVersion{Major: 2, Minor: 1}
	}
	if d.Container == nil {
		return d
	}
	c := *d.Container
	d.Container = &c
	if c.Isolation == "" {
		c.Isolation = hcs.IsolationDefault
	}
	g := hcs.GuestOs{}
	if c.GuestOs != nil {
		g = *c.GuestOs
	}
	if g.HostName == "" && c.Oci != nil {
		g.HostName = c.Oci.Hostname
	}
	if g.HostName == "" {
		g.HostName = hostName(id)
	}
	c.GuestOs = &g
	if c.InitProcess == nil && c.Oci != nil && c.Oci.Process != nil {
		c.InitProcess = &hcs.ProcessParameters{}
	}
	if c.InitProcess != nil {
		p := NormalizeProcess(*c.InitProcess)
		c.InitProcess = &p
	}
	return d
}

// NormalizeProcess renames old spellings.
func NormalizeProcess(p hcs.ProcessParameters) hcs.ProcessParameters {
	if p.Oci == nil {
		p.Oci = p.OciProcess
	}
	p.OciProcess = nil
	if p.Oci != nil && p.Oci.Terminal {
		p.EmulateConsole = true
	}
	return p
}

// Validate checks a normalized create document. Errors are *hcs.Error with Field.
func Validate(id string, d hcs.ComputeSystem, f Facts) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if v := *d.SchemaVersion; v.Major != 2 {
		return badJSON("SchemaVersion", "%s: 2.0 to %s are known", v, hcs.NewestSchema())
	}
	kinds := 0
	for _, has := range []bool{d.Container != nil, d.VirtualMachine != nil, len(d.HostedSystem) > 0} {
		if has {
			kinds++
		}
	}
	if kinds != 1 {
		return badJSON("Container", "exactly one of Container, VirtualMachine and HostedSystem is wanted, %d are there", kinds)
	}
	for k := range d.Annotations {
		if k == "" || strings.ContainsAny(k, "\x00=") {
			return invalid("Annotations", "key %q: must not be empty nor have = or a zero byte", k)
		}
	}
	for _, k := range []string{hcs.AnnotationKeep, hcs.AnnotationRemove} {
		if v := d.Annotations[k]; v != "" && v != "true" && v != "false" {
			return invalid("Annotations."+k, "%q: true or false is wanted", v)
		}
	}
	if d.Annotations[hcs.AnnotationKeep] == "true" && d.Annotations[hcs.AnnotationRemove] == "true" {
		return invalid("Annotations."+hcs.AnnotationKeep, "keep and rm exclude each other")
	}
	if s := d.Annotations[hcs.AnnotationStopSignal]; s != "" {
		if _, err := hcs.ParseSignal(s); err != nil {
			return invalid("Annotations."+hcs.AnnotationStopSignal, "%v", err)
		}
	}
	switch {
	case d.Template != "":
		return refuse("Template", "clones are not here yet")
	case d.VirtualMachine != nil:
		return &hcs.Error{Code: hcs.CodeHypervNotInstalled, Field: "VirtualMachine", Message: "utility VMs are not here yet"}
	case d.HostingSystemId != "":
		return &hcs.Error{Code: hcs.CodeSystemNotFound, Field: "HostingSystemId", Message: fmt.Sprintf("virtual machine %q not found", d.HostingSystemId)}
	case d.Container == nil:
		return badJSON("HostedSystem", "needs HostingSystemId")
	}
	return container(*d.Container, f)
}

func container(c hcs.Container, f Facts) error {
	switch c.Isolation {
	case hcs.IsolationProcess:
	case hcs.IsolationHypervisor:
		if !f.Machines {
			return &hcs.Error{Code: hcs.CodeHypervNotInstalled, Field: "Container.Isolation", Message: "this service has no utility VMs; use Process"}
		}
		if err := ValidateGuest(c); err != nil {
			return err
		}
	case hcs.IsolationLibraryOS:
		if err := library(c, f); err != nil {
			return err
		}
	default:
		return badJSON("Container.Isolation", "%q: none of Default, Process, Hypervisor, LibraryOS", c.Isolation)
	}
	if c.InitProcess == nil {
		return refuse("Container.InitProcess", "a container without a process of its own is not here yet; name one, {} = the image's")
	}
	for _, x := range []struct {
		field string
		raw   []byte
	}{{"AdditionalDeviceNamespace", c.AdditionalDeviceNamespace}, {"RegistryChanges", c.RegistryChanges}, {"ContainerCredentialGuard", c.ContainerCredentialGuard}} {
		if s := string(x.raw); s != "" && s != "null" && s != "{}" && s != "[]" {
			return refuse("Container."+x.field, "has no counterpart on Linux")
		}
	}
	if h := c.GuestOs.HostName; len(h) > 64 || strings.ContainsAny(h, "\x00/ \t\n") {
		return invalid("Container.GuestOs.HostName", "%q: at most 64 characters, no blanks nor slashes", h)
	}
	for _, check := range []func(hcs.Container, Facts) error{storage, mapped, limits, networking, devices, oci} {
		if err := check(c, f); err != nil {
			return err
		}
	}
	return Process("Container.InitProcess.", *c.InitProcess)
}

func absolute(field, p string) error {
	if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
		return invalid(field, "%q: not an absolute path", p)
	}
	return nil
}

func pathType(field, t string) error {
	if t != "" && t != "AbsolutePath" {
		return refuse(field, "%q: only AbsolutePath is known", t)
	}
	return nil
}

func storage(c hcs.Container, _ Facts) error {
	s := hcs.Storage{}
	if c.Storage != nil {
		s = *c.Storage
	}
	if strings.ContainsAny(c.Image, " \t\n\x00") {
		return invalid("Container.Image", "%q: not an image reference", c.Image)
	}
	if c.Image != "" && len(s.Layers) > 0 {
		return badJSON("Container.Image", "Image and Storage.Layers exclude each other")
	}
	if c.Image == "" && len(s.Layers) == 0 && s.Path == "" {
		return invalid("Container.Storage", "no root file system: give Image, Storage.Layers or Storage.Path")
	}
	if len(s.Layers) > maxLayers {
		return &hcs.Error{Code: hcs.CodeInvalidLayer, Field: "Container.Storage.Layers", Message: fmt.Sprintf("%d layers, over %d", len(s.Layers), maxLayers)}
	}
	for i, l := range s.Layers {
		f := fmt.Sprintf("Container.Storage.Layers[%d].", i)
		if err := pathType(f+"PathType", l.PathType); err != nil {
			return err
		}
		if err := absolute(f+"Path", l.Path); err != nil {
			return err
		}
		switch l.Cache {
		case "", "Unspecified", "Disabled", "Enabled", "Private", "PrivateAllowSharing":
		default:
			return badJSON(f+"Cache", "%q: unknown", l.Cache)
		}
	}
	if s.Path != "" {
		if err := absolute("Container.Storage.Path", s.Path); err != nil {
			return err
		}
	}
	if s.QoS != nil && (s.QoS.IopsMaximum != 0 || s.QoS.BandwidthMaximum != 0) {
		return refuse("Container.Storage.QoS", "limits of input and output are not here yet")
	}
	return nil
}

func mapped(c hcs.Container, _ Facts) error {
	seen := map[string]string{}
	at := func(field, p string) error {
		if err := absolute(field, p); err != nil {
			return err
		}
		p = path.Clean(p)
		if p == "/" {
			return invalid(field, "the root itself cannot be covered")
		}
		if before, dup := seen[p]; dup {
			return invalid(field, "%q: %s is already there", p, before)
		}
		seen[p] = field
		return nil
	}
	for i, m := range c.MappedDirectories {
		f := fmt.Sprintf("Container.MappedDirectories[%d].", i)
		if err := pathType(f+"HostPathType", m.HostPathType); err != nil {
			return err
		}
		if err := absolute(f+"HostPath", m.HostPath); err != nil {
			return err
		}
		if err := at(f+"ContainerPath", m.ContainerPath); err != nil {
			return err
		}
	}
	for i, m := range c.MappedPipes {
		f := fmt.Sprintf("Container.MappedPipes[%d].", i)
		if err := pathType(f+"HostPathType", m.HostPathType); err != nil {
			return err
		}
		if err := absolute(f+"HostPath", m.HostPath); err != nil {
			return err
		}
		if m.ContainerPipeName == "" {
			return invalid(f+"ContainerPipeName", "is empty")
		}
		if err := at(f+"ContainerPipeName", pipePath(m.ContainerPipeName)); err != nil {
			return err
		}
	}
	return nil
}

func pipePath(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join("/run", path.Join("/", name))
}

func limits(c hcs.Container, f Facts) error {
	if m := c.Memory; m != nil && m.SizeInMB != 0 && (m.SizeInMB < minMemoryMB || m.SizeInMB > maxMemoryMB) {
		return invalid("Container.Memory.SizeInMB", "%d: at least %d are wanted", m.SizeInMB, minMemoryMB)
	}
	if c.Processor != nil {
		if err := Processor("Container.Processor.", *c.Processor, f); err != nil {
			return err
		}
	}
	if c.PidsLimit < 0 {
		return invalid("Container.PidsLimit", "%d: must be positive; leave it out for no limit", c.PidsLimit)
	}
	return nil
}

// Processor checks limits of a container; prefix is that of the field names.
func Processor(prefix string, p hcs.Processor, f Facts) error {
	n := 0
	for _, set := range []bool{p.Count != 0, p.Maximum != 0, p.Weight != 0} {
		if set {
			n++
		}
	}
	if n > 1 {
		return badJSON(strings.TrimSuffix(prefix, "."), "Count, Maximum and Weight exclude each other")
	}
	if p.Count > 1<<16 {
		return invalid(prefix+"Count", "%d: over %d", p.Count, 1<<16)
	}
	if p.Maximum < 0 || p.Maximum > 10000 {
		return invalid(prefix+"Maximum", "%d: not within 1 and 10000", p.Maximum)
	}
	if p.Weight < 0 || p.Weight > 10000 {
		return invalid(prefix+"Weight", "%d: not within 1 and 10000", p.Weight)
	}
	if p.Cpus != "" {
		for r := range strings.SplitSeq(p.Cpus, ",") {
			a, b, ranged := strings.Cut(r, "-")
			lo, err := strconv.ParseUint(a, 10, 16)
			hi := lo
			if err == nil && ranged {
				hi, err = strconv.ParseUint(b, 10, 16)
			}
			if err != nil || hi < lo {
				return invalid(prefix+"Cpus", "%q: a list such as 0-1,3 is wanted", p.Cpus)
			}
			if f.CPUs > 0 && int(hi) >= f.CPUs {
				return invalid(prefix+"Cpus", "%q: this host has CPUs 0 to %d", p.Cpus, f.CPUs-1)
			}
		}
	}
	return nil
}

func networking(c hcs.Container, _ Facts) error {
	n := c.Networking
	if n == nil {
		return nil
	}
	ways := []string{}
	for _, w := range []struct {
		name string
		set  bool
	}{{"Namespace", n.Namespace != ""}, {"NetNsPath", n.NetNsPath != ""}, {"NetworkSharedContainerName", n.NetworkSharedContainerName != ""},
		{"NetworkAdapters", len(n.NetworkAdapters) > 0}, {"Endpoints", len(n.Endpoints) > 0}} {
		if w.set {
			ways = append(ways, w.name)
		}
	}
	if len(ways) > 1 {
		return badJSON("Container.Networking", "%s exclude each other", strings.Join(ways, " and "))
	}
	if n.NetNsPath != "" {
		if err := absolute("Container.Networking.NetNsPath", n.NetNsPath); err != nil {
			return err
		}
	}
	if n.NetworkSharedContainerName != "" {
		if err := CheckID(n.NetworkSharedContainerName); err != nil {
			return invalid("Container.Networking.NetworkSharedContainerName", "%q: not the Id of a system", n.NetworkSharedContainerName)
		}
	}
	if len(n.NetworkAdapters) > 0 {
		return refuse("Container.Networking.NetworkAdapters", "is not here yet; give Endpoints or Namespace")
	}
	if len(n.Endpoints) > maxEndpoints {
		return invalid("Container.Networking.Endpoints", "%d endpoints, over %d", len(n.Endpoints), maxEndpoints)
	}
	for i, e := range n.Endpoints {
		if _, err := members(e); err != nil {
			return badJSON(fmt.Sprintf("Container.Networking.Endpoints[%d]", i), "an HCN endpoint document is wanted: %v", err)
		}
	}
	if strings.ContainsAny(n.DnsSearchList, "\n\x00#;") {
		return invalid("Container.Networking.DnsSearchList", "%q: a comma-separated list of domains is wanted", n.DnsSearchList)
	}
	return nil
}

func devices(c hcs.Container, _ Facts) error {
	for i, d := range c.AssignedDevices {
		f := fmt.Sprintf("Container.AssignedDevices[%d].", i)
		if d.Type == "GpuMirror" || d.InterfaceClassGuid != "" {
			return refuse(f+"Type", "only LocationPath below /dev is known")
		}
		if p := path.Clean(d.LocationPath); !strings.HasPrefix(p, "/dev/") {
			return refuse(f+"LocationPath", "%q: only paths below /dev are known", d.LocationPath)
		}
	}
	return nil
}

func oci(c hcs.Container, _ Facts) error {
	o := c.Oci
	if o == nil {
		return nil
	}
	if o.VM != nil || o.Windows != nil || o.Solaris != nil || o.ZOS != nil {
		return refuse("Container.Oci", "only process and linux parts are known")
	}
	if o.Linux != nil {
		for i, n := range o.Linux.Namespaces {
			if n.Path != "" && !path.IsAbs(n.Path) {
				return invalid(fmt.Sprintf("Container.Oci.linux.namespaces[%d].path", i), "%q: not an absolute path", n.Path)
			}
		}
		if len(o.Linux.UIDMappings)+len(o.Linux.GIDMappings) > 0 {
			return refuse("Container.Oci.linux.uidMappings", "user namespaces are not here yet")
		}
	}
	if o.Process != nil {
		return capabilities("Container.Oci.process.capabilities", o.Process.Capabilities)
	}
	return nil
}

func capabilities(field string, c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	all := hcs.AllCapabilities()
	for _, set := range [][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
		for _, name := range set {
			if !slices.Contains(all, name) {
				return invalid(field, "%q: unknown; such as CAP_NET_ADMIN", name)
			}
		}
	}
	return nil
}

// Process checks parameters of a process; prefix is that of the field names.
func Process(prefix string, p hcs.ProcessParameters) error {
	for i, a := range p.CommandArgs {
		if strings.ContainsRune(a, 0) {
			return invalid(fmt.Sprintf("%sCommandArgs[%d]", prefix, i), "has a zero byte")
		}
	}
	if strings.ContainsRune(p.ApplicationName, 0) {
		return invalid(prefix+"ApplicationName", "has a zero byte")
	}
	if len(p.CommandArgs) == 0 && p.CommandLine != "" {
		if _, err := SplitWords(p.CommandLine); err != nil {
			return invalid(prefix+"CommandLine", "%v", err)
		}
	}
	if p.WorkingDirectory != "" {
		if err := absolute(prefix+"WorkingDirectory", p.WorkingDirectory); err != nil {
			return err
		}
	}
	if strings.ContainsAny(p.User, "\x00\n/ ") || strings.Count(p.User, ":") > 1 {
		return invalid(prefix+"User", "%q: neither name, uid, uid:gid nor name:group", p.User)
	}
	for k, v := range p.Environment {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return invalid(prefix+"Environment", "name %q: must not be empty nor have = or a zero byte", k)
		}
		if strings.ContainsRune(v, 0) {
			return invalid(prefix+"Environment."+k, "has a zero byte")
		}
	}
	if p.Oci != nil {
		if err := capabilities(prefix+"Oci.capabilities", p.Oci.Capabilities); err != nil {
			return err
		}
	}
	return nil
}

// hostName is the default one: the system's id as a label of DNS, a GUID cut to
// the twelve digits that Docker shows.
func hostName(id string) string {
	if _, err := uuid.Parse(id); err == nil && len(id) == 36 {
		return id[:12]
	}
	return strings.TrimRight(strings.ReplaceAll(id[:min(len(id), 63)], "@", "-"), ".-_")
}
