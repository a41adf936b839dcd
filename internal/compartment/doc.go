// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package compartment makes network namespaces and what is in them: vNICs,
// addresses, routes, neighbours; and the devices the switch needs in the host's
// own namespace. It is the sole user of netlink and setns.
//
// It takes what should be (model.Desired) and reports what only the kernel knows
// (vswitch.Facts). It stores nothing: every device carries the instance's tag,
// every namespace is mounted in the instance's directory, so what is ours can be
// found again after a crash.
//
//	host namespace                                   compartment
//	  gh000anchor ─── gh000anchorp   keeps the block alive, input of FIB look-ups
//	  gh000n0001  ─── gh000s0001     a network's gateway: host stack ─ switch
//	                  gh000p0005 ──────────────────── eth0
//	                  ▲ shared ingress block: every switch port joins it before
//	                    the other end can send
//
// Be aware:
//   - deleting one veth costs two RCU grace periods with the kernel's network
//     lock held (28 ms and more), so Prune only unmounts; devices go in the
//     background, in one batch;
//   - nothing here changes a host-wide sysctl; per-device ones only on devices
//     that we made.
package compartment
