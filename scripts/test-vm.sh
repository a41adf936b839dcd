#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests that touch the kernel in a virtual machine with the kernel, the
# runtime and the cgroups of Debian 12, whatever this host has.
#   test-vm.sh [suite...]       "dir" or "dir:regexp of tests"; without any, all of scripts/vm/suites
#   CGROUP=v2|v1|hybrid         how the guest mounts cgroups (v2, as Debian does)
#   GATEHOUSE_VM_CACHE=dir      root file system, kernel, last console (/var/tmp/gatehouse-vm)
#   GATEHOUSE_VM_TIMEOUT=secs   for the whole (5400)
#   GATEHOUSE_VM_MIRROR=url     Debian mirror of the root file system
# The machine is emulated (TCG): it needs no /dev/kvm. The cache is about 1 GiB;
# nothing is installed on the host beyond scripts/setup.sh vm.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${GATEHOUSE_VM_CACHE:-/var/tmp/gatehouse-vm}
cgroup=${CGROUP:-v2}
limit=${GATEHOUSE_VM_TIMEOUT:-5400}
suite=bookworm
mirror=${GATEHOUSE_VM_MIRROR:-http://deb.debian.org/debian}
packages=runc,iproute2,nftables,iptables,curl,kmod,ca-certificates,procps,iputils-ping,util-linux,bsdutils,busybox-static
stamp="1 $suite $packages"

case "$cgroup" in v2|v1|hybrid) ;; *) echo "test-vm: CGROUP=$cgroup: v2, v1 or hybrid" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "test-vm: needs root (debootstrap)" >&2; exit 1; }
mkdir -p "$cache"
exec 8>"$cache/lock" 9>"$cache/lock-$cgroup"
flock -n 9 || { echo "test-vm: another one runs with $cache and CGROUP=$cgroup" >&2; exit 1; }
work=$cache/run-$cgroup
rm -rf "$work" && mkdir "$work"
qemu=
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
say() { printf 'test-vm: %s\n' "$*"; }

# The guest's root file system and kernel, made once.
flock 8
if [ "$(cat "$cache/stamp" 2>/dev/null)" != "$stamp" ]; then
	say "making Debian $suite in $cache (once)"
	rm -f "$cache/stamp"
	root=$work/root
	debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$work/debootstrap.log" ||
		{ tail -20 "$work/debootstrap.log" >&2; exit 1; }
	# The kernel's files alone: a guest that QEMU boots needs no boot loader.
	chroot "$root" sh -ec 'apt-get update -qq
		kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: //p" | head -1)
		cd /root && apt-get -qq download "$kernel" && dpkg-deb -x linux-image-*.deb /root/k
		cp -a /root/k/lib/modules /usr/lib/ && cp /root/k/boot/vmlinuz-* /boot/vmlinuz
		depmod "$(ls /usr/lib/modules)"
		rm -rf /root/k /root/*.deb /var/lib/apt/lists/* /var/cache/apt/*' >"$work/kernel.log" 2>&1 ||
		{ tail -20 "$work/kernel.log" >&2; exit 1; }
	# Tests that build a program of theirs get the one that was built outside.
	printf '#!/bin/sh\n# go build -o OUT PACKAGE\nexec cp "$4/prebuilt" "$3"\n' >"$root/usr/local/bin/go"
	chmod 755 "$root/usr/local/bin/go"
	mkdir -p "$root/src"
	first=$work/first
	mkdir -p "$first"/{bin,proc,sys,dev,root,lib/modules}
	cp "$root/bin/busybox" "$first/bin/busybox"
	version=$(ls "$root/usr/lib/modules")
	(cd "$root/usr/lib/modules" && find "$version" \( -path '*/drivers/virtio/*' -o -name 'virtio_blk.ko' -o -name 'modules.*' \) -type f -print0 |
		cpio -0 -pdm --quiet "$first/lib/modules")
	rm -rf "$cache/first" && mv "$first" "$cache/first"
	cp "$root/boot/vmlinuz" "$cache/vmlinuz"
	mke2fs -q -t ext4 -d "$root" "$work/root.img" 4G >/dev/null
	mv "$work/root.img" "$cache/root.img"
	rm -rf "$root"
	echo "$stamp" >"$cache/stamp"
fi
cp scripts/vm/initrd.sh "$cache/first/init"
chmod 755 "$cache/first/init"
(cd "$cache/first" && find . | cpio -o -H newc --quiet) >"$work/initrd"
flock -u 8

# The tests, compiled, where they expect to be: in a copy of the tree.
say "compiling the tests"
src=$work/src
mkdir -p "$src"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
	cpio -0 -pdm --quiet "$src"
mkdir -p "$src/bin" "$src/internal/hello/bin" "$src/internal/uvm/image/bin"
cp bin/gatehouse "$src/bin/"
cp internal/hello/bin/hello-* "$src/internal/hello/bin/"
if [ $# -eq 0 ]; then
	cp scripts/vm/suites "$src/vm-suites"
else
	for s in "$@"; do
		[ "${s#*:}" != "$s" ] && echo "${s%%:*} ${s#*:} 30m" || grep -E "^$s\s" scripts/vm/suites || echo "$s . 30m"
	done >"$src/vm-suites"
fi
for dir in $(sed 's/#.*//' "$src/vm-suites" | awk '$1 {print $1}' | sort -u); do
	go test -c -o "$src/$dir/vm.test" "./$dir"
done
for dir in internal/compute/testdata/guest internal/compute/worker/testdata/guest; do
	[ ! -d "$dir" ] || CGO_ENABLED=0 go build -o "$src/$dir/prebuilt" "./$dir"
done
mke2fs -q -t ext4 -d "$src" "$work/src.img" 3G >/dev/null
rm -rf "$src"

# microvm boots fastest. Without tsc_early_khz some emulated boots hang in the
# calibration (it is the host's: emulation passes its counter on); acpi=on lets
# the kernel find its disks.
khz=$(cat /sys/devices/system/cpu/cpu0/cpufreq/base_frequency 2>/dev/null || awk -F: '/cpu MHz/ {printf "%d", $2 * 1000; exit}' /proc/cpuinfo)
console=$cache/console-$cgroup.log
say "starting Debian's kernel with cgroup $cgroup; console in $console"
: >"$console"
qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
	-M microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on -accel tcg,thread=multi -cpu max \
	-smp "$(n=$(nproc); echo $((n > 2 ? 2 : n)))" -m 2048 -global virtio-mmio.force-legacy=false \
	-kernel "$cache/vmlinuz" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=$khz tsc=reliable random.trust_cpu=on gh.cgroup=$cgroup gh.suites=/src/vm-suites gh.now=$(date +%s)" \
	-serial "file:$console" \
	-drive "id=a,if=none,format=raw,file=$cache/root.img,snapshot=on,cache=unsafe" -device virtio-blk-device,drive=a \
	-drive "id=b,if=none,format=raw,file=$work/src.img,cache=unsafe" -device virtio-blk-device,drive=b \
	</dev/null >"$work/qemu.log" 2>&1 &
qemu=$!

# What matters of the console, as it comes.
timeout "$limit" tail -n +1 -F --pid=$qemu "$console" 2>/dev/null | stdbuf -oL tr -d '\r' | stdbuf -oL grep -aE '^(VM-|--- |    --- (FAIL|SKIP)|panic:|FAIL)' |
	sed -u -E 's/^VM-(UP|SUITE|RESULT|END) ?/== \1 /' &
wait $! || true # in the background, so that a signal to this script is heard
if kill -0 "$qemu" 2>/dev/null; then
	say "not done after $limit s; stopped" >&2
	exit 1
fi
wait "$qemu" || { cat "$work/qemu.log" >&2; say "QEMU ended with an error" >&2; }
qemu=
tr -d '\r' <"$console" >"$work/console"
want=$(sed 's/#.*//' scripts/vm/suites | grep -c . || true)
[ $# -eq 0 ] || want=$#
got=$(grep -ac '^VM-RESULT' "$work/console" || true)
failed=$(grep -a '^VM-RESULT' "$work/console" | awk '$2 != 0' || true)
if [ "$got" != "$want" ] || ! grep -aq '^VM-END' "$work/console"; then
	say "the guest ended after $got of $want suites; last of its console:" >&2
	tail -30 "$work/console" >&2
	exit 1
fi
if [ -n "$failed" ]; then
	say "failed (whole console in $console):" >&2
	echo "$failed" >&2
	exit 1
fi
say "all of $want suites passed on $(sed -n 's/^VM-UP //p' "$work/console")"
