#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a fresh Debian host lacks.
#   setup.sh run    to build and run gatehouse (make demo)
#   setup.sh dev    to run every test and remake the eBPF objects (make test)
#   setup.sh ci     as dev, and the firewalls that a test runs beside; not for a host in
#                   use: at its next start they would be on
#   setup.sh bench  to measure beside the peers of make bench (make bench)
#   setup.sh vm     to run tests on Debian 12's kernel in a virtual machine (make test-vm)
# It changes nothing else; what is installed already is left alone.
set -euo pipefail

run=(runc iproute2 util-linux ca-certificates)
dev=(clang llvm libbpf-dev linux-libc-dev gcc libc6-dev make curl jq
	docker.io docker-registry apache2-utils openssl containernetworking-plugins
	iptables nftables iperf3 debootstrap tcpdump procps python3-minimal
	qemu-system-x86 erofs-utils e2fsprogs crun runsc busybox-static)
ci=(ufw firewalld dbus udhcpc udhcpd)
bench=(openvswitch-switch)
vm=(qemu-system-x86 debootstrap e2fsprogs cpio)

case "${1:-run}" in
run) want=("${run[@]}") ;;
dev) want=("${run[@]}" "${dev[@]}") ;;
ci) want=("${run[@]}" "${dev[@]}" "${ci[@]}") ;;
bench) want=("${run[@]}" "${dev[@]}" "${bench[@]}") ;;
vm) want=("${vm[@]}") ;;
*) echo "usage: setup.sh run|dev|ci|bench|vm" >&2; exit 2 ;;
esac

if ! command -v go >/dev/null && ! [ -x /usr/local/go/bin/go ]; then
	echo "setup: Go is missing; install the version that go.mod names (https://go.dev/dl)" >&2
	exit 1
fi

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

# kernel brings the package that tests boot utility VMs from.
kernel() {
	local dir=/var/cache/gatehouse arch name
	arch=$(dpkg --print-architecture)
	case "$1 $arch" in dev\ amd64|ci\ amd64) ;; *) return 0 ;; esac
	! ls "$dir"/linux-image-*.deb >/dev/null 2>&1 || return 0
	name=$(apt-cache depends "linux-image-cloud-$arch" | sed -n 's/.*Depends: \(linux-image-\)/\1/p' | head -1)
	echo "setup: downloading $name to $dir"
	$sudo mkdir -p "$dir"
	(cd "$dir" && $sudo apt-get download -qq "$name") || echo "setup: no kernel package: tests that boot a utility VM are skipped" >&2
}

missing=()
for p in "${want[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
	kernel "${1:-run}"
	echo "setup: nothing missing"
	exit 0
fi

echo "setup: installing ${missing[*]}"
# Daemons that packages bring must not start by themselves: tests start their own.
policy=/usr/sbin/policy-rc.d
made=
if ! [ -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
	made=1
fi
trap '[ -z "$made" ] || $sudo rm -f "$policy"' EXIT
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
kernel "${1:-run}"
echo "setup: done"
