#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
#
# Runs as root in a virtual machine, in a mount namespace of its own: makes this
# machine's files its root, runs /run/out/command there, and leaves its exit code.
#
# Usage: guest.sh CHECKOUT
#
# The host's files come over 9p, read-only and cached ("host"), under an overlay
# in memory; what is to stay goes to /run/out ("out"). virtme-ng's own root is
# not cached: Python takes minutes to start from it under emulation.
set -eu

checkout=$1
nine="trans=virtio,version=9p2000.L,msize=512000"
base=/run/guest

mkdir -p $base/host $base/over
mount -t 9p -o ro,cache=loose,$nine host $base/host
mount -t tmpfs -o mode=0755 over $base/over
mkdir $base/over/upper $base/over/work $base/over/root
mount -t overlay -o lowerdir=$base/host,upperdir=$base/over/upper,workdir=$base/over/work \
	root $base/over/root
cd $base/over/root

mkdir -p lib/modules
for tree in dev proc sys lib/modules; do
	mount --rbind /$tree $tree
done
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir run/old run/out
mount -t 9p -o $nine out run/out
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
