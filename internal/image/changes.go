// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"encoding/json"
	"slices"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/compute/model"
)

// change is one instruction to an image's configuration.
type change func(*ispec.ImageConfig)

// parseChanges reads instructions in the words of a Dockerfile, one each; those
// that say what a container of the image starts with, not how files are made.
func parseChanges(lines []string) ([]change, error) {
	var out []change
	for _, line := range lines {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		c, err := parseChange(strings.ToUpper(word), strings.TrimSpace(rest))
		if err != nil {
			return nil, images.Errorf(images.CodeInvalid, "change %q: %w", line, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseChange(word, rest string) (change, error) {
	if rest == "" {
		return nil, bad("says nothing; for example CMD [\"/bin/httpd\"], ENV NAME=VALUE")
	}
	switch word {
	case "CMD":
		args, err := command(rest)
		return func(c *ispec.ImageConfig) { c.Cmd = args }, err
	case "ENTRYPOINT":
		args, err := command(rest)
		// As Docker has it: the command was that of another entry point.
		return func(c *ispec.ImageConfig) { c.Entrypoint, c.Cmd = args, nil }, err
	case "ENV":
		pairs, err := pairsOf(rest)
		return func(c *ispec.ImageConfig) {
			for _, p := range pairs {
				c.Env = setEnv(c.Env, p[0], p[1])
			}
		}, err
	case "LABEL":
		pairs, err := pairsOf(rest)
		return func(c *ispec.ImageConfig) {
			labels := map[string]string{}
			for k, v := range c.Labels { // the map may be the base image's
				labels[k] = v
			}
			for _, p := range pairs {
				labels[p[0]] = p[1]
			}
			c.Labels = labels
		}, err
	case "EXPOSE":
		ports, err := model.SplitWords(rest)
		for i, p := range ports {
			if !strings.Contains(p, "/") {
				ports[i] += "/tcp"
			}
		}
		return func(c *ispec.ImageConfig) { c.ExposedPorts = withKeys(c.ExposedPorts, ports) }, err
	case "VOLUME":
		dirs, err := list(rest)
		return func(c *ispec.ImageConfig) { c.Volumes = withKeys(c.Volumes, dirs) }, err
	case "USER":
		return func(c *ispec.ImageConfig) { c.User = rest }, nil
	case "WORKDIR":
		if !strings.HasPrefix(rest, "/") {
			return nil, bad("must begin with /")
		}
		return func(c *ispec.ImageConfig) { c.WorkingDir = rest }, nil
	case "STOPSIGNAL":
		return func(c *ispec.ImageConfig) { c.StopSignal = rest }, nil
	}
	return nil, bad("CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR are known")
}

// command is a JSON array, or a line for the shell.
func command(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		return array(s)
	}
	return []string{"/bin/sh", "-c", s}, nil
}

// list is a JSON array, or words.
func list(s string) ([]string, error) {
	if strings.HasPrefix(s, "[") {
		return array(s)
	}
	return model.SplitWords(s)
}

func array(s string) ([]string, error) {
	var out []string
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		return nil, bad("not an array of strings in JSON: %w", err)
	}
	return out, nil
}

// pairsOf reads NAME=VALUE…, or one NAME and the rest of the line.
func pairsOf(s string) ([][2]string, error) {
	words, err := model.SplitWords(s)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 || !strings.Contains(words[0], "=") {
		name, value, ok := strings.Cut(s, " ")
		if !ok {
			return nil, bad("must be NAME=VALUE")
		}
		return [][2]string{{name, strings.TrimSpace(value)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, bad("%q: must be NAME=VALUE", w)
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
}

func setEnv(env []string, name, value string) []string {
	env = slices.Clone(env)
	for i, e := range env {
		if strings.HasPrefix(e, name+"=") {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}

func withKeys(m map[string]struct{}, keys []string) map[string]struct{} {
	out := map[string]struct{}{}
	for k := range m {
		out[k] = struct{}{}
	}
	for _, k := range keys {
		out[k] = struct{}{}
	}
	return out
}
