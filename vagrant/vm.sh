#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# A bare Debian 12 in qemu that stands in for the box of the Vagrantfile, made
# from packages and on this machine: with it all that happens inside the box is
# tried without Vagrant, and without KVM. What it makes lies in .cache/vm.
#
# Usage: vm.sh up          build the image, boot it, copy the checkout, provision
#        vm.sh ssh-config  how ssh gets in, as the host "ebpfmesh"
#        vm.sh down        stop it; its disk stays
#        vm.sh destroy     stop it and forget its disk; the image stays
# Knobs: VM_CPUS (2), VM_MEMORY in MiB (4096), VM_KERNEL (linux-image-amd64),
#        VM_READY=1: install before the first boot, at this machine's speed and not at
#        the emulated one's; provision.sh then has nothing left to install
#        VM_ACCEL (kvm where the processor has it, else tcg), VM_BOOT_SECONDS (900)
# Exit:  0 done, 1 failed, 2 usage, 4 not root
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
state=$checkout/.cache/vm
kernel=${VM_KERNEL:-linux-image-amd64}
base=$state/$kernel${VM_READY:+-ready}
disk=$state/disk.qcow2
config=$state/ssh-config
resolver="nameserver 10.0.2.3" # of qemu's user network
# What such a box has besides the essential packages.
box_packages=ca-certificates,dbus,iproute2,openssh-server,rsync,sudo,systemd-sysv,udev,$kernel

say() { echo "vm: $*" >&2; }

fail() {
	say "$2"
	echo "hint: $3" >&2
	exit "$1"
}

# Configure the unpacked system in $1 as boxes are: a user "vagrant" who may become
# root, let in by a key. It trusts whom this machine trusts, and asks its resolver.
make_box() {
	local root=$1
	chroot "$root" useradd --create-home --shell /bin/bash vagrant
	install -d -m 700 "$root/home/vagrant/.ssh"
	install -m 600 "$state/key.pub" "$root/home/vagrant/.ssh/authorized_keys"
	chroot "$root" chown -R vagrant: /home/vagrant
	echo "vagrant ALL=(ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/vagrant"
	echo bookworm >"$root/etc/hostname"
	printf '127.0.0.1 localhost\n127.0.1.1 bookworm\n::1 localhost\n' >"$root/etc/hosts"
	rm -f "$root/etc/resolv.conf"
	echo "$resolver" >"$root/etc/resolv.conf"
	printf '[Match]\nName=e*\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/all.network"
	chroot "$root" systemctl --quiet enable systemd-networkd
	# Emulated, every fsync is slow, and nobody reads there.
	printf '%s\n' force-unsafe-io "path-exclude=/usr/share/"{doc,man,locale}"/*" \
		>"$root/etc/dpkg/dpkg.cfg.d/emulated"
	echo "update_initramfs=no" >"$root/etc/initramfs-tools/update-initramfs.conf" # it boots ours
	rm -f "$root"/etc/ssh/ssh_host_*
	chroot "$root" ssh-keygen -A >/dev/null
	find /usr/local/share/ca-certificates -name '*.crt' \
		-exec cp -t "$root/usr/local/share/ca-certificates" {} + 2>/dev/null || true
	chroot "$root" update-ca-certificates >/dev/null 2>&1
}

copy_checkout() {
	rsync --archive --delete --filter="merge $here/rsync-filter" "$@"
}

# Install in the system in $1 what provision.sh would.
make_ready() {
	local root=$1 home=home/vagrant/ebpfmesh
	say "installing in it, as VM_READY says"
	copy_checkout --chown="$(stat -c %u:%g "$root/home/vagrant")" "$checkout/" "$root/$home/"
	cp /etc/resolv.conf "$root/etc/resolv.conf"
	unshare --mount --pid --fork --mount-proc="$root/proc" env -i PATH="$PATH" HOME=/root \
		chroot "$root" "/$home/scripts/setup.sh" test
	echo "$resolver" >"$root/etc/resolv.conf"
}

# Make $base.ext4 with its kernel and initrd beside it, unless they are there.
build() {
	local root
	[ ! "$base.ext4" -nt "$here/vm.sh" ] || return 0
	say "building a Debian 12 with $kernel (about 3 minutes)"
	[ -e "$state/key" ] || ssh-keygen -q -t ed25519 -N '' -C ebpfmesh -f "$state/key"
	root=$(mktemp -d -p "$state" root.XXXXXX)
	# shellcheck disable=SC2064 # now, while it is known
	trap "rm -rf --one-file-system '$root'" EXIT
	mmdebstrap --quiet --variant=apt --include="$box_packages" bookworm "$root" ||
		fail 1 "no Debian could be made" "the messages of mmdebstrap are above"
	make_box "$root"
	[ -z "${VM_READY-}" ] || make_ready "$root"
	cp "$root"/boot/vmlinuz-* "$base.vmlinuz"
	cp "$root"/boot/initrd.img-* "$base.initrd"
	rm -f "$base.new"
	truncate -s 12G "$base.new"
	mke2fs -q -t ext4 -L root -d "$root" "$base.new"
	rm -rf --one-file-system "$root"
	trap - EXIT
	mv "$base.new" "$base.ext4"
}

# Print the pid of the running qemu; only of ours, whatever the number means by now.
running() {
	local pid
	pid=$(cat "$state/pid" 2>/dev/null) || return 1
	tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$disk" && echo "$pid"
}

free_port() {
	python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

write_ssh_config() {
	cat >"$config" <<-END
		Host ebpfmesh
		  HostName 127.0.0.1
		  Port $1
		  User vagrant
		  IdentityFile "$state/key"
		  IdentitiesOnly yes
		  UserKnownHostsFile /dev/null
		  StrictHostKeyChecking no
		  LogLevel ERROR
		  ServerAliveInterval 30
		  ServerAliveCountMax 20
	END
}

boot() {
	local port accel=tcg,thread=multi
	if grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo && [ -w /dev/kvm ]; then
		accel=kvm
	fi
	accel=${VM_ACCEL:-$accel}
	port=$(free_port)
	[ -e "$disk" ] || qemu-img create -q -f qcow2 -F raw -b "$base.ext4" "$disk"
	write_ssh_config "$port"
	say "booting ($accel); its console: $state/console.log"
	qemu-system-x86_64 -machine q35 -accel "$accel" -cpu max \
		-smp "${VM_CPUS:-2}" -m "${VM_MEMORY:-4096}" \
		-kernel "$base.vmlinuz" -initrd "$base.initrd" \
		-append "root=/dev/vda rw console=ttyS0 net.ifnames=0" \
		-drive "file=$disk,if=virtio,cache=unsafe" \
		-netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net \
		-device virtio-rng-pci -display none -monitor none -serial "file:$state/console.log" \
		-pidfile "$state/pid" -daemonize ||
		fail 1 "qemu did not start" "its message is above; VM_CPUS, VM_MEMORY and VM_ACCEL are knobs"
}

inside() { ssh -F "$config" ebpfmesh "$@"; }

wait_for_ssh() {
	local begin=$SECONDS limit=${VM_BOOT_SECONDS:-900}
	until inside -o ConnectTimeout=20 true 2>/dev/null; do
		running >/dev/null || fail 1 "qemu has ended" "look at $state/console.log"
		[ $((SECONDS - begin)) -lt "$limit" ] ||
			fail 1 "no ssh within $limit s" "look at $state/console.log; VM_BOOT_SECONDS is a knob"
		sleep 1
	done
	say "up: $(inside uname -r) after $((SECONDS - begin)) s"
}

up() {
	mkdir -p "$state"
	build
	running >/dev/null || boot
	wait_for_ssh
	say "copying the checkout"
	copy_checkout -e "ssh -F '$config'" "$checkout/" ebpfmesh:ebpfmesh/
	inside sudo ebpfmesh/vagrant/provision.sh
}

down() {
	local pid
	pid=$(running) || return 0
	say "stopping it"
	timeout 20 ssh -F "$config" ebpfmesh sudo systemctl poweroff 2>/dev/null || true
	timeout 90 tail --pid="$pid" -f /dev/null || kill "$pid"
	rm -f "$state/pid" "$config"
}

destroy() {
	down
	rm -f "$disk"
}

case "${1-}" in
up | down | destroy) [ "$(id -u)" -eq 0 ] || fail 4 "not root" "run it with sudo" ;;
esac
case "${1-}" in
up) up ;;
ssh-config) cat "$config" ;;
down) down ;;
destroy) destroy ;;
*) fail 2 "unknown command: '${1-}'" "vagrant/vm.sh up|ssh-config|down|destroy" ;;
esac
