// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/guest/modules"
	"gatehouse.dev/gatehouse/internal/guest/nic"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// nets are the files that tell programs of their network, one directory for each
// network: the machine's own and that of each container which has one.
type nets struct{ modules *loader }

// netDir has resolv.conf, hosts and hostname of the network of id.
func netDir(id string) string { return filepath.Join("/run/gatehouse/net", id) }

func (a *Agent) addNetwork(q proto.NetworkRequest) (any, error) {
	if err := a.modules.load(modules.Net); err != nil {
		return nil, err
	}
	fd, err := a.networkOf(q.ContainerId)
	if err != nil {
		return nil, err
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err := nic.Add(fd, q.Network); err != nil {
		return nil, err
	}
	return nil, a.nets.write(q.ContainerId, q.Network)
}

func (a *Agent) removeNetwork(q proto.NetworkRequest) (any, error) {
	fd, err := a.networkOf(q.ContainerId)
	if err != nil {
		return nil, err
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	return nil, nic.Remove(fd, q.Network.MacAddress)
}

// networkOf is a descriptor of a container's network, -1 for the machine's.
func (a *Agent) networkOf(id string) (int, error) {
	if id == proto.VM {
		return -1, nil
	}
	c, err := a.container(id)
	if err != nil {
		return -1, err
	}
	return c.network()
}

// write tells programs; files that are mounted in containers keep their inode.
func (n *nets) write(id string, doc proto.Network) error {
	dir := netDir(id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	put := func(name, text string) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if d := doc.Dns; d != nil {
		put("resolv.conf", resolvConf(*d))
	}
	if doc.HostName != "" || len(doc.Hosts) > 0 {
		put("hosts", hosts(doc))
	}
	if doc.HostName != "" {
		put("hostname", doc.HostName+"\n")
	}
	if id == proto.VM && doc.Dns != nil {
		errs = append(errs, os.WriteFile("/etc/resolv.conf", []byte(resolvConf(*doc.Dns)), 0o644))
	}
	return errors.Join(errs...)
}

func resolvConf(d proto.Dns) string {
	var b strings.Builder
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Search, " "))
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String()
}

const localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

func hosts(n proto.Network) string {
	var b strings.Builder
	b.WriteString(localhost)
	if n.HostName != "" {
		for _, a := range n.Addresses {
			ip, _, _ := strings.Cut(a, "/")
			fmt.Fprintf(&b, "%s\t%s\n", ip, n.HostName)
		}
	}
	for _, h := range n.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Names, " "))
	}
	return b.String()
}

// files adds the three files to a container's mounts where its spec has none.
func (n *nets) files(spec *specs.Spec, cfg proto.ContainerConfig) error {
	owner := cfg.NamespaceId
	if owner == "" {
		owner = cfg.Id
	}
	dir := netDir(owner)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	spec.Mounts = slices.Clone(spec.Mounts)
	for name, text := range map[string]string{"resolv.conf": "", "hosts": localhost, "hostname": spec.Hostname + "\n"} {
		dest := "/etc/" + name
		if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == dest }) {
			continue
		}
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: path, Options: []string{"bind", "rprivate"}})
	}
	return nil
}

// forget removes the files of a container's network.
func (n *nets) forget(id string) error { return os.RemoveAll(netDir(id)) }
