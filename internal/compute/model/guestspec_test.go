// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

func guestDoc(t *testing.T, doc string) hcs.ComputeSystem {
	t.Helper()
	d, _, err := hcs.Decode[hcs.ComputeSystem]([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return Normalize("web", "uid:0", d)
}

// The machine that a container gets: its size, and which disk is what.
func TestMachineOf(t *testing.T) {
	c := *guestDoc(t, `{"Container":{"Image":"i","InitProcess":{},"Memory":{"SizeInMB":300},"Processor":{"Count":3}}}`).Container
	vm, d, err := MachineOf(c, []string{"/top", "/base"}, "/scratch")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(held.Disks{Layers: []int{1, 2}, Scratch: 3}, d); diff != "" {
		t.Error(diff)
	}
	want := map[string]hcs.Attachment{"1": {Type: "VirtualDisk", Path: "/top", ReadOnly: true}, "2": {Type: "VirtualDisk", Path: "/base", ReadOnly: true},
		"3": {Type: "VirtualDisk", Path: "/scratch"}}
	if diff := cmp.Diff(want, vm.Devices.Scsi["0"].Attachments); diff != "" {
		t.Error(diff)
	}
	if top := vm.ComputeTopology; top.Memory.SizeInMB != 300+guestOverheadMB || top.Processor.Count != 3 {
		t.Errorf("%+v %+v", top.Memory, top.Processor)
	}
	vm.Image = "default"
	if err := ValidateMachine(vm); err != nil {
		t.Error(err)
	}
	if _, _, err := MachineOf(c, make([]string, maxGuestLayers+1), "/s"); hcs.CodeOf(err) != hcs.CodeInvalidLayer {
		t.Errorf("too many layers: %v", err)
	}
}

// Nothing of the host reaches the guest but the generated files, as copies.
func TestGuestSpec(t *testing.T) {
	doc := guestDoc(t, `{"Container":{"Isolation":"Hypervisor","Image":"i","InitProcess":{"CommandArgs":["/x"]},"Processor":{"Weight":50},
		"Memory":{"SizeInMB":64},"Networking":{"Endpoints":[{}]},
		"MappedDirectories":[{"HostPath":"/data","ContainerPath":"/d"},{"HostPath":"/conf","ContainerPath":"/c","ReadOnly":true}]}}`)
	f := Facts{Cgroup: CgroupV1, CPUs: 4, Machines: true, RecursiveReadOnly: true}
	if err := Validate("web", doc, f); err != nil {
		t.Fatal(err)
	}
	s, err := Compile(Input{ID: "web", RuntimeID: "rid", Doc: doc, Facts: GuestFacts(f), NetNsPath: "/run/netns/n", OwnNetNs: true, EtcDir: "/scratch/etc", CgroupPath: "/g/rid"})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Spec.Linux.Namespaces
	out := GuestSpec(s.Spec, "/scratch/etc")
	g, files, netns := out.Spec, out.Files, out.NetNsPath
	if netns != "/run/netns/n" {
		t.Errorf("network namespace %q", netns)
	}
	want := map[string]string{"etc/hosts": "/scratch/etc/hosts", "etc/hostname": "/scratch/etc/hostname", "etc/resolv.conf": "/scratch/etc/resolv.conf"}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]held.Share{{Path: "/data"}, {Path: "/conf", ReadOnly: true}}, out.Shares); diff != "" {
		t.Error(diff)
	}
	for _, m := range g.Mounts {
		if m.Type == "bind" && !strings.HasPrefix(m.Source, guestFiles+"/etc/") && m.Source != map[string]string{"/d": "/m/0", "/c": "/m/1"}[m.Destination] {
			t.Errorf("a mount of the host: %+v", m)
		}
	}
	for _, n := range g.Linux.Namespaces {
		if n.Path != "" {
			t.Errorf("a namespace of the host: %+v", n)
		}
	}
	// The guest's cgroups are version 2, whatever the host's are.
	if g.Linux.CgroupsPath != "" || g.Linux.Resources.Unified["cpu.weight"] != "50" {
		t.Errorf("%q %+v", g.Linux.CgroupsPath, g.Linux.Resources)
	}
	for _, n := range before {
		if n.Type == specs.NetworkNamespace && n.Path == "" {
			t.Error("the host's spec was changed")
		}
	}
}

func TestValidateGuest(t *testing.T) {
	f := Facts{Cgroup: CgroupV2, CPUs: 2, Machines: true}
	with := func(member string) string {
		return `{"Container":{"Isolation":"Hypervisor","Image":"i","InitProcess":{"CommandArgs":["/x"]},` + member + `}}`
	}
	for member, field := range map[string]string{
		`"MappedPipes":[{"ContainerPipeName":"p","HostPath":"/a"}]`:                               "Container.MappedPipes",
		`"AssignedDevices":[{"LocationPath":"/dev/null"}]`:                                        "Container.AssignedDevices",
		`"Storage":{"Path":"/a"}`:                                                                 "Container.Storage.Path",
		`"Processor":{"Cpus":"0"}`:                                                                "Container.Processor.Cpus",
		`"Networking":{"NetworkSharedContainerName":"other"}`:                                     "Container.Networking.NetworkSharedContainerName",
		`"Oci":{"mounts":[{"destination":"/a","type":"bind","source":"/","options":["rslave"]}]}`: "Container.Oci.mounts[0].options",
		`"Oci":{"hooks":{"poststop":[{"path":"/x"}]}}`:                                            "Container.Oci.hooks",
		`"Oci":{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}`:                 "Container.Oci.linux.namespaces[0].path",
		`"Oci":{"linux":{"devices":[{"path":"/dev/a","type":"c"}]}}`:                              "Container.Oci.linux.devices",
	} {
		var e *hcs.Error
		err := Validate("web", guestDoc(t, with(member)), f)
		if !errors.As(err, &e) || e.Field != field || e.Code != hcs.CodeNotSupported {
			t.Errorf("%s: %v, wanted %s", member, err, field)
		}
	}
	var e *hcs.Error
	if err := Validate("web", guestDoc(t, with(`"PidsLimit":9`)), Facts{CPUs: 2}); !errors.As(err, &e) || e.Code != hcs.CodeHypervNotInstalled {
		t.Errorf("a service without machines: %v", err)
	}
}
