#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# pid 1 of the guest: mounts what a booted host has mounted, runs the suites that
# the kernel's command line names, says each result on the console, powers off.
#   gh.cgroup=v2|v1|hybrid   gh.suites=/src/vm-suites
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C TERM=dumb
trap 'echo "VM-END"; sync; busybox poweroff -f; sleep 5' EXIT

mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
# Not a tmpfs: overlay's upper layers and the tests' files do not fit into memory.
mkdir -p /src/tmp && chmod 1777 /src/tmp && mount --bind /src/tmp /tmp
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
# systemd makes every mount shared.
mount --make-rshared /

cgroup=$(sed -n 's/.*gh\.cgroup=\([a-z0-9]*\).*/\1/p' /proc/cmdline)
# As systemd mounts it; v1 has the hierarchies apart, and hybrid a v2 beside them.
v1() {
	mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
	for c in cpu,cpuacct cpuset memory devices freezer blkio pids; do
		mkdir "/sys/fs/cgroup/$c"
		mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" || echo "guest: no v1 controller $c"
	done
	ln -s cpu,cpuacct /sys/fs/cgroup/cpu
	ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct
	mkdir /sys/fs/cgroup/systemd
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}
case "$cgroup" in
v1) v1 ;;
hybrid) v1; mkdir /sys/fs/cgroup/unified; mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup/unified ;;
*)
	mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
	# As under systemd: the root hands on its controllers, nobody else sits in it.
	mkdir -p /sys/fs/cgroup/init.scope /sys/fs/cgroup/system.slice
	for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$p" >/sys/fs/cgroup/init.scope/cgroup.procs 2>/dev/null; done
	echo "+cpu +cpuset +memory +pids +io" >/sys/fs/cgroup/cgroup.subtree_control
	;;
esac

modprobe -a overlay veth sch_ingress cls_bpf bridge nf_tables dummy tun virtio_rng 2>&1
ip link set lo up
echo 1 >/proc/sys/net/core/bpf_jit_enable 2>/dev/null
hostname vm
ulimit -n 1048576
date -s "@$(sed -n 's/.*gh\.now=\([0-9]*\).*/\1/p' /proc/cmdline)" >/dev/null

echo "VM-UP $(uname -r), $(runc --version | head -1), cgroup $cgroup ($(stat -fc %T /sys/fs/cgroup)), $(nproc) CPUs, after $(cut -d' ' -f1 /proc/uptime) s"
/src/bin/gatehouse doctor || echo "VM-RESULT $? 0 gatehouse doctor"
while read -r dir run limit skip; do
	case "$dir" in ''|'#'*) continue ;; esac
	cd "/src/$dir" || { echo "VM-RESULT 1 0 $dir"; continue; }
	echo "VM-SUITE $dir $run"
	t0=$SECONDS
	timeout -k 10 "$limit" ./vm.test -test.v -test.timeout "$limit" -test.run "$run" -test.skip "${skip:-^$}" </dev/null 2>&1
	echo "VM-RESULT $? $((SECONDS - t0)) $dir $run"
done <"$(sed -n 's/.*gh\.suites=\([^ ]*\).*/\1/p' /proc/cmdline)"
