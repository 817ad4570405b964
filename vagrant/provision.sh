#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Make a bare Debian 12 ready for tests and experiments: what `make` would install
# in the checkout that this file lies in. A second run installs nothing.
#
# Usage: provision.sh, as root
# Exit:  0 ready, 5 the machine lacks something that a mesh needs, else of scripts/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "provision: $*"; }

# shellcheck source=/dev/null
say "$(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), $(nproc) CPUs," \
	"$(awk '/^MemTotal/ { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo)"
say "packages and Python environment, by scripts/setup.sh"
scripts/setup.sh test
say "what a mesh finds here, by ebpfmesh doctor"
.venv/bin/ebpfmesh doctor || {
	say "something is missing here: see above"
	exit 5
}
say "ready: $PWD"
