// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

// checkMirrors looks at what no port can see alone: where copies go. A copy is
// never copied again, so a chain would be cut after its first link; and with
// cycles it would be hard to say what is meant at all.
func (c *Compiler) checkMirrors(s State) error {
	for i, p := range s.special() {
		if p.Mirror == 0 {
			continue
		}
		fail := func(format string, args ...any) error {
			return invalid("Ports[%d] (port %d, %s): Mirror %d: %w", i, p.ID, p.Object, p.Mirror, invalid(format, args...))
		}
		to := c.ports[p.Mirror]
		switch {
		case p.Mirror == p.ID:
			return fail("is the port itself")
		case to == nil:
			return fail("no such port")
		case to.was.Kind != PortContainer && to.was.Kind != PortVM:
			return fail("is a port of kind %s; copies go to containers and virtual machines", to.was.Kind)
		case to.was.Trunk != 0 || to.was.TaggedOnly:
			return fail("takes frames with a tag only; copies have none")
		case to.was.Mirror == p.ID:
			return fail("is mirrored to port %d in turn; remove one of the two", p.ID)
		case to.was.Mirror != 0:
			return fail("is mirrored itself, to port %d; copies are not copied again, so mirror port %d there too", to.was.Mirror, p.ID)
		}
	}
	return nil
}
