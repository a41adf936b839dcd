// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package e2e tests the built binary as its users run it: a daemon in a network
// namespace that plays the host, another that plays a machine on the wire, real
// runtime, registry, Docker and images. Nothing of gatehouse is imported but bpfnext,
// which builds a next version to upgrade to. Run it as root after make build; each
// test cleans up and fails on what is left behind.
package e2e
