// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
)

// runFlags are the flags of run as people type them.
type runFlags struct {
	detach, stdin, tty, rm bool
	name                   string
	env, envFile           []string
	volume                 []string
	workdir, user          string
	hostname               string
	memory, cpus           string
	pidsLimit              int64
	readOnly               bool
	capAdd, capDrop        []string
	entrypoint             string
	publish                []string
	network, ip, ip6, mac  string
	dns, dnsSearch, alias  []string
	label                  []string
	stopSignal             string
	stopTimeout            int
	isolation, pull        string
	noNewPrivileges        bool
}

func (f *runFlags) register(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.detach, "detach", "d", false, "leave it running and print its name")
	fs.BoolVarP(&f.stdin, "interactive", "i", false, "keep standard input open")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give it a terminal (leave with ctrl-p ctrl-q)")
	fs.BoolVar(&f.rm, "rm", false, "remove it as soon as it ends")
	fs.StringVar(&f.name, "name", "", "name of the system (default: made up)")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE, or NAME to pass on the caller's; repeatable")
	fs.StringArrayVar(&f.envFile, "env-file", nil, "file of NAME=VALUE lines; repeatable")
	fs.StringArrayVarP(&f.volume, "volume", "v", nil, "SRC:DST[:ro], a host path seen inside; repeatable")
	fs.StringVarP(&f.workdir, "workdir", "w", "", "working directory inside")
	fs.StringVarP(&f.user, "user", "u", "", "NAME, UID, UID:GID or NAME:GROUP inside")
	fs.StringVar(&f.hostname, "hostname", "", "host name inside")
	fs.StringVarP(&f.memory, "memory", "m", "", "memory limit, as 256m or 2g")
	fs.StringVar(&f.cpus, "cpus", "", "CPU limit, as 1.5")
	fs.Int64Var(&f.pidsLimit, "pids-limit", 0, "limit of processes and threads (-1: none)")
	fs.BoolVar(&f.readOnly, "read-only", false, "root file system cannot be written")
	fs.StringArrayVar(&f.capAdd, "cap-add", nil, "add a capability, or ALL; repeatable")
	fs.StringArrayVar(&f.capDrop, "cap-drop", nil, "take a capability away, or ALL; repeatable")
	fs.StringVar(&f.entrypoint, "entrypoint", "", "run this instead of the image's entry point")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "HOST:CTR, IP:HOST:CTR or CTR, [/udp|/sctp]; ranges; repeatable")
	fs.StringVar(&f.network, "network", "", "network's name or ID, none, host, or container:NAME (default: the default network)")
	fs.StringVar(&f.ip, "ip", "", "IPv4 address on the network; dhcp = ask the segment's DHCP server")
	fs.StringVar(&f.ip6, "ip6", "", "IPv6 address on the network")
	fs.StringVar(&f.mac, "mac-address", "", "MAC address on the network")
	fs.StringArrayVar(&f.dns, "dns", nil, "DNS server instead of the network's; repeatable")
	fs.StringArrayVar(&f.dnsSearch, "dns-search", nil, "DNS search domain; repeatable")
	fs.StringArrayVar(&f.alias, "network-alias", nil, "one more name on the network; repeatable")
	fs.StringArrayVarP(&f.label, "label", "l", nil, "NAME=VALUE kept with the system; repeatable")
	fs.StringVar(&f.stopSignal, "stop-signal", "", "signal that asks it to stop (default: the image's, then SIGTERM)")
	fs.IntVar(&f.stopTimeout, "stop-timeout", 0, "seconds that stop waits before it kills (default 10)")
	fs.StringVar(&f.isolation, "isolation", "", "process, hypervisor or library-os")
	fs.StringVar(&f.pull, "pull", "missing", "when to pull the image: missing, always or never")
	fs.BoolVar(&f.noNewPrivileges, "no-new-privileges", false, "no program inside gains privileges (set-uid has no effect)")
}

// caller is what turning flags into a document needs to know of the caller.
type caller struct {
	cpus   int
	lookup func(string) (string, bool)
	exists func(string) error
	open   func(string) (*os.File, error)
}

// Annotations that only this door reads.
const annotationStopTimeout = "io.gatehouse.stop-timeout"

// wish is what the flags ask for.
type wish struct {
	Doc hcs.ComputeSystem
	// Endpoint is the endpoint document, without its network; nil when the system
	// gets none of its own.
	Endpoint map[string]any
	// Network is the network's name or ID; "" = the default one.
	Network string
}

// document turns flags, image and command into the create document. It is pure
// but for what caller brings.
func (f *runFlags) document(h caller, image string, args []string) (wish, error) {
	var w wish
	p := &hcs.ProcessParameters{
		ApplicationName:  f.entrypoint,
		CommandArgs:      args,
		User:             f.user,
		WorkingDirectory: f.workdir,
		EmulateConsole:   f.tty,
		CreateStdInPipe:  f.stdin,
		CreateStdOutPipe: true,
		CreateStdErrPipe: !f.tty,
	}
	if f.workdir != "" && !path.IsAbs(f.workdir) {
		return w, fmt.Errorf("-w %q: not an absolute path", f.workdir)
	}
	var err error
	if p.Environment, err = environment(h, f.envFile, f.env); err != nil {
		return w, err
	}
	if len(f.capAdd)+len(f.capDrop) > 0 || f.noNewPrivileges {
		p.Oci = &specs.Process{NoNewPrivileges: f.noNewPrivileges}
		if len(f.capAdd)+len(f.capDrop) > 0 {
			if p.Oci.Capabilities, err = hcs.Capabilities(f.capAdd, f.capDrop); err != nil {
				return w, err
			}
		}
	}
	if f.pidsLimit < -1 {
		return w, fmt.Errorf("--pids-limit %d: must be positive, or -1 for no limit", f.pidsLimit)
	}
	c := &hcs.Container{Image: image, InitProcess: p, PidsLimit: max(0, f.pidsLimit), RootReadOnly: f.readOnly}
	if f.hostname != "" {
		c.GuestOs = &hcs.GuestOs{HostName: f.hostname}
	}
	if f.memory != "" {
		mib, err := parseMiB(f.memory)
		if err != nil {
			return w, err
		}
		c.Memory = &hcs.Memory{SizeInMB: mib}
	}
	if f.cpus != "" {
		max, err := parseCPUs(f.cpus, h.cpus)
		if err != nil {
			return w, err
		}
		c.Processor = &hcs.Processor{Maximum: int64(max)}
	}
	for _, a := range f.volume {
		v, err := parseVolume(a, h.exists)
		if err != nil {
			return w, err
		}
		c.MappedDirectories = append(c.MappedDirectories, hcs.MappedDirectory{HostPath: v.Source, ContainerPath: v.Target, ReadOnly: v.ReadOnly})
	}
	if c.Isolation, err = parseIsolation(f.isolation); err != nil {
		return w, err
	}
	ann, err := f.annotations()
	if err != nil {
		return w, err
	}
	w.Doc = hcs.ComputeSystem{Container: c, Annotations: ann}
	if err := f.networking(&w); err != nil {
		return w, err
	}
	return w, nil
}

func environment(h caller, files, vars []string) (map[string]string, error) {
	env := map[string]string{}
	for _, name := range files {
		r, err := h.open(name)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		m, err := readEnvFile(name, r, h.lookup)
		r.Close()
		if err != nil {
			return nil, err
		}
		for k, v := range m {
			env[k] = v
		}
	}
	for _, a := range vars {
		k, v, set, err := parseEnv(a, h.lookup)
		if err != nil {
			return nil, err
		}
		if set {
			env[k] = v
		}
	}
	if len(env) == 0 {
		return nil, nil
	}
	return env, nil
}

func parseIsolation(s string) (hcs.Isolation, error) {
	switch s {
	case "", "default":
		return "", nil
	case "process":
		return hcs.IsolationProcess, nil
	case "hypervisor", "hyperv":
		return hcs.IsolationHypervisor, nil
	case "library-os":
		return hcs.IsolationLibraryOS, nil
	}
	return "", fmt.Errorf("--isolation %q: none of process, hypervisor, library-os", s)
}

func (f *runFlags) annotations() (map[string]string, error) {
	ann := map[string]string{}
	for _, a := range f.label {
		k, v, err := parseLabel(a)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(k, "io.gatehouse.") {
			return nil, fmt.Errorf("--label %q: names below io.gatehouse. are the daemon's own", a)
		}
		ann[k] = v
	}
	if f.rm {
		ann[hcs.AnnotationRemove] = "true"
	} else {
		ann[hcs.AnnotationKeep] = "true"
	}
	if f.stopSignal != "" {
		if _, err := hcs.ParseSignal(f.stopSignal); err != nil {
			return nil, fmt.Errorf("--stop-signal: %w", err)
		}
		ann[hcs.AnnotationStopSignal] = f.stopSignal
	}
	if f.stopTimeout < 0 {
		return nil, fmt.Errorf("--stop-timeout %d: must not be negative", f.stopTimeout)
	}
	if f.stopTimeout > 0 {
		ann[annotationStopTimeout] = fmt.Sprint(f.stopTimeout)
	}
	return ann, nil
}

// networking fills in how the system is joined to networks.
func (f *runFlags) networking(w *wish) error {
	c := w.Doc.Container
	shared, joins := strings.CutPrefix(f.network, "container:")
	own := !joins && f.network != "none" && f.network != "host"
	if !own {
		for _, x := range []struct {
			flag string
			set  bool
		}{{"-p", len(f.publish) > 0}, {"--ip", f.ip != ""}, {"--ip6", f.ip6 != ""}, {"--mac-address", f.mac != ""}, {"--network-alias", len(f.alias) > 0}} {
			if x.set {
				return fmt.Errorf("%s has no effect with --network %s; leave one of them out", x.flag, f.network)
			}
		}
	}
	switch {
	case joins:
		if err := checkName(shared); err != nil {
			return fmt.Errorf("--network container:NAME: %w", err)
		}
		if f.hostname != "" {
			return errors.New("--hostname cannot be set in another container's network; leave it out")
		}
		c.Networking = &hcs.Networking{NetworkSharedContainerName: shared}
		return nil
	case f.network == "none":
		return nil
	case f.network == "host":
		c.Networking = &hcs.Networking{NetNsPath: hostNetNs}
		return nil
	}
	ep, err := f.endpoint()
	if err != nil {
		return err
	}
	w.Endpoint, w.Network = ep, f.network
	return nil
}

// hostNetNs is resolved by the OCI runtime, which runs in the daemon's network
// namespace: what "host" means, whichever process asks.
const hostNetNs = "/proc/self/ns/net"

// enableDhcp is an endpoint flag of the schema that has no Go name there.
const enableDhcp hcn.EndpointFlags = 32

func (f *runFlags) endpoint() (map[string]any, error) {
	ep := map[string]any{}
	var ips []hcn.IpConfig
	for _, x := range []struct {
		flag, s string
		v4      bool
	}{{"--ip", f.ip, true}, {"--ip6", f.ip6, false}} {
		switch {
		case x.s == "":
			continue
		case x.v4 && strings.EqualFold(x.s, "dhcp"):
			ep["Flags"] = enableDhcp
			continue
		}
		a, err := netip.ParseAddr(x.s)
		if err != nil || a.Is4() != x.v4 || a.Zone() != "" {
			return nil, fmt.Errorf("%s %q: not an address of that family", x.flag, x.s)
		}
		ips = append(ips, hcn.IpConfig{IpAddress: a.String()})
	}
	if ips != nil {
		ep["IpConfigurations"] = ips
	}
	if f.mac != "" {
		hw, err := net.ParseMAC(f.mac)
		if err != nil || len(hw) != 6 {
			return nil, fmt.Errorf("--mac-address %q: write it as 02:42:ac:11:00:02", f.mac)
		}
		if hw[0]&1 != 0 {
			return nil, fmt.Errorf("--mac-address %q: a multicast address cannot be a vNIC's", f.mac)
		}
		ep["MacAddress"] = strings.ToUpper(strings.ReplaceAll(hw.String(), ":", "-"))
	}
	dns := hcn.Dns{Search: f.dnsSearch}
	for _, s := range f.dns {
		if _, err := netip.ParseAddr(s); err != nil {
			return nil, fmt.Errorf("--dns %q: not an IP address", s)
		}
		dns.ServerList = append(dns.ServerList, s)
	}
	if dns.Search != nil || dns.ServerList != nil {
		ep["Dns"] = dns
	}
	if len(f.alias) > 0 {
		ep["AdditionalParams"] = map[string]any{"Aliases": f.alias}
	}
	pol, err := publishPolicies(f.publish)
	if err != nil {
		return nil, err
	}
	if pol != nil {
		ep["Policies"] = pol
	}
	return ep, nil
}

// publishPolicies turns -p into PortMapping policies. Without an address it means
// every address of the host, of both families.
func publishPolicies(args []string) ([]hcn.EndpointPolicy, error) {
	var out []hcn.EndpointPolicy
	for _, a := range args {
		ps, err := parsePublish(a)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			s := hcn.PortMappingPolicySetting{Protocol: p.Proto, InternalPort: p.Port, ExternalPort: p.HostPort}
			if p.HostIP.IsValid() {
				s.VIP = p.HostIP.String()
				if p.HostIP.Is6() {
					s.Flags = hcn.NatFlagsIPv6
				}
			}
			b, err := json.Marshal(s)
			if err != nil {
				return nil, err
			}
			out = append(out, hcn.EndpointPolicy{Type: hcn.PortMapping, Settings: b})
		}
	}
	return out, nil
}
