// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

const minimal = `{"Container":{"Image":"hello","InitProcess":{}}}`

func TestValidate(t *testing.T) {
	c := func(members string) string { return `{"Container":{"Image":"hello","InitProcess":{},` + members + `}}` }
	for _, x := range []struct {
		doc, field string
		code       hcs.Code
	}{
		{minimal, "", 0},
		{`{"SchemaVersion":{"Major":2,"Minor":9},"Container":{"Image":"hello","InitProcess":{}}}`, "", 0},
		{`{"SchemaVersion":{"Major":1,"Minor":0},"Container":{"Image":"hello","InitProcess":{}}}`, "SchemaVersion", hcs.CodeInvalidJSON},
		{`{}`, "Container", hcs.CodeInvalidJSON},
		{`{"Container":{},"VirtualMachine":{}}`, "Container", hcs.CodeInvalidJSON},
		{`{"VirtualMachine":{}}`, "VirtualMachine", hcs.CodeHypervNotInstalled},
		{`{"HostedSystem":{"Container":{}}}`, "HostedSystem", hcs.CodeInvalidJSON},
		{`{"HostingSystemId":"vm","Container":{}}`, "HostingSystemId", hcs.CodeSystemNotFound},
		{`{"Template":"t","Container":{}}`, "Template", hcs.CodeNotSupported},
		{`{"Container":{"Image":"hello"}}`, "Container.InitProcess", hcs.CodeNotSupported},
		{`{"Container":{"InitProcess":{}}}`, "Container.Storage", hcs.CodeInvalidArg},
		{`{"Container":{"InitProcess":{},"Storage":{"Path":"/r"}}}`, "", 0},
		{`{"Annotations":{"io.gatehouse.keep":"yes"},"Container":{"Image":"hello","InitProcess":{}}}`, "Annotations.io.gatehouse.keep", hcs.CodeInvalidArg},
		{`{"Annotations":{"io.gatehouse.keep":"true","io.gatehouse.rm":"true"},"Container":{"Image":"hello","InitProcess":{}}}`, "Annotations.io.gatehouse.keep", hcs.CodeInvalidArg},
		{`{"Annotations":{"org.opencontainers.image.stopSignal":"SIGNO"},"Container":{"Image":"hello","InitProcess":{}}}`, "Annotations.org.opencontainers.image.stopSignal", hcs.CodeInvalidArg},
		{c(`"Isolation":"Hypervisor"`), "Container.Isolation", hcs.CodeHypervNotInstalled},
		{c(`"Isolation":"LibraryOS"`), "Container.Isolation", hcs.CodeNotSupported},
		{c(`"Isolation":"Foo"`), "Container.Isolation", hcs.CodeInvalidJSON},
		{c(`"RegistryChanges":{"a":1}`), "Container.RegistryChanges", hcs.CodeNotSupported},
		{c(`"RegistryChanges":{}`), "", 0},
		{c(`"GuestOs":{"HostName":"a b"}`), "Container.GuestOs.HostName", hcs.CodeInvalidArg},
		{c(`"Storage":{"Layers":[{"Path":"/l"}]}`), "Container.Image", hcs.CodeInvalidJSON},
		{`{"Container":{"InitProcess":{},"Storage":{"Layers":[{"Path":"l"}]}}}`, "Container.Storage.Layers[0].Path", hcs.CodeInvalidArg},
		{`{"Container":{"InitProcess":{},"Storage":{"Layers":[{"Path":"/l","PathType":"VirtualSmbShareName"}]}}}`, "Container.Storage.Layers[0].PathType", hcs.CodeNotSupported},
		{c(`"Storage":{"QoS":{"IopsMaximum":5}}`), "Container.Storage.QoS", hcs.CodeNotSupported},
		{c(`"Storage":{"QoS":{}}`), "", 0},
		{c(`"MappedDirectories":[{"HostPath":"a","ContainerPath":"/b"}]`), "Container.MappedDirectories[0].HostPath", hcs.CodeInvalidArg},
		{c(`"MappedDirectories":[{"HostPath":"/a","ContainerPath":"/x/.."}]`), "Container.MappedDirectories[0].ContainerPath", hcs.CodeInvalidArg},
		{c(`"MappedDirectories":[{"HostPath":"/a","ContainerPath":"/b"},{"HostPath":"/c","ContainerPath":"/b/"}]`), "Container.MappedDirectories[1].ContainerPath", hcs.CodeInvalidArg},
		{c(`"MappedPipes":[{"HostPath":"/a","ContainerPipeName":""}]`), "Container.MappedPipes[0].ContainerPipeName", hcs.CodeInvalidArg},
		{c(`"Memory":{"SizeInMB":5}`), "Container.Memory.SizeInMB", hcs.CodeInvalidArg},
		{c(`"Memory":{"SizeInMB":9000000000000000000}`), "Container.Memory.SizeInMB", hcs.CodeInvalidArg},
		{c(`"Processor":{"Count":1,"Weight":5}`), "Container.Processor", hcs.CodeInvalidJSON},
		{c(`"Processor":{"Maximum":10001}`), "Container.Processor.Maximum", hcs.CodeInvalidArg},
		{c(`"Processor":{"Weight":-1}`), "Container.Processor.Weight", hcs.CodeInvalidArg},
		{c(`"Processor":{"Cpus":"0-1"}`), "", 0},
		{c(`"Processor":{"Cpus":"1-0"}`), "Container.Processor.Cpus", hcs.CodeInvalidArg},
		{c(`"Processor":{"Cpus":"0-7"}`), "Container.Processor.Cpus", hcs.CodeInvalidArg},
		{c(`"PidsLimit":-1`), "Container.PidsLimit", hcs.CodeInvalidArg},
		{c(`"Networking":{"Namespace":"a","NetNsPath":"/b"}`), "Container.Networking", hcs.CodeInvalidJSON},
		{c(`"Networking":{"NetNsPath":"b"}`), "Container.Networking.NetNsPath", hcs.CodeInvalidArg},
		{c(`"Networking":{"NetworkSharedContainerName":"-"}`), "Container.Networking.NetworkSharedContainerName", hcs.CodeInvalidArg},
		{c(`"Networking":{"NetworkAdapters":["x"]}`), "Container.Networking.NetworkAdapters", hcs.CodeNotSupported},
		{c(`"Networking":{"Endpoints":[5]}`), "Container.Networking.Endpoints[0]", hcs.CodeInvalidJSON},
		{c(`"Networking":{"Endpoints":[null]}`), "Container.Networking.Endpoints[0]", hcs.CodeInvalidJSON},
		{c(`"AssignedDevices":[{"LocationPath":"/dev/../etc"}]`), "Container.AssignedDevices[0].LocationPath", hcs.CodeNotSupported},
		{c(`"Oci":{"windows":{}}`), "Container.Oci", hcs.CodeNotSupported},
		{c(`"Oci":{"process":{"user":{},"cwd":"","capabilities":{"bounding":["FOO"]}}}`), "Container.Oci.process.capabilities", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a b","InitProcess":{}}}`, "Container.Image", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a","InitProcess":{"WorkingDirectory":"x"}}}`, "Container.InitProcess.WorkingDirectory", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a","InitProcess":{"User":"a:b:c"}}}`, "Container.InitProcess.User", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a","InitProcess":{"Environment":{"A=B":"c"}}}}`, "Container.InitProcess.Environment", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a","InitProcess":{"CommandLine":"a 'b"}}}`, "Container.InitProcess.CommandLine", hcs.CodeInvalidArg},
		{`{"Container":{"Image":"a","InitProcess":{"CommandArgs":["a\u0000"]}}}`, "Container.InitProcess.CommandArgs[0]", hcs.CodeInvalidArg},
	} {
		var d hcs.ComputeSystem
		if err := json.Unmarshal([]byte(x.doc), &d); err != nil {
			t.Fatalf("%s: %v", x.doc, err)
		}
		err := Validate("web", granted("web", "o", d), Facts{CPUs: 2})
		var e *hcs.Error
		errors.As(err, &e)
		if hcs.CodeOf(err) != x.code || e != nil && e.Field != x.field {
			t.Errorf("%s\n got %v\nwant %s at %s", x.doc, err, x.code.Name(), x.field)
		}
	}
	for id, ok := range map[string]bool{"a": true, "pod1@vm": true, "A.b_c-9": true, "": false, "-a": false, "@a": false, "a b": false, "a/b": false,
		strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "ä": false} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("Id %q: %v", id, err)
		}
	}
}

// No document makes Validate or Compile panic, and what is valid compiles or says why.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"Container":{"Image":"a","Oci":{"mounts":[{"destination":"/x"}],"linux":{"resources":{}}},"InitProcess":{"CommandLine":"a b"},"Networking":{"Endpoints":[{}]}}}`))
	f.Add([]byte(`{"Container":{"Storage":{"Path":"/r"},"Oci":{"process":{"terminal":true,"args":["x"]},"linux":{"namespaces":[{"type":"uts","path":"/x"}]}},"Processor":{"Maximum":1}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d hcs.ComputeSystem
		if json.Unmarshal(raw, &d) != nil {
			return
		}
		d = granted("web", "o", d)
		for _, mode := range []CgroupMode{CgroupV1, CgroupV2} {
			facts := Facts{Cgroup: mode, CPUs: 2, NoSeccomp: true}
			if Validate("web", d, facts) != nil {
				return
			}
			if _, err := Compile(Input{ID: "web", Doc: d, Facts: facts, EtcDir: "/e"}); err != nil && hcs.CodeOf(err) == hcs.CodeUnspecified {
				t.Errorf("%s: %v", raw, err)
			}
		}
	})
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "  a  b ": {"a", "b"}, `'a b' "c d" e\ f`: {"a b", "c d", "e f"}, `""`: {""}, `a''b`: {"ab"}, `"$HOME *"`: {"$HOME *"},
		`"a\"b\\\c"`: {`a"b\\c`}, "a\\\nb": {"ab"}, `'a\b'`: {`a\b`},
	} {
		if got, err := SplitWords(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`'a`, `"a`, `a\`} {
		if got, err := SplitWords(in); err == nil {
			t.Errorf("%q: taken for %q", in, got)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	f.Add(`a "b c" 'd'\ e`)
	f.Fuzz(func(t *testing.T, in string) {
		words, err := SplitWords(in)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		if again, err := SplitWords(strings.Join(quoted, " ")); err != nil || !slices.Equal(again, words) {
			t.Errorf("%q: %q, quoted again %q %v", in, words, again, err)
		}
	})
}

func TestHostName(t *testing.T) {
	for id, want := range map[string]string{
		"web": "web", "happy-rampart-of-many-words": "happy-rampart-of-many-words", "a@b": "a-b",
		"18e05377-96f2-46a5-8636-247cb65f089c": "18e05377-96f",
		strings.Repeat("x", 128):               strings.Repeat("x", 63),
	} {
		if got := hostName(id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0:r:/root:/bin/sh\nweb:x:101:102::/:\n")
	group := []byte("root:x:0:\nweb:x:102:\nadm:x:4:web,root\nwheel:x:10:root\n")
	for in, want := range map[string]struct {
		uid, gid uint32
		more     []uint32
	}{
		"":          {0, 0, []uint32{0, 4, 10}},
		"web":       {101, 102, []uint32{102, 4}},
		"101":       {101, 102, []uint32{102, 4}},
		"7":         {7, 0, []uint32{0}},
		"7:8":       {7, 8, []uint32{8}},
		"web:adm":   {101, 4, []uint32{4}},
		"web:0":     {101, 0, []uint32{0}},
		"root:web":  {0, 102, []uint32{102}},
		"007:00010": {7, 10, []uint32{10}},
	} {
		u, err := ResolveUser(in, passwd, group)
		if err != nil || u.UID != want.uid || u.GID != want.gid || !slices.Equal(u.AdditionalGids, want.more) {
			t.Errorf("%q: %+v %v", in, u, err)
		}
	}
	for _, in := range []string{"nobody", "web:none", ":", "web:", ":5", "a:b:c", "99999999999"} {
		if u, err := ResolveUser(in, passwd, group); err == nil {
			t.Errorf("%q: taken for %+v", in, u)
		}
	}
}

func TestEtc(t *testing.T) {
	h := Hosts("web", "web-1", []string{"10.0.0.2/24", "fd00::2"})
	if !strings.HasPrefix(h, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(h, "10.0.0.2\tweb web-1\nfd00::2\tweb web-1\n") {
		t.Errorf("hosts:\n%s", h)
	}
	r := Resolver{Servers: []string{"10.0.0.1"}, Search: []string{"net"}}.WithSearch("a.b, net")
	if got := r.Text(false); got != "# made by gatehouse\nnameserver 10.0.0.1\nsearch a.b net\noptions ndots:1\n" {
		t.Errorf("resolv.conf:\n%s", got)
	}
	if got := r.Text(true); !strings.Contains(got, "ndots:0") {
		t.Errorf("resolv.conf:\n%s", got)
	}
}

func TestEndpoint(t *testing.T) {
	out, id, err := Endpoint([]byte(`{"HostComputeNetwork":"n","name":""}`), "new", "web")
	if err != nil || id != "new" || string(out) != `{"HostComputeNetwork":"n","ID":"new","Name":"web"}` {
		t.Errorf("%s %s %v", out, id, err)
	}
	out, id, err = Endpoint([]byte(`{"id":"mine","Name":"x"}`), "new", "web")
	if err != nil || id != "mine" || string(out) != `{"Name":"x","id":"mine"}` {
		t.Errorf("%s %s %v", out, id, err)
	}
}
