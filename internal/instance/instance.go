// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package instance names everything one daemon owns on a host, so that it can be
// found without memory and several daemons can run side by side: directories,
// the socket, network devices, pins, cgroups. All follow from the root alone.
package instance

import (
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strconv"
	"strings"
)

// Instance is the set of names of one root. Make it with New.
type Instance struct {
	Root string // "" = the system's own places
	Lib  string // store, images, image layers, scratch
	Run  string // socket, network namespaces, workers; emptied by a reboot
	Pins string // directory on bpffs
	// Socket of the API.
	Socket string
	Config string
	// Tag is three hex digits that stand in every kernel name of this instance.
	Tag string
	// Cgroup is the parent of everything, below each hierarchy's root.
	Cgroup string
	// Block is the index of the shared ingress block of all switch ports.
	Block uint32
}

// New returns the instance of root; "" means /var/lib, /run and /etc.
func New(root string) (Instance, error) {
	if root == "" {
		return Instance{
			Lib: "/var/lib/gatehouse", Run: "/run/gatehouse", Pins: "/sys/fs/bpf/gatehouse",
			Socket: "/run/gatehouse/gatehouse.sock", Config: "/etc/gatehouse/config.toml",
			Tag: "000", Cgroup: "/gatehouse", Block: block(0),
		}, nil
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return Instance{}, fmt.Errorf("root %q: %w", root, err)
	}
	h := fnv.New32a()
	h.Write([]byte(abs))
	n := h.Sum32()%0xfff + 1 // never 000, the default's
	tag := fmt.Sprintf("%03x", n)
	return Instance{
		Root: abs, Lib: filepath.Join(abs, "lib"), Run: filepath.Join(abs, "run"),
		Pins:   "/sys/fs/bpf/gatehouse-" + tag,
		Socket: filepath.Join(abs, "run", "gatehouse.sock"), Config: filepath.Join(abs, "config.toml"),
		Tag: tag, Cgroup: "/gatehouse-" + tag, Block: block(n),
	}, nil
}

// block keeps clear of the small numbers people use by hand: "GH" in the upper half.
func block(n uint32) uint32 { return 0x47480000 | n }

// Store is the database file.
func (i Instance) Store() string { return filepath.Join(i.Lib, "gatehouse.db") }

// UVMImages is the catalogue of utility-VM images.
func (i Instance) UVMImages() string { return filepath.Join(i.Lib, "uvm") }

// MachineUsers is how many users an instance has for utility VMs.
const MachineUsers = 1 << 12

// MachineUser is the n-th user that a utility VM of this instance runs as: each of
// the 4096 tags has its own range from 0x67000000 ("g") on.
func (i Instance) MachineUser(n uint32) uint32 {
	tag, _ := strconv.ParseUint(i.Tag, 16, 12) // three hex digits
	return 0x67000000 | uint32(tag)<<12 | n&(MachineUsers-1)
}

// Device names: gh + tag + role + number in hex, ten bytes, within IFNAMSIZ (16
// with the terminator).

// PortDevice is the host side of the vNIC at port id.
func (i Instance) PortDevice(id uint16) string { return fmt.Sprintf("gh%sp%04x", i.Tag, id) }

// TapDevice is what a virtual machine's monitor opens for the vNIC at port id.
func (i Instance) TapDevice(id uint16) string { return fmt.Sprintf("gh%st%04x", i.Tag, id) }

// AttachedDevice is the vNIC at port id where that is in the host's own namespace.
func (i Instance) AttachedDevice(id uint16) string { return fmt.Sprintf("gh%se%04x", i.Tag, id) }

// ShaperDevice is where what the vNIC at port id sends waits, if that is limited;
// it comes out at ShaperPeer.
func (i Instance) ShaperDevice(id uint16) string { return fmt.Sprintf("gh%sx%04x", i.Tag, id) }

// ShaperPeer as on ShaperDevice.
func (i Instance) ShaperPeer(id uint16) string { return fmt.Sprintf("gh%sy%04x", i.Tag, id) }

// HostDevice carries a network's gateway address in the host's stack.
func (i Instance) HostDevice(network uint16) string { return fmt.Sprintf("gh%sn%04x", i.Tag, network) }

// SwitchDevice is the other end of HostDevice: a port of the switch.
func (i Instance) SwitchDevice(network uint16) string {
	return fmt.Sprintf("gh%ss%04x", i.Tag, network)
}

// TunnelDevice carries overlays by VXLAN on a UDP port.
func (i Instance) TunnelDevice(udp uint16) string { return fmt.Sprintf("gh%sv%04x", i.Tag, udp) }

// AnchorDevice keeps the shared ingress block alive and has forwarding enabled;
// its pair is AnchorPeer. Neither carries traffic.
func (i Instance) AnchorDevice() string { return "gh" + i.Tag + "anchor" }

// AnchorPeer as on AnchorDevice.
func (i Instance) AnchorPeer() string { return "gh" + i.Tag + "anchorp" }

// OwnsDevice reports whether a device name was made by this instance.
func (i Instance) OwnsDevice(name string) bool { return strings.HasPrefix(name, "gh"+i.Tag) }

// NetNs is where the namespace with an HCN id is bind-mounted.
func (i Instance) NetNs(id string) string { return filepath.Join(i.Run, "netns", id) }

// Worker is the directory of the worker of one compute system.
func (i Instance) Worker(runtimeID string) string { return filepath.Join(i.Run, "workers", runtimeID) }

// Scratch is the writable layer and logs of one compute system.
func (i Instance) Scratch(runtimeID string) string {
	return filepath.Join(i.Lib, "scratch", runtimeID)
}
