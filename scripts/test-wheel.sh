#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Install a wheel as a user does, in a new virtual environment, and use it from a
# directory that has nothing in it: outside of the checkout, and as root in a
# sandbox of its own. Nothing is left.
#
# Usage: test-wheel.sh WHEEL
# Exit:  0 it works, otherwise the code of what did not
set -euo pipefail

# What a user types first, and what must come of it.
use() {
	set -x
	ebpfmesh doctor
	ebpfmesh -v compile
	ebpfmesh compile | grep "^nothing to do: all are kept in $VIRTUAL_ENV/"
	ebpfmesh example >edge.toml
	ebpfmesh plan edge.toml | grep '^+ function web-1'
	ebpfmesh up edge.toml
	ebpfmesh plan edge.toml | grep '^nothing to do'
	ebpfmesh show functions
	ebpfmesh exec phone -- curl -s -f --retry 9 --retry-connrefused http://portal/GPL-2 | grep Version
	ebpfmesh exec camera -- curl -s -m 5 http://portal/GPL-2 || ebpfmesh show drops | grep POLICY
	ebpfmesh down
	[ "$(ls)" = edge.toml ]
	ebpfmesh bench list
}

# What needs the extra "bench".
measure() {
	set -x
	ebpfmesh bench run demo --quick --repeat 1 -o results
	[ -s results/report.html ]
}

if [ "${1-}" = --inside ]; then
	"$2"
	exit
fi
install() {
	local words=(pip install --quiet --disable-pip-version-check --root-user-action=ignore "$1")
	"${words[@]}" || { sleep 10 && "${words[@]}"; } # the index may not answer at once
}
sandboxed() {
	python -c 'import os, sys; from ebpfmesh.kernel import netns
netns.enter_sandbox(); os.execvp(sys.argv[1], sys.argv[1:])' bash "$script" --inside "$1"
}
wheel=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
/usr/bin/python3 -m venv --system-site-packages "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
script=$(realpath "$0")
install "$wheel"
mkdir "$work/empty"
cd "$work/empty"
sandboxed use
install "${wheel}[bench]"
sandboxed measure
