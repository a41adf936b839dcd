#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# /init of the guest's first root: loads what the disks need and moves over.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_mmio virtio_blk 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
	[ -b /dev/vdb ] && break
	sleep 0.2
done
mount -t ext4 /dev/vda /root && mount -t ext4 /dev/vdb /root/src || poweroff -f
umount /sys /proc
mount --move /dev /root/dev
exec switch_root /root /src/scripts/vm/guest.sh
