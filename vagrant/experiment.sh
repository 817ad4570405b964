#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Run a scenario inside the machine and bring its results to results/SCENARIO-TIME.
#
# Usage: experiment.sh SSH_CONFIG SCENARIO [OPTION of `ebpfmesh bench run`]...
# Exit:  0 done, 2 usage, else of `ebpfmesh bench run` inside
set -euo pipefail

[ $# -ge 2 ] || {
	echo "usage: experiment.sh SSH_CONFIG SCENARIO [OPTION]..." >&2
	exit 2
}
config=$1 scenario=$2
shift 2
name=$(basename "$scenario" .toml)-$(date +%Y%m%d-%H%M%S)
results=$(cd "$(dirname "$0")" && pwd)/results/$name

# shellcheck disable=SC2029 # the names are of this side
ssh -F "$config" ebpfmesh "cd ebpfmesh && sudo .venv/bin/ebpfmesh bench run \
	${*@Q} -o 'build/bench/$name' -- '$scenario'" || {
	status=$?
	echo "experiment: $scenario failed inside the machine" >&2
	echo "hint: its message is above; names of scenarios: make -C vagrant ssh, then" \
		"ebpfmesh/.venv/bin/ebpfmesh bench list" >&2
	exit $status
}
mkdir -p "$results"
rsync --archive -e "ssh -F '$config'" "ebpfmesh:ebpfmesh/build/bench/$name/" "$results/"
echo "results: $results"
echo "report: $results/report.html"
