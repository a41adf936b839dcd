// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"testing"

	"gatehouse.dev/gatehouse/images"
)

func TestBarProgress(t *testing.T) {
	const id = "sha256:8f782f3f00f7aaaa"
	for _, c := range []struct {
		p    images.Progress
		want string
	}{
		{images.Progress{ID: id, Status: images.StatusUnpacking, Current: 50 << 20, Total: 100 << 20},
			"8f782f3f00f7: unpacking    [====================                    ]   52.4MB /    105MB"},
		{images.Progress{ID: id, Status: images.StatusComplete, Total: 100 << 20}, "8f782f3f00f7: complete     105MB"},
		{images.Progress{Status: images.StatusResolving, Message: "reg/x:1"}, "              resolving    reg/x:1"},
	} {
		if got := barProgress(c.p, 110); got != c.want {
			t.Errorf("%+v\n got %q\nwant %q", c.p, got, c.want)
		}
	}
}
