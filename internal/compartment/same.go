// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"reflect"
	"slices"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// same compares two slices. A World is never changed in place, so two slices
// that begin at one address are equal without a look at what they hold.
func same[T any](a, b []T, eq func(x, y *T) bool) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 || &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if !eq(&a[i], &b[i]) {
			return false
		}
	}
	return true
}

func sameVNIC(a, b *model.VNIC) bool {
	return a.Endpoint == b.Endpoint && a.Port == b.Port && a.PortName == b.PortName && a.Name == b.Name &&
		a.MAC == b.MAC && a.MTU == b.MTU && a.Overhead == b.Overhead && a.Uplink == b.Uplink && a.Alias == b.Alias && a.Host == b.Host && slices.Equal(a.Addrs, b.Addrs) &&
		slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Neighbours, b.Neighbours)
}

func sameRedirect(a, b *model.Redirect) bool { return reflect.DeepEqual(a, b) }

func sameNIC(a, b *model.HostNIC) bool {
	return a.Network == b.Network && a.Name == b.Name && a.SwitchName == b.SwitchName &&
		a.MAC == b.MAC && a.MTU == b.MTU && a.Overhead == b.Overhead && slices.Equal(a.Addrs, b.Addrs)
}
