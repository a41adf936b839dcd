// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/resource"
)

// granted normalizes a document and applies what the Server profile grants root.
func granted(id, owner string, d hcs.ComputeSystem) hcs.ComputeSystem {
	p, err := hcs.Policy{}.WithDefaults()
	if err != nil {
		panic(err)
	}
	d = Normalize(id, owner, d)
	if g, err := Decide(p, resource.Caller{Admin: true}, d); err == nil {
		d = g.Apply(d)
	}
	return d
}

var (
	root  = resource.Caller{Admin: true, Door: "api"}
	alice = resource.Caller{UID: 1000, GID: 1000, Groups: []uint32{27, 50}, Door: "api"}
)

func parsePolicy(t *testing.T, text string) hcs.Policy {
	t.Helper()
	var p hcs.Policy
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	p, err := p.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ask decides, applies and checks, as Create does; links are resolved by a table.
func ask(t *testing.T, p hcs.Policy, who resource.Caller, text string) (hcs.ComputeSystem, error) {
	t.Helper()
	var d hcs.ComputeSystem
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	d = Normalize("web", who.Owner(), d)
	g, err := Decide(p, who, d)
	if err != nil {
		return d, err
	}
	d = g.Apply(d)
	resolve := func(s string) (string, error) { return strings.Replace(s, "/srv/link", "/etc", 1), nil }
	if err := g.Rights(d, resolve); err != nil {
		return d, err
	}
	return d, g.Quotas(d, Facts{CPUs: 8})
}

// Every row of the policy's decisions.
func TestPolicy(t *testing.T) {
	const (
		server   = `{}`
		client   = `{"Profile":"client"}`
		dev      = `{"Profile":"Client","DevProcessIsolation":true}`
		byOwner  = `{"Rules":[{"Match":{"Owner":"ci-*"},"AllowedIsolation":["LibraryOS","Hypervisor"]}]}`
		byUser   = `{"Rules":[{"Match":{"Uid":1000},"AllowHostPaths":["/srv"],"MaxMemoryInMB":256,"MaxProcessors":2}]}`
		byGroup  = `{"Rules":[{"Match":{"Gid":50}}]}`
		byNote   = `{"Rules":[{"Match":{"Annotation":"team=a*"},"AllowedIsolation":["LibraryOS"]}]}`
		byDoor   = `{"Rules":[{"Match":{"Door":"cri"},"AllowedIsolation":["Hypervisor"]}]}`
		pinned   = `{"PinUvmImage":true,"UvmImage":"small"}`
		rootRule = `{"Profile":"Client","DevProcessIsolation":true,"Rules":[{"Match":{"Uid":0},"AllowedIsolation":["Hypervisor"]}]}`
	)
	c := func(members string) string {
		if members != "" {
			members = "," + members
		}
		return `{"Container":{"Image":"a","InitProcess":{}` + members + `}}`
	}
	iso := func(x string) string { return c(`"Isolation":"` + x + `"`) }
	ok := hcs.Code(0)
	for _, x := range []struct {
		name, policy string
		who          resource.Caller
		doc          string
		code         hcs.Code
		field        string
		isolation    hcs.Isolation
		says         string // in the error, or the reason
	}{
		{"server default", server, root, c(""), ok, "", "Process", ""},
		{"server, explicit", server, root, iso("LibraryOS"), ok, "", "LibraryOS", ""},
		{"server, hypervisor", server, root, iso("Hypervisor"), ok, "", "Hypervisor", ""},
		{"unknown word", server, root, iso("Strong"), hcs.CodeInvalidJSON, "Container.Isolation", "", "none of"},
		{"client default", client, root, c(""), ok, "", "Hypervisor", "default of profile Client"},
		{"client, explicit process", client, root, iso("Process"), hcs.CodeAccessDenied, "Container.Isolation", "", "Process is not allowed by profile Client; allowed: Hypervisor"},
		{"client, library os", client, root, iso("LibraryOS"), hcs.CodeAccessDenied, "Container.Isolation", "", "allowed: Hypervisor"},
		{"client, dev", dev, root, iso("Process"), ok, "", "Process", "dev"},
		{"client, dev: not by default", dev, root, c(""), ok, "", "Hypervisor", "default of profile Client"},
		{"client, dev: process alone", dev, root, iso("LibraryOS"), hcs.CodeAccessDenied, "Container.Isolation", "", ""},
		{"dev and a rule's own set", rootRule, root, iso("Process"), hcs.CodeAccessDenied, "Container.Isolation", "", "rule 1 (Uid 0)"},
		{"rule by owner", byOwner, root, `{"Owner":"ci-7","Container":{"Image":"a","InitProcess":{}}}`, ok, "", "LibraryOS", "default of rule 1 (Owner ci-*)"},
		{"rule by owner, explicit", byOwner, root, `{"Owner":"ci-7","Container":{"Image":"a","InitProcess":{},"Isolation":"Process"}}`, hcs.CodeAccessDenied, "Container.Isolation", "", "rule 1 (Owner ci-*); allowed: LibraryOS, Hypervisor"},
		{"rule by owner, another's", byOwner, root, `{"Owner":"web","Container":{"Image":"a","InitProcess":{}}}`, ok, "", "Process", ""},
		{"rule by annotation", byNote, root, `{"Annotations":{"team":"abc"},"Container":{"Image":"a","InitProcess":{}}}`, ok, "", "LibraryOS", "Annotation team=a*"},
		{"rule by annotation, another value", byNote, root, `{"Annotations":{"team":"b"},"Container":{"Image":"a","InitProcess":{}}}`, ok, "", "Process", ""},
		{"rule by door", byDoor, root, c(""), ok, "", "Process", ""},
		{"rule by door, that one", byDoor, resource.Caller{Admin: true, Door: "cri"}, iso("Process"), hcs.CodeAccessDenied, "Container.Isolation", "", "Door cri"},
		{"rule by uid", byUser, alice, c(""), ok, "", "Process", "default of rule 1 (Uid 1000)"},
		{"rule by group", byGroup, alice, c(""), ok, "", "Process", "Gid 50"},
		{"no rule for a user", byOwner, alice, c(""), hcs.CodeAccessDenied, "", "", "user 1000"},
		{"claimed owner", byUser, alice, `{"Owner":"uid:0","Container":{"Image":"a","InitProcess":{}}}`, hcs.CodeAccessDenied, "Owner", "", "may not speak for others"},
		{"a user's annotation is no claim", `{"Rules":[{"Match":{"Annotation":"team"},"AllowPrivileged":true},{"Match":{"Uid":1000}}]}`, alice,
			`{"Annotations":{"team":"x"},"Container":{"Image":"a","InitProcess":{},"AssignedDevices":[{"LocationPath":"/dev/kvm"}]}}`, hcs.CodeAccessDenied, "Container.AssignedDevices", "", "rule 2"},
		{"a virtual machine", server, root, `{"VirtualMachine":{}}`, ok, "", "", ""},
		{"a virtual machine not allowed", `{"AllowedIsolation":["Process"]}`, root, `{"VirtualMachine":{}}`, hcs.CodeAccessDenied, "VirtualMachine", "", "allowed: Process"},
		{"a hosted container not allowed", `{"AllowedIsolation":["Process"]}`, root, `{"HostingSystemId":"vm","Container":{"Image":"a","InitProcess":{},"Isolation":"Process"}}`, hcs.CodeAccessDenied, "VirtualMachine", "", ""},
		{"another image than the pinned", pinned, root, `{"VirtualMachine":{"Image":"big"}}`, hcs.CodeAccessDenied, "VirtualMachine.Image", "", "small"},
		{"the pinned image", pinned, root, `{"VirtualMachine":{"Image":"small"}}`, ok, "", "", ""},
		{"templates", byUser, alice, `{"Template":"t","Container":{"Image":"a","InitProcess":{}}}`, hcs.CodeAccessDenied, "Template", "", "AllowTemplates"},

		{"memory", byUser, alice, c(`"Memory":{"SizeInMB":257}`), hcs.CodeNoMemory, "Container.Memory.SizeInMB", "", "at most 256"},
		{"memory by oci", byUser, alice, c(`"Oci":{"linux":{"resources":{"memory":{"limit":300000000}}}}`), hcs.CodeNoMemory, "Container.Memory.SizeInMB", "", ""},
		{"memory of a machine", byUser, alice, `{"VirtualMachine":{"ComputeTopology":{"Memory":{"SizeInMB":512}}}}`, hcs.CodeNoMemory, "VirtualMachine.ComputeTopology.Memory.SizeInMB", "", ""},
		{"processors", byUser, alice, c(`"Processor":{"Count":3}`), hcs.CodeNoMemory, "Container.Processor", "", "3 processors"},
		{"share of processors", byUser, alice, c(`"Processor":{"Maximum":2600}`), hcs.CodeNoMemory, "Container.Processor", "", "2.08 processors"},
		{"share that fits", byUser, alice, c(`"Processor":{"Maximum":2500}`), ok, "", "Process", ""},
		{"weight without a cap", byUser, alice, c(`"Processor":{"Weight":100}`), hcs.CodeNoMemory, "Container.Processor", "", "wanted"},
		{"processors by oci", byUser, alice, c(`"Oci":{"linux":{"resources":{"cpu":{"quota":300000,"period":100000}}}}`), hcs.CodeNoMemory, "Container.Processor", "", ""},
		{"swap by oci", byUser, alice, c(`"Oci":{"linux":{"resources":{"memory":{"swap":-1}}}}`), hcs.CodeAccessDenied, "Container.Oci.linux.resources.memory.swap", "", ""},

		{"path", byUser, alice, c(`"MappedDirectories":[{"HostPath":"/srv/a","ContainerPath":"/a"}]`), ok, "", "Process", ""},
		{"path outside", byUser, alice, c(`"MappedDirectories":[{"HostPath":"/srvx","ContainerPath":"/a"}]`), hcs.CodeAccessDenied, "Container.MappedDirectories[0].HostPath", "", "/srv"},
		{"path out by dots", byUser, alice, c(`"MappedDirectories":[{"HostPath":"/srv/../etc","ContainerPath":"/a"}]`), hcs.CodeAccessDenied, "Container.MappedDirectories[0].HostPath", "", ""},
		{"path out by a link", byUser, alice, c(`"MappedDirectories":[{"HostPath":"/srv/link","ContainerPath":"/a"}]`), hcs.CodeAccessDenied, "Container.MappedDirectories[0].HostPath", "", `"/etc"`},
		{"pipe", byUser, alice, c(`"MappedPipes":[{"HostPath":"/run/docker.sock","ContainerPipeName":"a"}]`), hcs.CodeAccessDenied, "Container.MappedPipes[0].HostPath", "", ""},
		{"root file system", byUser, alice, `{"Container":{"Storage":{"Path":"/"},"InitProcess":{}}}`, hcs.CodeAccessDenied, "Container.Storage.Path", "", ""},
		{"layer", byUser, alice, `{"Container":{"Storage":{"Layers":[{"Path":"/root"}]},"InitProcess":{}}}`, hcs.CodeAccessDenied, "Container.Storage.Layers[0].Path", "", ""},
		{"any path without a rule", server, root, c(`"MappedDirectories":[{"HostPath":"/","ContainerPath":"/a"}]`), ok, "", "Process", ""},

		{"host network", byUser, alice, c(`"Networking":{"NetNsPath":"/proc/1/ns/net"}`), hcs.CodeAccessDenied, "Container.Networking.NetNsPath", "", "AllowHostNamespaces"},
		{"a namespace", byUser, alice, c(`"Networking":{"Namespace":"x"}`), hcs.CodeAccessDenied, "Container.Networking.Namespace", "", ""},
		{"host pids", byUser, alice, c(`"Oci":{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}`), hcs.CodeAccessDenied, "Container.Oci.linux.namespaces[0].path", "", ""},
		{"a published port", byUser, alice, c(`"Networking":{"Endpoints":[{"HostComputeNetwork":"n","Policies":[{"Type":"PortMapping"}],"AdditionalParams":{"Aliases":["a"]}}]}`), ok, "", "Process", ""},
		{"another's endpoint", byUser, alice, c(`"Networking":{"Endpoints":[{"ID":"x"}]}`), hcs.CodeAccessDenied, "Container.Networking.Endpoints[0].ID", "", ""},
		{"policies of a network", byUser, alice, c(`"Networking":{"Endpoints":[{"Policies":[{"Type":"L4Proxy"}]}]}`), hcs.CodeAccessDenied, "Container.Networking.Endpoints[0].Policies", "", "L4Proxy"},

		{"capability", byUser, alice, `{"Container":{"Image":"a","InitProcess":{"Oci":{"user":{},"cwd":"","capabilities":{"bounding":["CAP_SYS_ADMIN"]}}}}}`, hcs.CodeAccessDenied, "Container.InitProcess.Oci.capabilities.CAP_SYS_ADMIN", "", "AllowPrivileged"},
		{"fewer capabilities", byUser, alice, `{"Container":{"Image":"a","InitProcess":{"Oci":{"user":{},"cwd":"","capabilities":{"bounding":["CAP_CHOWN"]}}}}}`, ok, "", "Process", ""},
		{"hook", byUser, alice, c(`"Oci":{"hooks":{"poststop":[{"path":"/bin/sh"}]}}`), hcs.CodeAccessDenied, "Container.Oci.hooks.poststop", "", ""},
		{"mount", byUser, alice, c(`"Oci":{"mounts":[{"destination":"/x","source":"/"}]}`), hcs.CodeAccessDenied, "Container.Oci.mounts", "", ""},
		{"seccomp", byUser, alice, c(`"Oci":{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`), hcs.CodeAccessDenied, "Container.Oci.linux.seccomp.defaultAction", "", ""},
		{"masked paths", byUser, alice, c(`"Oci":{"linux":{"maskedPaths":["/x"]}}`), hcs.CodeAccessDenied, "Container.Oci.linux.maskedPaths", "", ""},
		{"sysctl", byUser, alice, c(`"Oci":{"linux":{"sysctl":{"kernel.domainname":"x"}}}`), hcs.CodeAccessDenied, "Container.Oci.linux.sysctl.kernel.domainname", "", ""},
		{"words to the runtime", byUser, alice, `{"Annotations":{"run.oci.handler":"krun"},"Container":{"Image":"a","InitProcess":{}}}`, hcs.CodeAccessDenied, "Annotations.run.oci.handler", "", ""},
		{"kernel of a machine", byUser, alice, `{"VirtualMachine":{"Image":"default","Chipset":{"LinuxKernelDirect":{"KernelFilePath":"/etc/shadow"}}}}`, hcs.CodeAccessDenied, "VirtualMachine.Chipset.LinuxKernelDirect.KernelFilePath", "", ""},
		{"all of it, without a rule", server, root, c(`"Oci":{"hooks":{"poststop":[{"path":"/bin/sh"}]},"mounts":[{"destination":"/x"}],"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}`), ok, "", "Process", ""},
	} {
		d, err := ask(t, parsePolicy(t, x.policy), x.who, x.doc)
		var e *hcs.Error
		errors.As(err, &e)
		if hcs.CodeOf(err) != x.code || e != nil && (e.Field != x.field || !strings.Contains(e.Message, x.says)) {
			t.Errorf("%s: got %v; want %s at %q saying %q", x.name, err, x.code.Name(), x.field, x.says)
			continue
		}
		if err == nil && d.Container != nil && (d.Container.Isolation != x.isolation || !strings.Contains(d.Annotations[hcs.AnnotationIsolationReason], x.says)) {
			t.Errorf("%s: %s because %q; want %s, %q", x.name, d.Container.Isolation, d.Annotations[hcs.AnnotationIsolationReason], x.isolation, x.says)
		}
	}
}

// What a rule limits and a document leaves open gets the limit; nobody else writes
// the reason.
func TestPolicyFillsIn(t *testing.T) {
	p := parsePolicy(t, `{"Rules":[{"Match":{"Uid":1000},"MaxMemoryInMB":256,"MaxProcessors":2}]}`)
	d, err := ask(t, p, alice, `{"Annotations":{"io.gatehouse.isolation.reason":"me"},"Container":{"Image":"a","InitProcess":{},"Isolation":"Process","Processor":{"Cpus":"0"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	c := d.Container
	if c.Memory == nil || c.Memory.SizeInMB != 256 || *c.Processor != (hcs.Processor{Count: 2, Cpus: "0"}) || d.Annotations[hcs.AnnotationIsolationReason] != "" {
		t.Errorf("memory %+v, processor %+v, annotations %v", c.Memory, c.Processor, d.Annotations)
	}
}

func TestPlatform(t *testing.T) {
	for _, x := range []struct {
		policy, isolation, os, arch string
		open                        bool
		want                        hcs.Isolation
		code                        hcs.Code
	}{
		{`{}`, "Process", "linux", "amd64", true, "Process", 0},
		{`{}`, "Process", "", "", true, "Process", 0},
		{`{}`, "Hypervisor", "linux", "arm64", false, "Hypervisor", 0},
		{`{}`, "Process", "linux", "arm64", true, "Hypervisor", 0},
		{`{}`, "Process", "linux", "arm64", false, "", hcs.CodeImageMismatch},
		{`{"AllowedIsolation":["Process"]}`, "Process", "linux", "arm64", true, "", hcs.CodeImageMismatch},
		{`{}`, "Process", "windows", "amd64", true, "", hcs.CodeImageMismatch},
	} {
		d := Normalize("web", "o", hcs.ComputeSystem{Container: &hcs.Container{Image: "a", Isolation: hcs.Isolation(x.isolation)}})
		g, err := Decide(parsePolicy(t, x.policy), root, d)
		if err != nil {
			t.Fatal(err)
		}
		g, err = g.Platform(x.os, x.arch, "amd64", x.open)
		if hcs.CodeOf(err) != x.code || err == nil && g.Isolation != x.want {
			t.Errorf("%+v: %s, %v", x, g.Isolation, err)
		}
	}
}

// Callers whom no rule names by user or group stay outside.
func TestAdmits(t *testing.T) {
	for policy, want := range map[string]bool{
		`{}`: false, `{"Rules":[{"Match":{"Owner":"*"}}]}`: false, `{"Rules":[{"Match":{"Uid":1000}}]}`: true, `{"Rules":[{"Match":{"Gid":1000}}]}`: true,
		`{"Rules":[{"Match":{"Gid":50}}]}`: true, `{"Rules":[{"Match":{"Uid":1001}}]}`: false, `{"Rules":[{"Match":{"Uid":1001,"Gid":50}}]}`: false,
		`{"Rules":[{"Match":{"Uid":1000,"Gid":51}}]}`: false,
	} {
		if got := Admits(parsePolicy(t, policy), alice); got != want {
			t.Errorf("%s: %v", policy, got)
		}
	}
}

func TestPolicyRefused(t *testing.T) {
	for text, field := range map[string]string{
		`{"Profile":"Home"}`:                                     "Profile",
		`{"AllowedIsolation":["None"]}`:                          "AllowedIsolation",
		`{"AllowedIsolation":["Default"]}`:                       "AllowedIsolation",
		`{"Profile":"Client","DefaultIsolation":"Process"}`:      "DefaultIsolation",
		`{"Accelerators":["hax"]}`:                               "Accelerators",
		`{"Rules":[{"Match":{}}]}`:                               "Rules[0].Match",
		`{"Rules":[{"Match":{"Owner":"["}}]}`:                    "Rules[0].Match.Owner",
		`{"Rules":[{"Match":{"Annotation":"a=["}}]}`:             "Rules[0].Match.Annotation",
		`{"Rules":[{"Match":{"Uid":1},"AllowHostPaths":["a"]}]}`: "Rules[0].AllowHostPaths[0]",
		`{"Rules":[{"Match":{"Uid":1},"AllowedIsolation":["LibraryOS"],"DefaultIsolation":"Process"}]}`: "Rules[0].DefaultIsolation",
	} {
		var p hcs.Policy
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		_, err := p.WithDefaults()
		var e *hcs.Error
		if !errors.As(err, &e) || e.Field != field {
			t.Errorf("%s: %v, want %s", text, err, field)
		}
	}
}
