// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// volume is one -v: a host directory or file seen inside.
type volume struct {
	Source, Target string
	ReadOnly       bool
}

// parseVolume reads -v SRC:DST[:ro|rw]. exists asks whether SRC is there: it is
// never made, because a typing error would become a directory of root's.
func parseVolume(arg string, exists func(string) error) (volume, error) {
	f := strings.Split(arg, ":")
	bad := func(why string) (volume, error) {
		return volume{}, fmt.Errorf("-v %q: %s; write SRC:DST or SRC:DST:ro", arg, why)
	}
	if len(f) < 2 || len(f) > 3 {
		return bad("needs a source and a target")
	}
	v := volume{Source: f[0], Target: path.Clean(f[1])}
	if s := v.Source; s == "." || s == ".." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		abs, err := filepath.Abs(s) // from where the person stands, as Docker and Podman take it
		if err != nil {
			return bad(err.Error())
		}
		v.Source = abs
	}
	if !filepath.IsAbs(v.Source) {
		return bad(fmt.Sprintf("source %q is not an absolute path nor one that begins with ./ (there are no named volumes)", v.Source))
	}
	if !path.IsAbs(f[1]) || v.Target == "/" {
		return bad(fmt.Sprintf("target %q is not an absolute path below /", f[1]))
	}
	if len(f) == 3 {
		for _, o := range strings.Split(f[2], ",") {
			switch o {
			case "ro":
				v.ReadOnly = true
			case "rw", "z", "Z", "rprivate", "private":
			default:
				return bad(fmt.Sprintf("unknown option %q", o))
			}
		}
	}
	v.Source = filepath.Clean(v.Source)
	if err := exists(v.Source); errors.Is(err, fs.ErrNotExist) {
		return bad(fmt.Sprintf("source %s does not exist; make it first", v.Source))
	} else if err != nil {
		return bad(err.Error())
	}
	return v, nil
}

func pathExists(p string) error {
	_, err := os.Stat(p)
	return err
}

// parseEnv reads -e: K=V, or K for the caller's own value (absent: not set).
func parseEnv(arg string, lookup func(string) (string, bool)) (k, v string, set bool, err error) {
	k, v, set = strings.Cut(arg, "=")
	if k == "" || strings.ContainsAny(k, " \t\n\x00") {
		return "", "", false, fmt.Errorf("-e %q: write NAME=VALUE, or NAME to pass on the caller's", arg)
	}
	if !set {
		v, set = lookup(k)
	}
	return k, v, set, nil
}

// readEnvFile reads one K=V or K a line; empty lines and # comments are skipped.
func readEnvFile(name string, r io.Reader, lookup func(string) (string, bool)) (map[string]string, error) {
	out := map[string]string{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimLeft(sc.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, set, err := parseEnv(line, lookup)
		if err != nil {
			return nil, fmt.Errorf("--env-file %s: line %d: %q is not NAME=VALUE", name, n, line)
		}
		if set {
			out[k] = v
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("--env-file %s: %w", name, err)
	}
	return out, nil
}

// parseMiB reads a memory size: a number with b, k, m, g (powers of 1024), plain
// bytes without. The document counts in MiB, so it is rounded up.
func parseMiB(arg string) (uint64, error) {
	s := strings.ToLower(strings.TrimSpace(arg))
	s = strings.TrimSuffix(strings.TrimSuffix(s, "b"), "i")
	mul := uint64(1)
	if s != "" {
		switch s[len(s)-1] {
		case 'k':
			mul = 1 << 10
		case 'm':
			mul = 1 << 20
		case 'g':
			mul = 1 << 30
		case 't':
			mul = 1 << 40
		}
		if mul > 1 {
			s = s[:len(s)-1]
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0) || math.IsInf(f, 0) || f*float64(mul) > 1<<60 {
		return 0, fmt.Errorf("--memory %q: not a size; write 256m or 2g", arg)
	}
	mib := uint64(math.Ceil(f * float64(mul) / (1 << 20)))
	if mib < 6 {
		return 0, fmt.Errorf("--memory %q: under 6m, which no runtime starts in", arg)
	}
	return mib, nil
}

// parseCPUs reads --cpus as the 1/100 % share of all the host's CPUs that the
// document wants.
func parseCPUs(arg string, host int) (uint64, error) {
	f, err := strconv.ParseFloat(arg, 64)
	if err != nil || f <= 0 || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, fmt.Errorf("--cpus %q: not a number of CPUs like 1.5", arg)
	}
	if f > float64(host) {
		return 0, fmt.Errorf("--cpus %q: this host has %d", arg, host)
	}
	return uint64(max(1, math.Round(f/float64(host)*10000))), nil
}

// parseLabel reads -l K=V or K.
func parseLabel(arg string) (k, v string, err error) {
	k, v, _ = strings.Cut(arg, "=")
	if k == "" {
		return "", "", fmt.Errorf("--label %q: write NAME=VALUE", arg)
	}
	return k, v, nil
}
