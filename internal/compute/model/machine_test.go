// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

// Each member of a VirtualMachine document as QEMU is told of it.
func TestCompileMachine(t *testing.T) {
	files, err := filepath.Glob("testdata/machine/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var in struct {
				Accelerator string
				Image       VMImage
				Facts       Facts
			}
			if err := json.Unmarshal(a.Files[1].Data, &in); err != nil {
				t.Fatal(err)
			}
			vm, ignored, err := hcs.Decode[hcs.VirtualMachine](a.Files[0].Data)
			if err != nil || len(ignored) > 0 {
				t.Fatalf("%v, ignored %v", err, ignored)
			}
			if err := ValidateMachine(vm); err != nil {
				t.Fatal(err)
			}
			taps := map[string]Tap{}
			if vm.Devices != nil {
				for n, a := range vm.Devices.NetworkAdapters {
					mac, _ := net.ParseMAC(a.MacAddress)
					taps[n] = Tap{Device: "gh000t-" + n, MAC: mac, MTU: 1450}
				}
			}
			m := CompileMachine(MachineInput{RuntimeID: "rid", VM: vm, Image: in.Image, Facts: in.Facts, QEMU: "/usr/bin/qemu-system-x86_64",
				Accelerator: in.Accelerator, UID: 7000, Taps: taps, Scratch: "/lib/scratch/rid/disk"})
			got := []byte(machineText(m))
			goldenPart(t, name, a, "machine", got)
		})
	}
}

// machineText prints an option and its value a line.
func machineText(m held.Machine) string {
	var b strings.Builder
	fmt.Fprintln(&b, m.QEMU)
	for i := 0; i < len(m.Args); i++ {
		b.WriteString(" " + m.Args[i])
		if i+1 < len(m.Args) && !strings.HasPrefix(m.Args[i+1], "-") {
			i++
			b.WriteString(" " + m.Args[i])
		}
		b.WriteByte('\n')
	}
	for i, f := range m.Files {
		fmt.Fprintf(&b, "fd %d: %s %s", firstMachineFD+i, f.Role, f.Path)
		if f.ReadOnly {
			b.WriteString(" read-only")
		}
		b.WriteByte('\n')
	}
	m.Args, m.Files = nil, nil
	rest, _ := json.Marshal(m)
	return strings.ReplaceAll(b.String(), " \n", "\n") + string(rest) + "\n"
}

func TestValidateMachine(t *testing.T) {
	for _, c := range []struct {
		doc, field string
		code       hcs.Code
	}{
		{`{}`, "", 0},
		{`{"StopOnReset":true,"Version":{"Major":9},"Services":{"x":1},"GuestState":{},"Devices":{"Battery":{},"Keyboard":{},"Mouse":{},"HvSocket":{}}}`, "", 0},
		{`{"Image":"../x"}`, "VirtualMachine.Image", hcs.CodeInvalidArg},
		{`{"Chipset":{"Uefi":{"Console":"x"}}}`, "VirtualMachine.Chipset.Uefi", hcs.CodeNotSupported},
		{`{"Chipset":{"LinuxKernelDirect":{"KernelFilePath":"k"}}}`, "VirtualMachine.Chipset.LinuxKernelDirect.KernelFilePath", hcs.CodeInvalidArg},
		{`{"Chipset":{"LinuxKernelDirect":{"InitRdPath":"/k"}}}`, "VirtualMachine.Chipset.LinuxKernelDirect.InitRdPath", hcs.CodeInvalidArg},
		{`{"ComputeTopology":{"Memory":{"SizeInMB":64}}}`, "VirtualMachine.ComputeTopology.Memory.SizeInMB", hcs.CodeInvalidArg},
		{`{"ComputeTopology":{"Memory":{"BackingPageSize":"Huge"}}}`, "VirtualMachine.ComputeTopology.Memory.BackingPageSize", hcs.CodeInvalidJSON},
		{`{"ComputeTopology":{"Processor":{"Limit":100001}}}`, "VirtualMachine.ComputeTopology.Processor.Limit", hcs.CodeInvalidArg},
		{`{"ComputeTopology":{"Processor":{"ExposeVirtualizationExtensions":true}}}`, "VirtualMachine.ComputeTopology.Processor.ExposeVirtualizationExtensions", hcs.CodeNotSupported},
		{`{"Devices":{"VideoMonitor":{"x":1}}}`, "VirtualMachine.Devices.VideoMonitor", hcs.CodeNotSupported},
		{`{"Devices":{"ComPorts":{"0":{"NamedPipe":"/x"}}}}`, "VirtualMachine.Devices.ComPorts", hcs.CodeNotSupported},
		{`{"Devices":{"Scsi":{"0":{"Attachments":{"64":{"Path":"/a"}}}}}}`, "VirtualMachine.Devices.Scsi.0.Attachments.64", hcs.CodeInvalidJSON},
		{`{"Devices":{"Scsi":{"0":{"Attachments":{"01":{"Path":"/a"}}}}}}`, "VirtualMachine.Devices.Scsi.0.Attachments.01", hcs.CodeInvalidJSON},
		{`{"Image":"d","Devices":{"Scsi":{"0":{"Attachments":{"0":{"Path":"/a"}}}}}}`, "VirtualMachine.Devices.Scsi.0.Attachments.0", hcs.CodeInvalidArg},
		{`{"Devices":{"Scsi":{"0":{"Attachments":{"1":{"Type":"PassThru","Path":"/etc/passwd"}}}}}}`, "VirtualMachine.Devices.Scsi.0.Attachments.1.Path", hcs.CodeInvalidArg},
		{`{"Devices":{"Scsi":{"0":{},"1":{},"2":{},"3":{},"4":{}}}}`, "VirtualMachine.Devices.Scsi", hcs.CodeInvalidArg},
		{`{"Devices":{"NetworkAdapters":{"eth0":{}}}}`, "VirtualMachine.Devices.NetworkAdapters.eth0.EndpointId", hcs.CodeInvalidArg},
		{`{"Devices":{"NetworkAdapters":{"eth0":{"Placeholder":true}}}}`, "VirtualMachine.Devices.NetworkAdapters.eth0.Placeholder", hcs.CodeNotSupported},
		{`{"RestoreState":{"TemplateSystemId":"a"}}`, "VirtualMachine.RestoreState", hcs.CodeNotSupported},
		{`{"RegistryChanges":{"a":1}}`, "VirtualMachine.RegistryChanges", hcs.CodeNotSupported},
	} {
		vm, _, err := hcs.Decode[hcs.VirtualMachine]([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		err = ValidateMachine(vm)
		if c.code == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.doc, err)
			}
			continue
		}
		var e *hcs.Error
		if !errors.As(err, &e) || e.Field != c.field || e.Code != c.code {
			t.Errorf("%s: %v, wanted %s at %s", c.doc, err, c.code, c.field)
		}
	}
}
