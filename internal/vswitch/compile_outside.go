// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

// outsideMemo is the row of UplinkAny as made last.
type outsideMemo struct {
	made bool
	acls portACLs
}

// compileOutside makes the row that stands for all uplinks, which bears what is
// asked about clients outside.
func (c *Compiler) compileOutside(s State, _ Facts, t *Tables) error {
	acls, err := c.aclsOf(&Port{ACLs: s.OutsideACLs})
	if err != nil {
		return invalid("Outside%w", err)
	}
	m := &c.outside
	if m.made && m.acls == acls {
		return nil
	}
	*m = outsideMemo{made: true, acls: acls}
	if acls == (portACLs{}) {
		t.outside = nil
		return nil
	}
	t.outside = &block{
		global: true, epochPorts: []PortID{UplinkAny},
		rows: rows{port: []Entry[uint32, PortRow]{{uint32(UplinkAny), PortRow{Kind: uint8(PortUplink), Acl: acls.numbers}}}},
	}
	return nil
}
