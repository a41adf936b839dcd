// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

// What a library OS cannot do is refused with its field, never left out.
func TestLibraryRefuses(t *testing.T) {
	for members, field := range map[string]string{
		``: "",
		`"AssignedDevices":[{"LocationPath":"/dev/null"}]`: "Container.AssignedDevices",
		`"PidsLimit":5`: "Container.PidsLimit",
		`"Networking":{"NetworkSharedContainerName":"x"}`:              "Container.Networking.NetworkSharedContainerName",
		`"Oci":{"linux":{"sysctl":{"net.x":"1"}}}`:                     "Container.Oci.linux.sysctl",
		`"Oci":{"linux":{"seccomp":{"defaultAction":"x"}}}`:            "Container.Oci.linux.seccomp",
		`"Oci":{"linux":{"resources":{"pids":{"limit":5}}}}`:           "Container.Oci.linux.resources.pids",
		`"Oci":{"linux":{"namespaces":[{"type":"pid","path":"/x"}]}}`:  "Container.Oci.linux.namespaces[0].path",
		`"Oci":{"process":{"user":{},"cwd":"","apparmorProfile":"x"}}`: "Container.Oci.process.apparmorProfile",
	} {
		text := `{"Container":{"Image":"a","InitProcess":{},"Isolation":"LibraryOS"`
		if members != "" {
			text += "," + members
		}
		var d hcs.ComputeSystem
		if err := json.Unmarshal([]byte(text+"}}"), &d); err != nil {
			t.Fatal(err)
		}
		d = granted("web", "o", d)
		err := Validate("web", d, Facts{CPUs: 2, LibraryOS: true})
		var e *hcs.Error
		errors.As(err, &e)
		if field == "" && err != nil || field != "" && (e == nil || e.Field != field || e.Code != hcs.CodeNotSupported) {
			t.Errorf("%s: %v, want %q", members, err, field)
		}
		if err := Validate("web", d, Facts{CPUs: 2}); hcs.CodeOf(err) != hcs.CodeNotSupported {
			t.Errorf("without the runtime: %v", err)
		}
	}
}

// Its spec has nothing that the runtime would leave out in silence.
func TestLibraryCompiles(t *testing.T) {
	d := granted("web", "o", hcs.ComputeSystem{Container: &hcs.Container{Image: "a", Isolation: hcs.IsolationLibraryOS,
		InitProcess:       &hcs.ProcessParameters{CommandArgs: []string{"x"}},
		MappedDirectories: []hcs.MappedDirectory{{HostPath: "/a", ContainerPath: "/b", ReadOnly: true}}}})
	s, err := Compile(Input{ID: "web", Doc: d, Facts: Facts{Cgroup: CgroupV1, CPUs: 2, LibraryOS: true, RecursiveReadOnly: true}, NetNsPath: "/n", OwnNetNs: true})
	if err != nil {
		t.Fatal(err)
	}
	last := s.Spec.Mounts[len(s.Spec.Mounts)-1]
	if s.Spec.Linux.Seccomp != nil || s.Spec.Linux.Sysctl != nil || last.Options[2] != "ro" {
		t.Errorf("seccomp %v, sysctl %v, mount %v", s.Spec.Linux.Seccomp, s.Spec.Linux.Sysctl, last)
	}
}
