# SPDX-License-Identifier: BSD-2-Clause
SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

BIN    := .venv/bin
# A test that takes a minute alone, among four on a machine of a fifth of the speed.
PYTEST := $(BIN)/pytest -o timeout=900 $(PYTEST_ARGS)
TWO_WORKERS := --numprocesses 2 --dist loadfile
# Tests of netns and e2e wait for the kernel and for each other most of the time; files come in the
# order of tests/conftest.py.
FOUR_WORKERS := --numprocesses 4 --dist loadfile --no-loadscope-reorder
# Four workers share two cores with all that they start: what fails is told, and tried again by itself.
AGAIN = || { echo "what failed, again by itself:"; \
	$(PYTEST) --last-failed --last-failed-no-failures none --exitfirst $(1); }
# A hundred modules, to be compiled for each command that a test runs, else.
unexport PYTHONDONTWRITEBYTECODE
SHELL_FILES = $(wildcard .ci/run scripts/*.sh tests/*/*.sh vagrant/*.sh)
KERNELS := PYTHONPATH=tests $(BIN)/python -m kernels.
C_FILES = $(shell find bpf -path bpf/include/uapi -prune -o -name '*.[ch]' -print)
BUILD := $(BIN)/python -m build --no-isolation --outdir
SCENARIOS ?= stream rr crr pps services rules functions update load observation http
SPDX_IN = $(wildcard bpf ebpfmesh tests scripts vagrant)

##@ Use
.PHONY: help setup demo bench-quick bench bench-uplink
help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { print "\n" substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what a mesh needs and is not there yet (root, if packages are missing)
	@scripts/setup.sh run

demo: setup ## see a mesh work, in namespaces of its own (root)
	@$(BIN)/ebpfmesh demo

bench-quick: setup-test ## measure the mesh beside the iptables path (root)
	$(BIN)/ebpfmesh bench run quick

bench: setup-test ## measure everything there is a scenario for; takes long (root)
	$(BIN)/ebpfmesh bench run $(SCENARIOS)

bench-uplink: ## measure what an uplink brings, beside DPDK, which it installs: 160 MB (root)
	@scripts/setup.sh dpdk
	$(BIN)/ebpfmesh bench run uplink

##@ Test
.PHONY: test lint types unit prog netns e2e equivalence kernels test-equivalence test-kernels
.PHONY: verifier-stats soak oracle chaos floods port-speed pool-speed deny-speed early-speed test-wheel test-vm
.PHONY: setup-test setup-lint
test: lint types unit prog netns e2e equivalence ## lint, types, unit, prog, netns, e2e, equivalence (root)

lint: setup-lint ## style, import layers, licence lines, names in comments, drift of the ABI, Vagrantfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@clang-format --dry-run -Werror $(C_FILES)
	shellcheck $(SHELL_FILES)
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter
	@! find $(SPDX_IN) -regex '.*\.\(py\|c\|h\|sh\)' -size +0 -exec grep -L SPDX-License-Identifier {} + \
		| sed 's/$$/: no SPDX line/' | grep .
	scripts/names.py
	$(BIN)/python -m ebpfmesh.abi --check
	$(BIN)/python -m ebpfmesh.config.reference --check
	@$(MAKE) -s -C vagrant validate

types: setup-test ## mypy --strict
	$(BIN)/mypy

unit: setup-test ## no root, no kernel
	$(PYTEST) $(TWO_WORKERS) tests/unit

prog: setup-test ## single programs on single packets, by BPF_PROG_TEST_RUN (root)
	$(PYTEST) $(TWO_WORKERS) tests/prog

netns: setup-test ## real stacks in namespaces of their own (root)
	$(PYTEST) $(FOUR_WORKERS) tests/netns $(call AGAIN,tests/netns)

e2e: setup-test ## the command line, with containers (root)
	$(PYTEST) $(FOUR_WORKERS) tests/e2e $(call AGAIN,tests/e2e)

equivalence: setup-test ## generated rules and packets: the mesh does what iptables does (root)
	$(PYTEST) tests/equivalence

kernels: setup-test ## a few tests of prog and netns on older kernels, in virtual machines (root)
	$(KERNELS)run quick

test-kernels: setup-test ## the tiers prog and netns on these kernels: takes hours (root)
	$(KERNELS)run full

verifier-stats: setup-test ## what the running kernel makes of the programs (root)
	$(PYTEST) -q tests/prog/test_verifier.py
	@$(KERNELS)verifier

test-equivalence: setup-test ## equivalence with many more, and others each time (root)
	EBPFMESH_EQUIVALENCE=2000 $(PYTEST) tests/equivalence

soak: setup-test ## a mesh lives through any changes, some killed, over and over: SOAK=N lives (root)
	EBPFMESH_SOAK=$(or $(SOAK),50) $(PYTEST) -s tests/netns/test_soak.py

oracle: setup-test ## no packet and no connection is lost while all is changed: CHANGES=N CONNECTIONS=N (root)
	EBPFMESH_ORACLE="$(or $(CHANGES),100) $(or $(CONNECTIONS),1000)" \
		$(PYTEST) -s --log-cli-level=INFO tests/netns/test_oracle.py

chaos: setup-test ## kill -9 of commands, keepers, the daemon under load, and of conmon: KILLS=N of each (root)
	EBPFMESH_CHAOS=$(or $(KILLS),100) $(PYTEST) -s --log-cli-level=INFO \
		--timeout 0 tests/e2e/test_chaos.py tests/netns/test_container.py -k "kill"

floods: setup-test ## one tenant floods what all share beside connections of another: CONNECTIONS=N (root)
	EBPFMESH_FLOODS="$(or $(CONNECTIONS),1000) 20 2000" $(PYTEST) -s tests/netns/test_share_floods.py

port-speed: setup-test ## packets by a port beside those by recvmmsg, in CPU time: ROUNDS=N (root)
	EBPFMESH_PORT_SPEED=$(or $(ROUNDS),6) \
		$(PYTEST) -s --log-cli-level=INFO tests/netns/test_port_speed.py

pool-speed: setup-test ## messages by a pool beside those by TCP over the mesh: ROUNDS=N (root)
	EBPFMESH_POOL_SPEED=$(or $(ROUNDS),6) \
		$(PYTEST) -s --log-cli-level=INFO tests/netns/test_pool_speed.py

deny-speed: setup-test ## a packet of 100 000 denied prefixes beside a bare XDP_DROP: ROUNDS=N (root)
	EBPFMESH_DENY_SPEED=$(or $(ROUNDS),6) \
		$(PYTEST) -s --log-cli-level=INFO tests/netns/test_deny_speed.py

early-speed: setup-test ## a packet from an uplink by XDP beside a bare redirect: ROUNDS=N (root)
	EBPFMESH_EARLY_SPEED=$(or $(ROUNDS),6) \
		$(PYTEST) -s --log-cli-level=INFO tests/netns/test_early_speed.py

test-wheel: wheel ## the wheel, built twice to the same bytes, in an empty directory (root)
	umask 077; $(BUILD) build/again >/dev/null
	cmp dist/*.whl build/again/*.whl && cmp dist/*.tar.gz build/again/*.tar.gz
	scripts/test-wheel.sh dist/*.whl

# Not a part of `test`: emulation takes long.
EMULATED = $(MAKE) -C vagrant MACHINE=emulated
test-vm: ## vagrant/ on a bare Debian 12, emulated: provision, some tests, a measurement (root)
	@scripts/setup.sh emulator
	$(EMULATED) destroy
	$(EMULATED) test experiment TESTS='unit prog e2e' SCENARIOS=demo \
		PYTEST_ARGS="-k 'test_source or test_layout or test_meter or test_show'"
	$(EMULATED) destroy

setup-test: ## install what the tests need and is not there yet
	@scripts/setup.sh test

setup-lint: ## install what lint needs, besides
	@scripts/setup.sh lint

##@ Work on it
.PHONY: abi wheel format clean
abi: setup-test ## generate ebpfmesh/_abi.py from bpf/include/mesh_abi.h
	$(BIN)/python -m ebpfmesh.abi

wheel: setup-test ## build dist/: the sdist, and from it the wheel
	rm -rf dist build/again
	$(BUILD) dist

docs: setup-test ## generate docs/mesh-file.md from the models
	$(BIN)/python -m ebpfmesh.config.reference

format: setup-lint ## format Python and C in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i $(C_FILES)

clean: ## remove caches and builds; .venv stays
	rm -rf .cache .hypothesis build dist
	find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
