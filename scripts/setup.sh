#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Install what is missing here, and only that: distribution packages, then the
# virtual environment .venv and, as root, the compiled programs in it. What is
# there is left alone, so a second run does nothing, needs no root and no network.
# Nothing installed is started.
#
# Usage: setup.sh run       what `ebpfmesh demo` and a mesh need
#        setup.sh test      besides, what the tests and benchmarks need
#        setup.sh dpdk      besides, what `make bench-uplink` compares with: 215 packages, 160 MB
#        setup.sh lint      besides, what reads the code and does not run it
#        setup.sh emulator  what vagrant/vm.sh needs, and no more
# Exit:  0 ready, 1 an installer failed, 2 usage, 4 not root, 5 not Debian
set -euo pipefail

run_packages=(
	python3-bpfcc python3-seccomp python3-venv linux-libc-dev bubblewrap
	iproute2 iptables nftables ethtool iputils-ping util-linux
	iperf3 nginx-light sockperf wrk
)
test_packages=(
	bpftool busybox-static containerd containernetworking-plugins curl dnsmasq-base gcc kmod libc6-dev make
	openssh-client openssh-server openvswitch-switch podman postgresql procps
	qemu-system-x86 redis-server runc tcpdump traceroute tshark
)
# testpmd is in dpdk-dev, which needs all of DPDK.
dpdk_packages=(
	dpdk-dev librte-net-af-packet23 librte-net-af-xdp23
)
lint_packages=(
	clang-format shellcheck vagrant-libvirt
)
emulator_packages=(
	e2fsprogs mmdebstrap openssh-client python3 qemu-system-x86 qemu-utils rsync
)
venv=.venv
stamp=$venv/installed

say() { echo "setup: $*" >&2; }

fail() {
	say "$2"
	echo "hint: $3" >&2
	exit "$1"
}

# Print those of the packages "$@" that are not installed.
missing_packages() {
	local installed package
	installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
	for package; do
		grep -qx "$package installed" <<<"$installed" || echo "$package"
	done
}

# Print the units that start at boot; works with and without a running systemd.
enabled_units() {
	command -v systemctl >/dev/null || return 0
	systemctl --root=/ list-unit-files --state=enabled --no-legend | cut -d ' ' -f 1 | sort
}

# Run a command that needs the network until it succeeds, thrice at most.
again() {
	local pause
	for pause in 10 30; do
		"$@" && return
		say "$1 failed, once more in $pause seconds"
		sleep "$pause"
	done
	"$@"
}

apt() {
	DEBIAN_FRONTEND=noninteractive again apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >&2 ||
		fail 1 "apt-get $1 failed" "its messages are above"
}

# Install packages without letting them start anything, now or at the next boot.
install_packages() {
	local policy=/usr/sbin/policy-rc.d before new
	before=$(enabled_units)
	if [ ! -e "$policy" ]; then
		# shellcheck disable=SC2064 # now, while it is known
		trap "rm -f $policy" EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	apt update
	apt install --no-install-recommends "$@"
	mapfile -t new < <(comm -13 <(echo "$before") <(enabled_units))
	[ ${#new[@]} -eq 0 ] || systemctl --root=/ --quiet disable "${new[@]}"
}

setup_packages() {
	local missing
	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		fail 5 "this is neither Debian nor Ubuntu" \
			"install what these Debian packages hold, then make $venv by hand: $*"
	fi
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		fail 4 "not root, and packages are missing: ${missing[*]}" \
			"run it with sudo, or: apt-get install --no-install-recommends ${missing[*]}"
	fi
	say "installing ${missing[*]}"
	install_packages "${missing[@]}"
}

# The stamp says what was installed from which pyproject.toml, by which Python.
setup_venv() {
	local extra=$1 have wanted
	wanted="$(sha256sum <pyproject.toml) $(readlink -f /usr/bin/python3) $PWD"
	have=$(cat "$stamp" 2>/dev/null || true)
	case "$have" in
	"dev $wanted") return 0 ;;
	"run $wanted") [ "$extra" = dev ] || return 0 ;;
	esac
	say "installing Python packages into $venv"
	/usr/bin/python3 -m venv --system-site-packages "$venv"
	again $venv/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--editable ".[$([ "$extra" = dev ] && echo dev || echo bench)]" >&2 ||
		fail 1 "pip could not install into $venv" "its messages are above"
	echo "$extra $wanted" >"$stamp"
	# Made by sudo in somebody's checkout: it is theirs to remove.
	[ "$(id -u)" -ne 0 ] || chown -R --reference=pyproject.toml "$venv"
}

# Compile the programs of a mesh now, so that no `up` has to; root alone may load them.
setup_programs() {
	[ "$(id -u)" -eq 0 ] || return 0
	$venv/bin/ebpfmesh compile >/dev/null ||
		say "no programs are kept: each mesh will compile its own"
	[ ! -e "$venv/share" ] || chown -R --reference=pyproject.toml "$venv/share"
}

cd "$(dirname "$0")/.."
case "${1-}" in
run) packages=("${run_packages[@]}") extra=run ;;
test) packages=("${run_packages[@]}" "${test_packages[@]}") extra=dev ;;
dpdk) packages=("${run_packages[@]}" "${test_packages[@]}" "${dpdk_packages[@]}") extra=dev ;;
lint) packages=("${run_packages[@]}" "${test_packages[@]}" "${lint_packages[@]}") extra=dev ;;
emulator) packages=("${emulator_packages[@]}") extra= ;;
*) fail 2 "unknown set of packages: '${1-}'" "scripts/setup.sh run|test|dpdk|lint|emulator" ;;
esac
if grep -qs '^ID=ubuntu' /etc/os-release; then
	# Ubuntu ships bpftool with its kernels.
	packages=("${packages[@]/#bpftool/linux-tools-generic}")
fi
if dpkg-query -W -f '${db:Status-Status}' containerd.io 2>/dev/null | grep -qx installed; then
	# Docker's own package has both; these would remove it, and Docker with it.
	for package in containerd runc; do
		packages=("${packages[@]/#$package/containerd.io}")
	done
fi

exec 9<pyproject.toml
flock 9 # one at a time
setup_packages "${packages[@]}"
if [ -n "$extra" ]; then
	setup_venv "$extra"
	setup_programs
fi
