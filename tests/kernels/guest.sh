#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# Runs as root in a virtual machine, in a mount namespace of its own: makes this
# machine's files its root, runs /run/out/command there, and leaves its exit code.
#
# Usage: guest.sh CHECKOUT HOST
#
# The host's files are at HOST, over 9p, read-only and cached, and get an overlay
# in memory; what is to stay goes to /run/out ("out"). virtme-ng's own root is not
# cached: Python takes minutes to start from it under emulation.
set -eu

checkout=$1
host=$2
base=/run/guest

mkdir -p $base/over $base/checkout
mount -t tmpfs -o mode=0755 over $base/over
mkdir $base/over/upper $base/over/work $base/over/root
mount -t overlay -o lowerdir="$host",upperdir=$base/over/upper,workdir=$base/over/work \
	root $base/over/root
cd $base/over/root
mount --bind ".$checkout" $base/checkout # it may be below what is covered now

mkdir -p lib/modules
for tree in dev proc sys lib/modules; do
	mount --rbind /$tree $tree
done
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p run/old run/out ".$checkout"
mount --bind $base/checkout ".$checkout"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out run/out
pivot_root . run/old
umount -l /run/old
mountpoint -q /sys/fs/bpf && umount /sys/fs/bpf

modprobe tun # udev, which is not here, has a node for it before it is loaded

cd "$checkout"
status=0
sh /run/out/command </dev/null >/run/out/log 2>&1 || status=$?
cp /tmp/ebpfmesh-*.log /run/out/ 2>/dev/null || true # what the verifier said
echo $status >/run/out/exit.new
mv /run/out/exit.new /run/out/exit
sync
