#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Remakes the eBPF objects in a copy of the tree and compares. Another clang than
# the one they were made with gives other bytes, so only clang 14 (Debian 12)
# decides; elsewhere the check says that it did not run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! clang --version 2>/dev/null | grep -q 'version 14\.'; then
	echo "generate-check: clang 14 not found; not compared (scripts/setup.sh dev on Debian 12 installs it)"
	[ -z "${CI:-}" ] || exit 1
	exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp -r --parents go.mod go.sum internal/vswitch "$tmp"
(cd "$tmp" && go generate ./internal/vswitch/bpf >/dev/null)
diff -rq internal/vswitch/bpf "$tmp/internal/vswitch/bpf" || {
	echo "generate-check: committed eBPF files differ from their sources; run make generate" >&2
	exit 1
}
echo "generate-check: eBPF objects match their sources"
