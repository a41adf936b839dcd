// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package bpf holds the data plane's C programs, the object compiled from them
// and the Go types generated from their maps: the one source of every layout.
// It loads nothing and attaches nothing; package datapath does.
//
// README.md draws the packet path and lists the maps.
package bpf

// One object, little endian (amd64 and arm64). The flags pin what the bytes
// depend on; -g gives BTF, paths are cut so that the checkout's place does not show.
//
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" -type gh_drop_reason -type gh_layer -type gh_via -type gh_result_verdict -type gh_stage -type gh_addr -type gh_event_kind -type gh_event -type gh_flow_event -type gh_flow_end -type gh_copy_what -type gh_sample -type gh_port_kind -type gh_port_flags -type gh_net_flags -type gh_addr_flags -type gh_route_kind -type gh_route_flags -type gh_svc_flags -type gh_member_state -type gh_client -type gh_fkey_flags -type gh_op -type gh_verdict -type gh_out_kind -type gh_flow_state -type gh_reap_at -type gh_acl_list -type gh_acl_action -type gh_acl_flags -type gh_acl_kind -type gh_acl_tuple Switch switch.c
