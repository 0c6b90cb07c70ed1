# Two targets are all one needs: `make up` and `make test`. Everything lives in .venv; nothing else is installed, but for
# the Debian packages that the system tests use, and those only where this user may.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev tools up down test test-operator test-applications test-conformance test-vm vm-tools test-page page-tools test-databases database-tools demo-lightning test-lightning node-tools lint docs sim model sim-bugs deaths \
	mutants soak bench bench-quick bench-tools lock clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
export PATH := $(PATH):/usr/sbin:/sbin

# command, or file, and the Debian package that has it
TOOLS := nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdfuse:libnbd-bin nbdkit:nbdkit qemu-img:qemu-utils qemu-io:qemu-utils \
	qemu-system-x86_64:qemu-system-x86 swtpm:swtpm tpm2_checkquote:tpm2-tools /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf \
	fio:fio badblocks:e2fsprogs /usr/lib/python3/dist-packages/nbd.py:python3-libnbd losetup:mount fsfreeze:util-linux mke2fs:e2fsprogs e2fsck:e2fsprogs fusermount3:fuse3 fuse2fs:fuse2fs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs ssh-keygen:openssh-client sqlite3:sqlite3

# The same for what the benchmarks compare with; none of it is left running.
BENCH_TOOLS := gluster:glusterfs-cli glusterfs:glusterfs-client glusterd:glusterfs-server etcd:etcd-server \
	/usr/lib/postgresql/*/bin/postgres:postgresql ss:iproute2

# For the page and the alerts: a browser, and Prometheus for its promtool; some 150 MB, so `make test` goes without.
PAGE_TOOLS := chromium:chromium promtool:prometheus

# For the machines that use an array: what runs in them, and busybox around it. zfs-fuse is kept from starting here.
VM_TOOLS := busybox:busybox-static cryptsetup:cryptsetup-bin dmsetup:dmsetup nbd-client:nbd-client sfdisk:fdisk \
	sgdisk:gdisk xfs_repair:xfsprogs btrfs:btrfs-progs zfs-fuse:zfs-fuse zpool:zfs-fuse

# For databases on a mounted array, which `make test` leaves alone.
DATABASE_TOOLS := /usr/lib/postgresql/*/bin/postgres:postgresql pgbench:postgresql-contrib sqlite3:sqlite3 \
	mdb_stat:lmdb-utils ldb:rocksdb-tools systemd-analyze:systemd

# For the demo of a Lightning node; its npm packages go into build/lightning.
NODE_TOOLS := node:nodejs npm:npm

# What was downloaded once is kept beside other caches of this user, so that a second clone needs no network. A lock's
# hashes say what is the right file, wherever it comes from.
WHEELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/perdure/wheels

# --no-deps: a lock is whole, and pip must not look for a newer release of what a package names with an extra; `pip
# check` says so if it is not. --no-build-isolation: the one build dependency is in the lock too, so nothing is fetched
# that no hash covers.
define INSTALL
install_lock() {
	local wheels="$(WHEELS)"
	if ! { mkdir -p "$$wheels" && [ -w "$$wheels" ]; } 2>/dev/null; then wheels=$(VENV)/wheels; fi
	local from_here=(--no-index --find-links "$$wheels" --no-build-isolation --no-deps --require-hashes -r "$$1")
	if ! $(PIP) install "$${from_here[@]}" 2>/dev/null; then
		$(PIP) download --no-build-isolation --no-deps --require-hashes --dest "$$wheels" -r "$$1"
		$(PIP) install "$${from_here[@]}"
	fi
}
endef

# How apt-get may be run: by root, by sudo without a password, or not at all.
define APT
apt() {
	if ! command -v apt-get >/dev/null; then return 1; fi
	if [ "$$(id -u)" = 0 ]; then DEBIAN_FRONTEND=noninteractive apt-get "$$@"
	elif sudo -n true 2>/dev/null; then sudo -n DEBIAN_FRONTEND=noninteractive apt-get "$$@"
	else return 1; fi
}
endef

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.installed ## Make .venv and install the locked dependencies

setup-dev: $(VENV)/.installed-dev

$(VENV)/.made:
	@$(APT)
	for python in python3.11 python3 python3.12 python3.13; do
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
		python=
	done
	if [ -z "$$python" ]; then
		echo 'Perdure needs Python 3.11 or later, and there is none; install it (on Debian: apt install python3).' >&2
		exit 2
	fi
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then
		package="python$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
		echo "installing the Debian package $$package"
		if ! { apt -qq update && apt -qq install -y "$$package"; }; then
			echo "Python's venv module is not complete here; run: apt install $$package" >&2
			exit 2
		fi
	fi
	"$$python" -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made requirements.lock pyproject.toml
	@$(INSTALL)
	echo 'installing the locked dependencies into $(VENV)'
	install_lock requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@$(INSTALL)
	echo 'installing the locked test tools into $(VENV)'
	install_lock requirements-dev.lock
	$(PIP) check
	touch $@

up: setup ## Serve an array of simulated disks here; ARGS="--size 1G" adds options
	@$(BIN)/perdure up $(ARGS)

down: setup ## Stop serving; ARGS=--destroy ends the disks too
	@$(BIN)/perdure down $(ARGS)

# Install the Debian packages of the list $(1) that are missing and that $(2) need; say which $(3) are skipped without.
define PACKAGES
$(APT)
there() { command -v "$$1" >/dev/null || compgen -G "$$1" >/dev/null; }
missing() { for tool in $(1); do there "$${tool%%:*}" || echo "$$tool"; done; }
lacking=$$(missing)
if [ -n "$$lacking" ]; then
	packages=$$(printf '%s\n' $$lacking | cut -d: -f2 | sort -u | tr '\n' ' ')
	echo "installing the Debian packages that $(2) need: $$packages"
	apt -qq update || true
	for package in $$packages; do
		apt -qq install -y --no-install-recommends "$$package" >/dev/null \
			|| echo "not installed: $$package (not available, or this user may not)"
	done
fi
for tool in $$(missing); do
	echo "SKIPPED: the $(3) that need $${tool%%:*}, which is not here; apt install $${tool##*:} brings it"
done
endef

tools:
	@$(call PACKAGES,$(TOOLS),the system tests,tests)

# Which keeps Debian from starting as a service what it installs.
define NO_SERVICES
policy=/usr/sbin/policy-rc.d
if [ "$$(id -u)" = 0 ] && [ ! -e $$policy ]; then
	trap "rm -f $$policy" EXIT
	printf '#!/bin/sh\nexit 101\n' > $$policy
	chmod +x $$policy
fi
endef

bench-tools: tools
	@$(NO_SERVICES)
	$(call PACKAGES,$(BENCH_TOOLS),the benchmarks,benchmarks)

page-tools:
	@$(NO_SERVICES)
	$(call PACKAGES,$(PAGE_TOOLS),the tests of the page,tests)

database-tools: tools
	@$(NO_SERVICES)
	$(call PACKAGES,$(DATABASE_TOOLS),the tests of databases,tests)

node-tools: tools
	@$(NO_SERVICES)
	$(call PACKAGES,$(NODE_TOOLS),the demo of a Lightning node,tests)

# The disk program and the pure cores first, and every branch of them; then everything that starts processes, and what
# is long and would be twice as long while branches are counted.
LONG := tests/array/test_every_death.py
# The operator's day for real: alarms, drills, upgrades, mounts, successions. Twenty minutes, which `make test` has not.
OPERATOR := $(addprefix tests/cli/,test_operations.py test_operations_hostile.py test_drills.py test_upkeep.py test_run.py) \
	tests/system/test_upgrades.py \
	$(addprefix tests/lifecycle/,test_attacks.py test_succession.py test_secrecy.py)
# What has a target of its own: virtual machines, databases, programs of others, applications.
APPLICATIONS := tests/kv tests/vss tests/cln tests/statechain
APART := tests/soak tests/vm tests/databases tests/conformance tests/lightning $(APPLICATIONS)
CORES := tests/array tests/disk tests/evidence tests/image tests/keystore tests/loader tests/manifest tests/nbd tests/simtee tests/spec \
	tests/sqlite tests/volume

test: setup-dev tools ## Run every test but the long ones
	@$(BIN)/python -m pytest -rs --cov --cov-report=term --ignore=$(LONG) $(CORES)
	$(BIN)/python -m pytest -rs $(addprefix --ignore=,$(CORES) $(OPERATOR) $(APART)) tests $(LONG)

test-operator: setup-dev tools ## Raise every alarm, run the drills, upgrade, mount, update and move under load
	@$(BIN)/python -m pytest -rs $(OPERATOR) $(ARGS)

test-applications: setup-dev tools ## VSS, Core Lightning's plugin, the key-value store, the statechain example
	@$(BIN)/python -m pytest -rs $(APPLICATIONS) $(ARGS)

test-conformance: setup-dev tools ## Run programs that others wrote for testing against a served array
	@$(BIN)/python -m pytest -rs tests/conformance $(ARGS)

vm-tools: tools
	@$(NO_SERVICES)
	$(call PACKAGES,$(VM_TOOLS),the virtual machines,tests)

test-vm: setup-dev vm-tools ## Boot disks' images in virtual machines; run LUKS and file systems on arrays in others
	@$(BIN)/python -m pytest -rs tests/vm $(ARGS)

test-page: setup-dev page-tools ## Run the page in Chromium, and the alerts in Prometheus' promtool
	@$(BIN)/python -m pytest -rs tests/page tests/monitoring tests/service/telling/test_metrics.py $(ARGS)

test-databases: setup-dev database-tools ## Kill PostgreSQL, SQLite, LMDB, RocksDB and all below them; some 20 minutes
	@$(BIN)/python -m pytest -rs tests/databases $(ARGS)

demo-lightning: setup-dev node-tools ## Roll a Lightning node back, and fail to on an array; report in build/lightning
	@$(BIN)/python -m examples.lightning $(ARGS)

test-lightning: setup-dev node-tools ## Run that demo with few payments and check what it finds
	@$(BIN)/python -m pytest -rs tests/lightning $(ARGS)

lint: setup-dev ## Check style, types and who imports whom
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup-dev ## Write the pages that are made from the code: docs/cli, and the figures of docs/sizing.md
	@$(BIN)/python -m perdure.cli.pages docs/cli
	$(BIN)/python -m docs.make_sizing

SEEDS ?= 1000

sim: setup-dev ## Simulate whole stories of mains, hosts and deaths; SEEDS=1000
	@$(BIN)/python -m perdure.sim.run --seeds $(SEEDS) $(ARGS)

sim-bugs: setup-dev ## Put defects in by hand and count the seeds that it takes to find each; some minutes
	@$(BIN)/python -m tests.sim.bugs $(ARGS)

deaths: setup-dev ## Let every subset of disks die at every effect, with 3-of-5 whole; some ten minutes
	@PERDURE_DEATHS=all $(BIN)/python -m pytest -rP tests/array/test_every_death.py $(ARGS)

mutants: setup-dev ## Change the trusted code in every small way; a test must notice; ARGS=FILE for one file
	@$(BIN)/python tests/mutation/run.py $(ARGS)

model: setup-dev ## Search the rules: all states of small arrays, up to 200,000 of each larger one
	@$(BIN)/python -m model $(ARGS)

soak: setup-dev tools ## Run the long tests
	@$(BIN)/python -m pytest -rs tests/soak $(ARGS)

bench: setup-dev bench-tools ## Measure beside peers, write docs/benchmarks.md; ARGS=--help for less
	@$(BIN)/python -m bench $(ARGS)

bench-quick: setup-dev bench-tools ## The same in under two minutes, into build/bench-quick.json
	@$(BIN)/python -m bench --quick $(ARGS)

lock: $(VENV)/.made ## Resolve the dependencies anew and write both locks
	@$(PIP) install pip-tools
	compile() {
		CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
			--allow-unsafe --build-deps-for editable --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
			--no-emit-options "$$@" pyproject.toml
	}
	compile --output-file requirements.lock
	compile --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## Remove .venv and caches; arrays and disks are not touched
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
