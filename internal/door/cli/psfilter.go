// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

// psFilter is what each key of ps --filter may be; an absent key may be anything.
type psFilter map[string][]string

// psStatus are the words that Docker's users know, as our states.
var psStatus = map[string]string{"exited": "stopped", "stopped": "stopped", "running": "running", "paused": "paused", "created": "created"}

func parsePsFilters(args []string) (psFilter, error) {
	f := psFilter{}
	for _, s := range args {
		k, v, ok := strings.Cut(s, "=")
		if !ok || v == "" {
			return nil, fmt.Errorf("--filter %q: write KEY=VALUE", s)
		}
		switch k {
		case "name", "image", "label":
		case "status":
			known, ok := psStatus[strings.ToLower(v)]
			if !ok {
				return nil, fmt.Errorf("--filter %q: the statuses are created, running, paused and stopped", s)
			}
			v = known
		default:
			return nil, fmt.Errorf("--filter %q: the keys are name, status, image and label", s)
		}
		f[k] = append(f[k], v)
	}
	return f, nil
}

// match takes names by part, as Docker does, images by name, labels by name or by
// name and value.
func (f psFilter) match(p hcs.Properties) bool {
	for k, vs := range f {
		hit := slices.ContainsFunc(vs, func(v string) bool {
			switch k {
			case "name":
				return strings.Contains(p.Id, v)
			case "status":
				return strings.EqualFold(string(p.State), v)
			case "image":
				name := images.Familiar(p.Image)
				bare, _, _ := strings.Cut(name, ":")
				return v == p.Image || v == name || v == bare
			}
			key, value, valued := strings.Cut(v, "=")
			got, has := p.Annotations[key]
			return has && (!valued || got == value)
		})
		if !hit {
			return false
		}
	}
	return true
}
