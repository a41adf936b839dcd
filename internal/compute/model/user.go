// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ResolveUser resolves name, uid, uid:gid or name:group as Docker does; ""
// is root, with the groups that the files give it. Absent files are empty.
// The primary group stands among the additional ones too, so that a set-gid
// program that changes the group cannot shed it (CVE-2022-36109).
func ResolveUser(spec string, passwd, group []byte) (specs.User, error) {
	if strings.Count(spec, ":") > 1 || strings.HasPrefix(spec, ":") || strings.HasSuffix(spec, ":") {
		return specs.User{}, fmt.Errorf("%q: neither name, uid, uid:gid nor name:group", spec)
	}
	e, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return specs.User{}, fmt.Errorf("%q: %w", spec, err)
	}
	u := specs.User{UID: uint32(e.Uid), GID: uint32(e.Gid), AdditionalGids: []uint32{uint32(e.Gid)}}
	for _, g := range e.Sgids {
		if g >= 0 && uint32(g) != u.GID {
			u.AdditionalGids = append(u.AdditionalGids, uint32(g))
		}
	}
	return u, nil
}
