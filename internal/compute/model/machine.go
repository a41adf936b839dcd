// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

const (
	// defaultVMMemoryMB of a machine whose document names no size.
	defaultVMMemoryMB = 512
	// firstMachineFD is the first descriptor after stdin, stdout and stderr.
	firstMachineFD = 3
	// maxControllers of SCSI, as in hcsshim; QEMU's microvm has room for them
	// beside everything else (24 devices with acpi=on).
	maxControllers = 4
	maxLUNs        = 64
	// toolsLUN on the first controller is the image's own disk.
	toolsLUN = 0
	// AgentPort is the name of the serial port that the agent talks through, fixed
	// by the guest protocol.
	AgentPort = "gatehouse.agent.0"
)

// VMImage is an entry of the catalogue of utility-VM images, its files as
// absolute paths.
type VMImage struct {
	Name   string
	Kernel string
	Initrd string
	Tools  string // a disk for the agent; "" = none
	// Cmdline is what this kernel needs on every host; "" = what every one needs.
	Cmdline string
}

// MachineInput is everything a virtual machine follows from.
type MachineInput struct {
	RuntimeID string
	VM        hcs.VirtualMachine // valid
	Image     VMImage            // of VM.Image; zero for a machine that names its kernel
	Facts     Facts
	// QEMU is the program's path, Accelerator what it uses, UID its user.
	QEMU        string
	Accelerator string
	UID         uint32
	// Taps by the names of VM.Devices.NetworkAdapters.
	Taps map[string]Tap
	// Scratch is the path of the disk that need not outlive a crash of the host.
	Scratch string
}

// Tap is where a vNIC is plugged in.
type Tap struct {
	Device string // with vnet_hdr, in the host's namespace
	MAC    net.HardwareAddr
	MTU    int // 0 = the guest's own default
}

// machine under construction.
type machine struct {
	in  MachineInput
	out held.Machine
}

func (m *machine) add(args ...string) { m.out.Args = append(m.out.Args, args...) }

// file adds a descriptor and returns its number.
func (m *machine) file(f held.MachineFile) int {
	m.out.Files = append(m.out.Files, f)
	return firstMachineFD + len(m.out.Files) - 1
}

// CompileMachine turns a VirtualMachine document into QEMU's command line and the
// descriptors that go with it.
func CompileMachine(in MachineInput) held.Machine {
	m := &machine{in: in}
	o := &m.out
	o.QEMU, o.Accelerator, o.UID, o.Agent = in.QEMU, in.Accelerator, in.UID, in.VM.GuestConnection != nil
	o.MemoryMB, o.Processors = vmMemory(in.VM), vmProcessors(in)
	m.board()
	m.boot()
	m.channels()
	m.disks()
	m.adapters()
	m.add("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng0")
	m.add("-device", "virtio-balloon-device,id=bal0,deflate-on-oom=on,free-page-reporting=on")
	m.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-msg", "timestamp=on")
	m.limits()
	return m.out
}

// board has the machine without its devices (hcs.md §3.3 says what each is for).
func (m *machine) board() {
	o := &m.out
	timer := ""
	if m.in.Facts.TSCKHz > 0 { // else the guest measures its clock with it
		timer = "pit=off,"
	}
	m.add("-name", "gh-"+m.in.RuntimeID, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-action", "panic=exit-failure",
		"-M", "microvm,acpi=on,"+timer+"pic=off,rtc=on,isa-serial=on,memory-backend=mem0")
	accel, cpu := "kvm", "host"
	if o.Accelerator != held.AcceleratorKVM {
		accel, cpu = "tcg,thread=multi", "max"
	} else if p := m.processor(); p.EnablePerfmonPmu {
		cpu += ",pmu=on"
	}
	memory := fmt.Sprintf("memory-backend-memfd,id=mem0,size=%dM,share=on", o.MemoryMB)
	t := hcs.VMMemory{}
	if top := m.in.VM.ComputeTopology; top != nil && top.Memory != nil {
		t = *top.Memory
	}
	if t.BackingPageSize == "Large" {
		memory += ",hugetlb=on"
	}
	if !t.AllowOvercommit {
		memory += ",prealloc=on"
	}
	n := strconv.FormatUint(uint64(o.Processors), 10)
	m.add("-accel", accel, "-cpu", cpu, "-smp", n+",maxcpus="+n, "-m", strconv.FormatUint(o.MemoryMB, 10),
		"-object", memory, "-global", "virtio-mmio.force-legacy=false")
}

// boot names kernel, initrd and the kernel's command line: ours first, the
// caller's last.
func (m *machine) boot() {
	o := &m.out
	k := hcs.LinuxKernelDirect{KernelFilePath: m.in.Image.Kernel, InitRdPath: m.in.Image.Initrd}
	if c := m.in.VM.Chipset; c != nil && c.LinuxKernelDirect != nil {
		d := c.LinuxKernelDirect
		if d.KernelFilePath != "" {
			k = *d
		}
		k.KernelCmdLine = d.KernelCmdLine
	}
	o.Kernel, o.Initrd = k.KernelFilePath, k.InitRdPath
	m.add("-kernel", held.MachineKernel)
	if o.Initrd != "" {
		m.add("-initrd", held.MachineInitrd)
	}
	// Without tsc=reliable a busy host drops the clock, and without tsc_early_khz one
	// emulated boot in five hangs.
	line := strings.TrimSpace(m.in.Image.Cmdline)
	if line == "" {
		line = "console=ttyS0 quiet panic=-1 random.trust_cpu=on reboot=t tsc=reliable"
	}
	if khz := m.in.Facts.TSCKHz; khz > 0 {
		line += fmt.Sprintf(" tsc_early_khz=%d", khz)
	}
	line += fmt.Sprintf(" nr_cpus=%d", o.Processors)
	if more := strings.TrimSpace(k.KernelCmdLine); more != "" {
		line += " " + more
	}
	m.add("-append", line)
}

// channels: the serial log, the agent's port, QMP, and the guest's panic.
func (m *machine) channels() {
	socket := func(id string, r held.MachineRole) {
		m.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, m.file(held.MachineFile{Role: r})))
	}
	socket("con0", held.RoleSerial)
	m.add("-serial", "chardev:con0", "-device", "pvpanic")
	socket("qmp0", held.RoleQMP)
	m.add("-mon", "chardev=qmp0,mode=control")
	if m.out.Agent {
		m.add("-device", "virtio-serial-device,id=vs0,max_ports=32")
		socket("ag0", held.RoleAgent)
		m.add("-device", "virtserialport,bus=vs0.0,nr=1,chardev=ag0,name="+AgentPort)
	}
}

// disks: the image's tools, SCSI controllers with their LUNs, and what stands for
// persistent memory.
func (m *machine) disks() {
	d := hcs.Devices{}
	if m.in.VM.Devices != nil {
		d = *m.in.VM.Devices
	}
	if q := m.in.VM.StorageQoS; q != nil && (q.IopsMaximum > 0 || q.BandwidthMaximum > 0) {
		o := "throttle-group,id=qos0"
		if q.IopsMaximum > 0 {
			o += fmt.Sprintf(",x-iops-total=%d", q.IopsMaximum)
		}
		if q.BandwidthMaximum > 0 {
			o += fmt.Sprintf(",x-bps-total=%d", q.BandwidthMaximum)
		}
		m.add("-object", o)
	}
	names := slices.Sorted(maps.Keys(d.Scsi))
	if len(names) == 0 && (m.in.Image.Tools != "" || m.out.Agent) {
		names = []string{"0"} // for what is added while it runs
	}
	for c, name := range names {
		m.add("-device", fmt.Sprintf("virtio-scsi-device,id=scsi%d", c))
		if c == 0 && m.in.Image.Tools != "" {
			node := m.block("tools", hcs.Attachment{Path: m.in.Image.Tools, ReadOnly: true})
			m.add("-device", fmt.Sprintf("scsi-hd,bus=scsi0.0,scsi-id=0,channel=0,lun=%d,drive=%s", toolsLUN, node))
		}
		for _, lun := range numbers(d.Scsi[name].Attachments) {
			a := d.Scsi[name].Attachments[strconv.Itoa(lun)]
			kind := "scsi-hd"
			if a.Type == "Iso" {
				kind, a.ReadOnly = "scsi-cd", true
			}
			node := m.block(fmt.Sprintf("disk%d-%d", c, lun), a)
			m.add("-device", fmt.Sprintf("%s,bus=scsi%d.0,scsi-id=0,channel=0,lun=%d,drive=%s,id=%s", kind, c, lun, node, MachineDisk(c, lun)))
		}
	}
	if p := d.VirtualPMem; p != nil {
		for _, n := range numbers(p.Devices) {
			dev := p.Devices[strconv.Itoa(n)]
			node := m.block(fmt.Sprintf("pmem%d", n), hcs.Attachment{Path: dev.HostPath, ReadOnly: dev.ReadOnly})
			m.add("-device", fmt.Sprintf("virtio-blk-device,drive=%s,id=pmemdev%d", node, n))
		}
	}
}

// MachineDisk is the id of the device at a LUN.
func MachineDisk(controller, lun int) string { return fmt.Sprintf("lun%d-%d", controller, lun) }

// block adds a file as a block node and returns the node's name.
func (m *machine) block(node string, a hcs.Attachment) string {
	fd := m.file(held.MachineFile{Role: held.RoleDisk, Path: a.Path, ReadOnly: a.ReadOnly})
	m.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd))
	driver := "file"
	if a.Type == "PassThru" {
		driver = "host_device"
	}
	m.add("-blockdev", blockdev(driver, node, fmt.Sprintf("/dev/fdset/%d", fd), a, m.in.Scratch != "" && m.in.Scratch == a.Path))
	if q := m.in.VM.StorageQoS; q == nil || q.IopsMaximum == 0 && q.BandwidthMaximum == 0 {
		return node
	}
	m.add("-blockdev", fmt.Sprintf("driver=throttle,node-name=%s-qos,throttle-group=qos0,file=%s", node, node))
	return node + "-qos"
}

// blockdev describes a file; nothing waits for the disk of a scratch.
func blockdev(driver, node, file string, a hcs.Attachment, scratch bool) string {
	s := fmt.Sprintf("driver=%s,node-name=%s,filename=%s,auto-read-only=off", driver, node, file)
	if a.ReadOnly {
		s += ",read-only=on"
	} else if a.Type != "PassThru" {
		s += ",discard=unmap,detect-zeroes=unmap"
	}
	if scratch {
		s += ",cache.no-flush=on"
	}
	if a.CachingMode == "Uncached" {
		s += ",cache.direct=on"
	}
	return s
}

// numbers are the keys of a map in the order of the numbers that they are.
func numbers[T any](m map[string]T) []int {
	out := make([]int, 0, len(m))
	for k := range m {
		n, err := strconv.Atoi(k)
		if err == nil { // it was validated
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// adapters: each vNIC on a tap that the vSwitch has as a port.
func (m *machine) adapters() {
	if m.in.VM.Devices == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m.in.VM.Devices.NetworkAdapters)) {
		t := m.in.Taps[name]
		m.out.NICs = append(m.out.NICs, held.MachineNIC{Tap: t.Device, MAC: t.MAC.String(), MTU: t.MTU})
	}
}

func (m *machine) processor() hcs.VMProcessor {
	if t := m.in.VM.ComputeTopology; t != nil && t.Processor != nil {
		return *t.Processor
	}
	return hcs.VMProcessor{}
}

// limits of the cgroup that QEMU runs in.
func (m *machine) limits() {
	p := m.processor()
	if p.Limit > 0 {
		q, per := quota(int64(p.Limit)*int64(m.out.Processors)*period/100_000, period)
		m.out.QuotaMicros, m.out.PeriodMicros = *q, *per
	}
	m.out.Weight = p.Weight
}

func vmMemory(vm hcs.VirtualMachine) uint64 {
	if t := vm.ComputeTopology; t != nil && t.Memory != nil && t.Memory.SizeInMB > 0 {
		return t.Memory.SizeInMB
	}
	return defaultVMMemoryMB
}

// vmProcessors: two, as in hcsshim, but one where they are emulated, because that
// boots sooner; never more than the host has.
func vmProcessors(in MachineInput) uint32 {
	host := uint32(max(in.Facts.CPUs, 1))
	n := uint32(2)
	if in.Accelerator != held.AcceleratorKVM {
		n = 1
	}
	if t := in.VM.ComputeTopology; t != nil && t.Processor != nil && t.Processor.Count > 0 {
		n = t.Processor.Count
	}
	return min(n, host)
}
