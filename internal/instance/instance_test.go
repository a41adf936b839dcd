// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package instance

import "testing"

func TestDeviceNamesFitAndDiffer(t *testing.T) {
	for _, root := range []string{"", "/tmp/a", "/tmp/b"} {
		i, err := New(root)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, n := range []string{i.AnchorDevice(), i.AnchorPeer(), i.PortDevice(1), i.PortDevice(0xffff), i.ShaperDevice(1), i.ShaperPeer(0xffff),
			i.HostDevice(1), i.HostDevice(0xffff), i.TunnelDevice(4789), i.TunnelDevice(0xffff), i.SwitchDevice(1), i.SwitchDevice(0xffff)} {
			if len(n) > 15 {
				t.Errorf("%s: %d bytes, over IFNAMSIZ-1", n, len(n))
			}
			if seen[n] {
				t.Errorf("%s made twice", n)
			}
			seen[n] = true
			if !i.OwnsDevice(n) {
				t.Errorf("%s not recognised as own", n)
			}
		}
	}
	a, _ := New("/tmp/a")
	b, _ := New("/tmp/b")
	if a.Tag == b.Tag || a.Block == b.Block || a.Pins == b.Pins || a.OwnsDevice(b.PortDevice(1)) {
		t.Errorf("two roots share names: %+v %+v", a, b)
	}
}
