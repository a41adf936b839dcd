// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Redirects are rules of nftables in the compartment alone: whose a connection is, only
// its own stack can tell, and proxies ask that stack where it was to go
// (SO_ORIGINAL_DST). The table's name says what is in it, so that looking at names is
// enough to know whether it is as it should be.

// redirect is a model.Redirect with its user's number.
type redirect struct {
	model.Redirect
	uid *uint32 // nil = nobody's connections are left alone
}

// ensureRedirects makes ns have the redirects of c. It comes before the vNICs, so that
// nothing slips by when they begin to work.
func (h *Host) ensureRedirects(ns *namespace, c *model.Compartment, rec *compRecord, fresh bool) error {
	if fresh || !c.Redirected && len(rec.redirects) == 0 {
		rec.redirects, rec.looked = nil, true
	}
	if rec.looked && same(rec.redirects, c.Redirects, sameRedirect) {
		return nil
	}
	want := make([]redirect, len(c.Redirects))
	for i, r := range c.Redirects {
		uid, err := h.userOf(r.User)
		if err != nil { // the configuration changed; a proxy that is not known would get its own back
			h.log.Error("redirects to a proxy are left as they were", "compartment", c.ID, "err", err)
			rec.redirects, rec.looked = c.Redirects, true
			return nil
		}
		want[i] = redirect{r, uid}
	}
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	rec.redirects, rec.looked = c.Redirects, false
	if err := h.setRedirects(ns, want); err != nil && (len(want) > 0 || !lacksTables(err)) {
		return fmt.Errorf("redirects, which need nftables with nat and redir in the kernel: %w", err)
	}
	rec.looked = true
	return nil
}

// lacksTables: a kernel without nftables has no rules of ours either.
func lacksTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

func (h *Host) userOf(s string) (*uint32, error) {
	if s == "" {
		return nil, nil
	}
	if uid, ok := h.users[s]; ok {
		return &uid, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s is nobody's here any more; map it in the configuration: network.users", s)
	}
	uid := uint32(n)
	return &uid, nil
}

// setRedirects replaces the table in one step; connections that are redirected already
// go on, as long as there is any.
func (h *Host) setRedirects(ns *namespace, want []redirect) error {
	grow := func(c *netlink.Conn) error { // a batch of thousands of rules, and an answer to each
		return errors.Join(c.SetWriteBuffer(redirectBuffer), c.SetReadBuffer(redirectBuffer))
	}
	conn, err := nftables.New(nftables.WithNetNSFd(ns.fd), nftables.WithSockOptions(grow))
	if err != nil {
		return err
	}
	have, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	prefix := "gatehouse-" + h.inst.Tag + "-"
	table := &nftables.Table{Family: nftables.TableFamilyINet}
	if len(want) > 0 {
		table.Name = prefix + redirectDigest(want)
	}
	there := false
	for _, t := range have {
		switch {
		case t.Name == table.Name:
			there = true
		case strings.HasPrefix(t.Name, prefix):
			conn.DelTable(t)
		}
	}
	if !there && len(want) > 0 {
		conn.AddTable(table)
		addRedirects(conn, table, want)
	}
	return conn.Flush()
}

const redirectBuffer = 16 << 20

// redirectForm is raised with every change of the rules that are made of a redirect.
const redirectForm = 1

func redirectDigest(want []redirect) string {
	raw, err := json.Marshal(struct {
		Form int
		Of   []redirect
		User []*uint32
	}{redirectForm, want, uids(want)})
	if err != nil {
		panic(err) // numbers and addresses
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))[:16]
}

func uids(rs []redirect) (out []*uint32) {
	for _, r := range rs {
		out = append(out, r.uid)
	}
	return out
}

func addRedirects(conn *nftables.Conn, table *nftables.Table, want []redirect) {
	for _, out := range []bool{true, false} {
		p := &redirectPath{conn: conn, table: table, out: out}
		name, hook, lo := "in", nftables.ChainHookPrerouting, expr.MetaKeyIIFTYPE
		if out {
			name, hook, lo = "out", nftables.ChainHookOutput, expr.MetaKeyOIFTYPE
		}
		base := conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
		})
		// A connection begins with SYN alone: those from before the rules go on as they are.
		const flags, synRstFinAck, syn = 13, 0x17, 0x02
		begins := slices.Concat(
			[]expr.Any{&expr.Meta{Key: lo, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)}},
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{unix.IPPROTO_TCP})},
			load(expr.PayloadBaseTransportHeader, flags, 1), mask([]byte{synRstFinAck}), []expr.Any{equal([]byte{syn})})
		for i, r := range want {
			if p.side(r).Port != 0 {
				p.rule(base, begins, to(expr.VerdictJump, p.add(fmt.Sprintf("%s%d", name, i), r)))
			}
		}
	}
}

// redirectPath is one direction of a table.
type redirectPath struct {
	conn  *nftables.Conn
	table *nftables.Table
	out   bool // what the compartment begins
}

func (p *redirectPath) side(r redirect) model.ProxySide {
	if p.out {
		return r.Out
	}
	return r.In
}

// add makes the chains of a redirect: what is left alone returns from the first, what
// each list is about goes on to the next one's, to the proxy in the end.
func (p *redirectPath) add(name string, r redirect) string {
	chain := func(name string) *nftables.Chain {
		return p.conn.AddChain(&nftables.Chain{Name: name, Table: p.table})
	}
	side, first := p.side(r), chain(name)
	back := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	if p.out && r.uid != nil {
		p.rule(first, []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(*r.uid))}, back)
	}
	for _, a := range side.Except {
		p.rule(first, addrIn(a, !p.out), back)
	}
	for _, ports := range side.ExceptPorts {
		p.rule(first, portIn(ports, false), back)
	}
	var lists [][][]expr.Any
	addrs := func(of []netip.Prefix, source bool) {
		var list [][]expr.Any
		for _, a := range of {
			list = append(list, addrIn(a, source))
		}
		lists = append(lists, list)
	}
	ports := func(of []vswitch.PortRange, source bool) {
		var list [][]expr.Any
		for _, x := range of {
			list = append(list, portIn(x, source))
		}
		lists = append(lists, list)
	}
	addrs(r.Local, p.out)
	addrs(r.Remote, !p.out)
	ports(r.LocalPorts, p.out)
	ports(r.RemotePorts, !p.out)
	at := first
	for i, list := range lists {
		if len(list) == 0 {
			continue
		}
		next := chain(fmt.Sprintf("%s-%d", name, i))
		for _, match := range list {
			p.rule(at, match, to(expr.VerdictGoto, next.Name))
		}
		at = next
	}
	port := &expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(side.Port)}
	if p.out { // to loopback
		p.rule(at, []expr.Any{port, &expr.Redir{RegisterProtoMin: 1, Flags: expr.NF_NAT_RANGE_PROTO_SPECIFIED}})
	} else { // the address stays
		p.rule(at, []expr.Any{port, &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_INET, RegProtoMin: 1, Specified: true}})
	}
	return name
}

func (p *redirectPath) rule(in *nftables.Chain, parts ...[]expr.Any) {
	p.conn.AddRule(&nftables.Rule{Table: p.table, Chain: in, Exprs: slices.Concat(parts...)})
}

func to(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func load(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

func equal(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

func mask(m []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(m)), Mask: m, Xor: make([]byte, len(m))}}
}

// addrIn matches packets whose source, or destination, is in a prefix.
func addrIn(a netip.Prefix, source bool) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV6), uint32(24), 16
	switch {
	case a.Addr().Is4() && source:
		family, offset, size = unix.NFPROTO_IPV4, 12, 4
	case a.Addr().Is4():
		family, offset, size = unix.NFPROTO_IPV4, 16, 4
	case source:
		offset = 8
	}
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family})}
	if a.Bits() == 0 {
		return out
	}
	out = append(out, load(expr.PayloadBaseNetworkHeader, offset, uint32(size))...)
	if !a.IsSingleIP() {
		m := make([]byte, size)
		for i := range a.Bits() {
			m[i/8] |= 0x80 >> (i % 8)
		}
		out = append(out, mask(m)...)
	}
	return append(out, equal(a.Masked().Addr().AsSlice()))
}

// portIn matches TCP packets whose source port, or destination port, is in a range.
func portIn(r vswitch.PortRange, source bool) []expr.Any {
	offset := uint32(2)
	if source {
		offset = 0
	}
	return append(load(expr.PayloadBaseTransportHeader, offset, 2),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.Last)})
}

// dropRedirects takes ours out of a namespace that somebody else keeps.
func (h *Host) dropRedirects(c *compRecord) error {
	if c.dead || len(c.redirects) == 0 {
		return nil
	}
	there, err := isNamespace(c.path)
	if err != nil || !there {
		return err
	}
	ns, err := openAt(c.path)
	if err != nil {
		return err
	}
	defer ns.close()
	return h.setRedirects(ns, nil)
}
