// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package config reads the daemon's configuration file. A file that is absent is
// the default; a key that is unknown or a value that is wrong is refused with its
// line, because a setting that is silently ignored is worse than none.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"strings"

	"github.com/BurntSushi/toml"

	"gatehouse.dev/gatehouse/hcs"
)

// Config is the file. The zero value of every field is its default.
type Config struct {
	// Socket overrides the API socket's path.
	Socket string `toml:"socket"`
	// SocketGroup may use the socket besides root. Default gatehouse, if it exists.
	SocketGroup string   `toml:"socket_group"`
	Log         Log      `toml:"log"`
	Compute     Compute  `toml:"compute"`
	Network     Network  `toml:"network"`
	Publish     Publish  `toml:"publish"`
	Services    Services `toml:"services"`
	DNS         DNS      `toml:"dns"`
}

// Log says what is logged to standard error, and how.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn, error. Default info
	Format string `toml:"format"` // text or json. Default text
}

// Compute configures how compute systems run.
type Compute struct {
	// Runtime is the OCI runtime: a name looked up in PATH or a path. Default runc.
	Runtime string `toml:"runtime"`
	// LibraryOS is the runtime of library OSes: a name looked up in PATH or a path.
	// Default runsc. LibraryOSPlatform is how it catches system calls. Default ptrace,
	// which works everywhere.
	LibraryOS         string `toml:"library_os"`
	LibraryOSPlatform string `toml:"library_os_platform"`
	// LogMaxBytes of a system's log before it is rotated; 0 = 10 MiB.
	LogMaxBytes int64 `toml:"log_max_bytes"`
	// Policy says who may have which isolation; see hcs.Policy for its keys.
	Policy hcs.Policy `toml:"policy"`
}

// Network is the default network and what the switch uses of the host.
type Network struct {
	// Default is the name of the NAT network that a system gets when it asks for
	// none: nat, which is the default, or none. It is made at the first start only.
	Default string `toml:"default"`
	// Subnets of the default network: at most one of each family. Empty = chosen.
	Subnets []string `toml:"subnets"`
	// Uplinks are patterns of the host's interfaces that the switch may use
	// (path.Match). Empty = all that carry addresses.
	Uplinks []string `toml:"uplinks"`
	// ACLDefault is what happens to packets that no rule of an endpoint is about, in a
	// direction for which it has rules: allow, which is the default, or deny.
	ACLDefault string `toml:"acl_default"`
	// Users are numbers of users of the host, by the SID that documents for Windows name.
	Users map[string]uint32 `toml:"users"`
}

// DNS configures the resolvers on the networks' gateway addresses.
type DNS struct {
	// Upstream servers. Empty = the host's /etc/resolv.conf.
	Upstream []string `toml:"upstream"`
}

// Load reads the file at path. An absent file is the default configuration,
// unless must says that somebody named it.
func Load(path string, must bool) (Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(string(b))
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse decodes and checks text.
func Parse(text string) (Config, error) {
	var c Config
	md, err := toml.Decode(text, &c)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return Config{}, fmt.Errorf("line %d: %s", pe.Position.Line, pe.Message)
		}
		return Config{}, err
	}
	if u := md.Undecoded(); len(u) > 0 {
		return Config{}, fmt.Errorf("line %d: unknown key %q; remove it or correct its name", lineOf(text, u[0]), u[0])
	}
	if err := c.check(text); err != nil {
		return Config{}, err
	}
	return c, nil
}

func (c Config) check(text string) error {
	bad := func(rule string, key ...string) error {
		return fmt.Errorf("line %d: %s: %s", lineOf(text, key), strings.Join(key, "."), rule)
	}
	if _, err := c.Log.SlogLevel(); err != nil {
		return bad(err.Error(), "log", "level")
	}
	if f := c.Log.Format; f != "" && f != "text" && f != "json" {
		return bad(fmt.Sprintf("%q is neither text nor json", f), "log", "format")
	}
	if n := c.Compute.LogMaxBytes; n != 0 && n < 4096 {
		return bad(fmt.Sprintf("%d is under 4096", n), "compute", "log_max_bytes")
	}
	if _, err := c.Compute.Policy.WithDefaults(); err != nil {
		return fmt.Errorf("line %d: compute.policy: %w", lineOf(text, []string{"compute", "policy"}), err)
	}
	var v4, v6 int
	for _, s := range c.Network.Subnets {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return bad(fmt.Sprintf("%q is not a prefix like 10.88.0.0/16", s), "network", "subnets")
		case p.Addr().Is4():
			v4++
		default:
			v6++
		}
	}
	if v4 > 1 || v6 > 1 {
		return bad("at most one prefix of each family", "network", "subnets")
	}
	for _, u := range c.Network.Uplinks {
		if _, err := path.Match(u, ""); err != nil {
			return bad(fmt.Sprintf("%q is not a pattern like eth*", u), "network", "uplinks")
		}
	}
	if d := c.Network.Default; d != "" && d != "nat" && d != "none" {
		return bad(fmt.Sprintf("%q is neither nat nor none", d), "network", "default")
	}
	if _, err := c.Publish.Parsed(); err != nil {
		key, rule, _ := strings.Cut(err.Error(), ": ")
		return bad(rule, "publish", key)
	}
	if _, err := c.Services.parsed(); err != nil {
		key, rule, _ := strings.Cut(err.Error(), ": ")
		return bad(rule, "services", key)
	}
	if d := c.Network.ACLDefault; d != "" && d != "allow" && d != "deny" {
		return bad(fmt.Sprintf("%q is neither allow nor deny", d), "network", "acl_default")
	}
	for sid, uid := range c.Network.Users {
		switch {
		case !strings.HasPrefix(sid, "S-1-"):
			return bad(fmt.Sprintf("%q is not a SID like S-1-5-32-556", sid), "network", "users")
		case uid == 1<<32-1:
			return bad(fmt.Sprintf("%d is no user", uid), "network", "users")
		}
	}
	for _, a := range c.DNS.Upstream {
		if _, err := netip.ParseAddr(a); err != nil {
			return bad(fmt.Sprintf("%q is not an IP address", a), "dns", "upstream")
		}
	}
	return nil
}

// SlogLevel is Level as slog has it.
func (l Log) SlogLevel() (slog.Level, error) {
	var v slog.Level
	if l.Level == "" {
		return slog.LevelInfo, nil
	}
	if err := v.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, fmt.Errorf("%q is none of debug, info, warn, error", l.Level)
	}
	return v, nil
}

// lineOf finds where key stands; the decoder does not say. 1 when it is not
// found, which takes a spelling (inline table, quoted key) nobody writes here.
func lineOf(text string, key toml.Key) int {
	table, last := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	at := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, _, _ = strings.Cut(name, "]")
			at = strings.Trim(name, "[] \"")
			if at == key.String() {
				return i + 1
			}
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		name = strings.Trim(name, " \t\"")
		if at == table && name == last || at == "" && name == key.String() {
			return i + 1
		}
	}
	return 1
}
