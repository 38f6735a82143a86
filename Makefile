# SPDX-License-Identifier: GPL-3.0-or-later
# `make` alone lists the targets.
SHELL = /bin/sh
BIN = .venv/bin
FUZZ_SECONDS = 60
# The lab and the tests of dom0's programs need root.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | \
	    while IFS='	' read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

setup: ## install what the lab and the tests need (Debian packages, .venv)
	@tools/setup.sh

setup-tests:
	@tools/setup.sh tests

demo: setup ## the main job, shown in the lab: provision, back up, restore, compare
	@lab/demo

# The roles of the scenarios that CI leaves out are applied by the end-to-end tests.
CI_SCENARIOS = $(if $(THOROUGH),,default salt storage_qube)
CI_GUARD = $(if $(THOROUGH),guard,guard-bookworm guard-sid)
# What runs side by side waits for most of the time, each for something else.
test: setup-tests ## everything that CI runs
	@tools/side-by-side.sh tools/lint.sh '$(SUDO) env THOROUGH=$(THOROUGH) tools/unit.sh'
	@$(MAKE) test-upstream
	@tools/salt.sh
	@$(SUDO) lab/lab build
	@tools/side-by-side.sh '$(SUDO) $(E2E)' '$(SUDO) $(BIN)/pytest -q $(SALT) \
	    && tools/molecule.sh $(CI_SCENARIOS) && tools/molecule.sh $(CI_GUARD)'
	@$(if $(THOROUGH),tools/ansible-2.16.sh)
	@$(MAKE) parity

test-all: ## the same, and what takes too long for CI
	@tools/setup.sh bench
	@THOROUGH=1 $(MAKE) test e2e-second

lint: setup ## all linters
	@tools/lint.sh

unit: setup-tests ## unit tests: shim, store, lab, modules
	@$(SUDO) env THOROUGH=$(THOROUGH) tools/unit.sh

coverage: setup-tests ## which branches the unit tests take (two hours)
	@$(SUDO) env THOROUGH=$(THOROUGH) tools/coverage.sh

fuzz: setup ## fuzz the shim's readers, for FUZZ_SECONDS (60)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-fuzz.txt
	@mkdir -p .cache/fuzz
	@PYTHONPATH=. $(BIN)/python -m testing.shim.fuzz -max_total_time=$(FUZZ_SECONDS) \
	    -artifact_prefix=.cache/fuzz/ -max_len=4096

bench-shim: setup ## measure the shim against the guide's script and the real scrypt (4 minutes)
	@$(BIN)/python bench/shim.py

bench: ## compare backups with the official tool, the guide, the engines alone (an hour)
	@tools/setup.sh bench
	@$(if $(QUBES_SRC),tools/setup.sh upstream)
	@$(SUDO) env BENCH_GB=$(BENCH_GB) BENCH_ROUNDS=$(BENCH_ROUNDS) BENCH_DAYS=$(BENCH_DAYS) \
	    BENCH_QUBES=$(BENCH_QUBES) BENCH_REAL=$(BENCH_REAL) BENCH_PARTS="$(BENCH_PARTS)" \
	    BENCH_DIR="$(BENCH_DIR)" WYNG="$(WYNG)" QUBES_SRC="$(QUBES_SRC)" \
	    $(BIN)/python bench/store.py

bench-years: ## time and memory of a repository of 1,000 runs, compared with 10 (an hour)
	@tools/setup.sh tests
	@tools/setup.sh bench
	@$(SUDO) env PATH="$(CURDIR)/.cache/debian13/bin:$(PATH)" BENCH_DIR="$(BENCH_DIR)" \
	    YEARS_RUNS="$(YEARS_RUNS)" YEARS_CHUNKS="$(YEARS_CHUNKS)" $(BIN)/python bench/years.py

molecule: setup ## molecule scenarios, in a systemd container
	@tools/salt.sh 3007.15
	@tools/molecule.sh

ansible-2-16: setup ## lint, syntax and one molecule scenario under ansible-core 2.16
	@tools/ansible-2.16.sh

molecule-guard: setup ## updates of scrypt by the real dnf 4 and 5, and our RPM
	@tools/molecule.sh guard

SECOND = tests/e2e/test_second_machine.py
SALT = tests/e2e/test_salt.py
PARITY = tests/e2e/test_parity.py
E2E = $(BIN)/pytest -q tests/e2e $(patsubst %,--ignore=%,$(SECOND) $(SALT) $(PARITY))
e2e: setup ## end-to-end tests, in a lab of their own
	@$(SUDO) $(E2E)

e2e-salt: setup ## in a fresh lab: the Salt formula
	@tools/salt.sh
	@$(SUDO) $(BIN)/pytest -q $(SALT)

parity: ## compare what the labs of the two were provisioned with
	@$(BIN)/pytest -q $(PARITY)

e2e-second: setup ## in a fresh lab: the playbook killed, removal, recovery (10 minutes)
	@$(SUDO) $(BIN)/pytest -q $(SECOND)

test-upstream: setup ## against the real Qubes: QUBES_SRC=DIR with checkouts, see CONTRIBUTING.md
	@QUBES_SRC="$(QUBES_SRC)" tools/upstream.sh

rpm: setup ## build the RPM for dom0 into build/rpm
	@packaging/build

clean: ## remove all that make made: containers, images, environment
	@tools/clean.sh

.PHONY: help test-all e2e-salt parity e2e-second setup setup-tests demo test lint unit coverage fuzz bench bench-shim bench-years molecule ansible-2-16 molecule-guard e2e test-upstream rpm clean
