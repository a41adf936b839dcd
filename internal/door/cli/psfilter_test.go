// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

func TestPsFilter(t *testing.T) {
	p := hcs.Properties{Id: "web-1", State: hcs.StateRunning, Image: "docker.io/library/nginx:1", Annotations: map[string]string{"tier": "front"}}
	for in, want := range map[string]bool{
		"": true, "name=web": true, "name=db": false, "name=db name=eb": true,
		"status=running": true, "status=exited": false, "status=exited status=Running": true,
		"image=nginx": true, "image=nginx:1": true, "image=docker.io/library/nginx:1": true, "image=ngin": false,
		"label=tier": true, "label=tier=front": true, "label=tier=back": false, "label=x": false,
		"name=web status=running": true, "name=web status=stopped": false,
	} {
		f, err := parsePsFilters(strings.Fields(in))
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := f.match(p); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	for _, in := range []string{"x", "name=", "foo=bar", "status=happy"} {
		if _, err := parsePsFilters([]string{in}); err == nil || !strings.Contains(err.Error(), in) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
