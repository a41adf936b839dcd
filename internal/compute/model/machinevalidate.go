// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
)

// minVMMemoryMB: below it the guest's kernel and agent do not come up.
const minVMMemoryMB = 128

// ValidateMachine checks a VirtualMachine document. Errors are *hcs.Error with Field.
func ValidateMachine(vm hcs.VirtualMachine) error {
	if set(vm.RegistryChanges) {
		return refuse("VirtualMachine.RegistryChanges", "has no counterpart on Linux")
	}
	if vm.RestoreState != nil {
		return refuse("VirtualMachine.RestoreState", "saved machines are not here yet")
	}
	for _, check := range []func(hcs.VirtualMachine) error{chipset, topology, machineDevices, disks, vnics} {
		if err := check(vm); err != nil {
			return err
		}
	}
	return nil
}

// set: a member that is kept raw asks for something.
func set(raw []byte) bool {
	return !slices.Contains([]string{"", "null", "{}", "[]"}, strings.TrimSpace(string(raw)))
}

func chipset(vm hcs.VirtualMachine) error {
	if strings.ContainsAny(vm.Image, "/ \t\n\x00") || strings.HasPrefix(vm.Image, ".") {
		return invalid("VirtualMachine.Image", "%q: not the name of a utility-VM image; list with: gatehouse uvm ls", vm.Image)
	}
	c := vm.Chipset
	if c == nil {
		return nil
	}
	if set(c.Uefi) {
		return refuse("VirtualMachine.Chipset.Uefi", "machines boot a kernel directly; give LinuxKernelDirect or Image")
	}
	if k := c.LinuxKernelDirect; k != nil {
		const field = "VirtualMachine.Chipset.LinuxKernelDirect."
		for name, p := range map[string]string{"KernelFilePath": k.KernelFilePath, "InitRdPath": k.InitRdPath} {
			if p == "" {
				continue
			}
			if err := absolute(field+name, p); err != nil {
				return err
			}
		}
		if k.KernelFilePath == "" && k.InitRdPath != "" {
			return invalid(field+"InitRdPath", "is of no use without KernelFilePath")
		}
		if strings.ContainsAny(k.KernelCmdLine, "\x00\n") {
			return invalid(field+"KernelCmdLine", "has a newline or a zero byte")
		}
	}
	return nil
}

func topology(vm hcs.VirtualMachine) error {
	t := vm.ComputeTopology
	if t == nil {
		return nil
	}
	if m := t.Memory; m != nil {
		const field = "VirtualMachine.ComputeTopology.Memory."
		if m.SizeInMB != 0 && (m.SizeInMB < minVMMemoryMB || m.SizeInMB > maxMemoryMB) {
			return invalid(field+"SizeInMB", "%d: at least %d are wanted", m.SizeInMB, minVMMemoryMB)
		}
		if b := m.BackingPageSize; b != "" && b != "Small" && b != "Large" {
			return badJSON(field+"BackingPageSize", "%q: neither Small nor Large", b)
		}
	}
	if p := t.Processor; p != nil {
		const field = "VirtualMachine.ComputeTopology.Processor."
		if p.Limit > 100_000 {
			return invalid(field+"Limit", "%d: not within 1 and 100000", p.Limit)
		}
		if p.Weight > 10_000 {
			return invalid(field+"Weight", "%d: not within 1 and 10000", p.Weight)
		}
		if p.ExposeVirtualizationExtensions {
			return refuse(field+"ExposeVirtualizationExtensions", "machines within machines are not here")
		}
	}
	return nil
}

func machineDevices(vm hcs.VirtualMachine) error {
	d := vm.Devices
	if d == nil {
		return nil
	}
	for name, raw := range map[string][]byte{"VirtualPci": d.VirtualPci, "VideoMonitor": d.VideoMonitor,
		"EnhancedModeVideo": d.EnhancedModeVideo, "VirtualSmb": d.VirtualSmb, "SharedMemory": d.SharedMemory, "FlexibleIov": d.FlexibleIov} {
		if set(raw) {
			return refuse("VirtualMachine.Devices."+name, "has no counterpart here")
		}
	}
	if len(d.ComPorts) > 0 {
		return refuse("VirtualMachine.Devices.ComPorts", "the one serial port is the machine's log, kept by its worker")
	}
	if d.VirtioSerial != nil && len(d.VirtioSerial.Ports) > 0 {
		return refuse("VirtualMachine.Devices.VirtioSerial.Ports", "further channels are not here yet")
	}
	if d.Plan9 != nil && len(d.Plan9.Shares) > 0 {
		return refuse("VirtualMachine.Devices.Plan9.Shares", "shares are not here yet")
	}
	if d.VirtioFs != nil && len(d.VirtioFs.Shares) > 0 {
		return refuse("VirtualMachine.Devices.VirtioFs.Shares", "shares are not here yet")
	}
	return nil
}

func disks(vm hcs.VirtualMachine) error {
	d := vm.Devices
	if d == nil {
		return nil
	}
	if len(d.Scsi) > maxControllers {
		return invalid("VirtualMachine.Devices.Scsi", "%d controllers, over %d", len(d.Scsi), maxControllers)
	}
	names := slices.Sorted(maps.Keys(d.Scsi))
	for c, name := range names {
		for _, key := range slices.Sorted(maps.Keys(d.Scsi[name].Attachments)) {
			a := d.Scsi[name].Attachments[key]
			field := fmt.Sprintf("VirtualMachine.Devices.Scsi.%s.Attachments.%s", name, key)
			lun, err := index(key)
			if err != nil || lun >= maxLUNs {
				return badJSON(field, "%q: a LUN is a number from 0 to %d", key, maxLUNs-1)
			}
			if c == 0 && lun == toolsLUN && vm.Image != "" {
				return invalid(field, "LUN %d of the first controller is the image's own disk", toolsLUN)
			}
			if err := Attachment(field+".", a); err != nil {
				return err
			}
		}
	}
	if p := d.VirtualPMem; p != nil {
		for key, dev := range p.Devices {
			field := "VirtualMachine.Devices.VirtualPMem.Devices." + key
			if n, err := index(key); err != nil || n > 7 {
				return badJSON(field, "%q: a device is a number from 0 to 7", key)
			}
			if dev.ImageFormat != "" && dev.ImageFormat != "Default" {
				return refuse(field+".ImageFormat", "%q: only raw files are known", dev.ImageFormat)
			}
			if set(dev.Mappings) {
				return refuse(field+".Mappings", "a device is one file")
			}
			if err := absolute(field+".HostPath", dev.HostPath); err != nil {
				return err
			}
		}
	}
	return nil
}

// Attachment checks a disk; prefix is that of the field names.
func Attachment(prefix string, a hcs.Attachment) error {
	if !slices.Contains([]string{"", "VirtualDisk", "Iso", "PassThru"}, a.Type) {
		return badJSON(prefix+"Type", "%q: none of VirtualDisk, Iso, PassThru", a.Type)
	}
	if !slices.Contains([]string{"", "Uncached", "Cached", "ReadOnlyCached"}, a.CachingMode) {
		return badJSON(prefix+"CachingMode", "%q: none of Uncached, Cached, ReadOnlyCached", a.CachingMode)
	}
	if err := absolute(prefix+"Path", a.Path); err != nil {
		return err
	}
	if a.Type == "PassThru" && !strings.HasPrefix(path.Clean(a.Path), "/dev/") {
		return invalid(prefix+"Path", "%q: PassThru wants a device below /dev", a.Path)
	}
	return nil
}

// index reads a key that is a number, in its one spelling.
func index(key string) (int, error) {
	n, err := strconv.ParseUint(key, 10, 31)
	if err == nil && strconv.FormatUint(n, 10) != key {
		err = strconv.ErrSyntax
	}
	return int(n), err
}

func vnics(vm hcs.VirtualMachine) error {
	if vm.Devices == nil {
		return nil
	}
	if n := len(vm.Devices.NetworkAdapters); n > maxEndpoints/2 {
		return invalid("VirtualMachine.Devices.NetworkAdapters", "%d adapters, over %d", n, maxEndpoints/2)
	}
	for name, a := range vm.Devices.NetworkAdapters {
		field := "VirtualMachine.Devices.NetworkAdapters." + name + "."
		if a.Placeholder {
			return refuse(field+"Placeholder", "vNICs cannot be added later yet")
		}
		if set(a.IovSettings) {
			return refuse(field+"IovSettings", "has no counterpart here")
		}
		if a.EndpointId == "" {
			return invalid(field+"EndpointId", "is empty; name the endpoint that the vNIC is plugged into")
		}
		if a.MacAddress == "" {
			continue
		}
		if _, err := net.ParseMAC(a.MacAddress); err != nil {
			return invalid(field+"MacAddress", "%q: not a MAC address", a.MacAddress)
		}
	}
	return nil
}
