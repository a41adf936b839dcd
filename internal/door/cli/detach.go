// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

// detachKeys finds ctrl-p ctrl-q in what a person types. Neither byte reaches
// the process unless the sequence breaks off. The zero value is ready.
type detachKeys struct{ held bool }

const (
	ctrlP = 0x10
	ctrlQ = 0x11
)

// filter appends to dst what goes on to the process; detach says that the
// sequence was complete: nothing after it was looked at.
func (d *detachKeys) filter(dst, src []byte) (out []byte, detach bool) {
	for _, c := range src {
		switch {
		case d.held && c == ctrlQ:
			d.held = false
			return dst, true
		case d.held && c == ctrlP:
			dst = append(dst, ctrlP) // the first goes on, the second is held
		case d.held:
			d.held = false
			dst = append(dst, ctrlP, c)
		case c == ctrlP:
			d.held = true
		default:
			dst = append(dst, c)
		}
	}
	return dst, false
}
