# What this project can do, on a machine with Python 3.11 or newer and make.
# Every target sets up what it needs; a second run finds it and is quick.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.blockyard-ready
LOCALSTACK_VENV := .venv-localstack
LOCALSTACK_READY := $(LOCALSTACK_VENV)/.blockyard-ready
EMULATORS_VENV := .venv-emulators
EMULATORS_READY := $(EMULATORS_VENV)/.blockyard-ready
# Twice the cores of a small machine, since tests mostly wait. ORDER=N repeats an order of files.
WORKERS ?= 4
ORDER := $(or $(ORDER),$(shell date +%s))
# Collecting all others for these few takes longer than they do.
ALONE = $(call marked,alone)
# Models explored to their end, the suite over each combination, whole programs run dozens of times:
# as long as all else together, so in CI, and for THOROUGH=1.
THOROUGH_TESTS = $(if $(CI)$(THOROUGH),$(call marked,thorough))
marked = $(shell grep --recursive --files-with-matches --include='*.py' mark.$(1) tests)
IN_PARALLEL := --numprocesses $(WORKERS) --random-order-bucket=module --random-order-seed=$(ORDER)
# Coverage costs half as much again as the tests, so it is measured in CI alone, and without the
# thorough ones, which add nothing to it.
COVERAGE := $(if $(CI),--cov --cov-report=term)
# The newest of the Pythons that we say we run on and that this machine has, pyenv's too.
NEWER ?= $(shell for each in python3.14 python3.13 python3.12 $$(ls -dr ~/.pyenv/versions/3.1[234].*/bin/python 2>/dev/null); do \
	"$$each" -c 'import venv' 2>/dev/null && echo "$$each" && break; done)
NEWER_VENV := .venv-newer
NEWER_READY := $(NEWER_VENV)/.blockyard-ready
# What newer Pythons have changed before, and what has more to test there: 90 s of processor time.
NEWER_TESTS := test_clocks.py test_interrupted_loops.py test_managing.py ecosystem hosts/test_forking_servers.py testing/test_scripted_server.py \
	$(addprefix transport/test_,stepping.py tls.py) \
	$(addprefix clients/test_,cancellation.py closing.py dropped_stores.py exits.py memory_of_failures.py \
		signals.py user_code.py user_code_runtime.py)
PATH_TESTS := tests/bench/test_emulated_path.py
FUZZ_VENV := .venv-fuzz
FUZZ_READY := $(FUZZ_VENV)/.blockyard-ready
FUZZ_TARGETS := replies xml headers sums urls yaml keys
FUZZ_SECONDS ?= 60
EXAMPLES_VENV := .venv-examples
EXAMPLES_READY := $(EXAMPLES_VENV)/.blockyard-ready
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.blockyard-ready

# Tests run hundreds of programs, and each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-newer check test-servers test-services test-path servers-env localstack-env emulators-env faults faults-short fuzz mutants examples bench bench-path bench-path-check bench-report clean

help:
	@echo "make demo          store a real file on an embedded S3 endpoint, and show it"
	@echo "make test          the tests that need nothing but this machine (THOROUGH=1: all; CI=true: and their coverage)"
	@echo "make test-newer    some of them with a newer Python, where there is one (NEWER=python3.12)"
	@echo "make check         lint, format, strict types, import rules"
	@echo "make servers-env   install LocalStack, MiniStack, rclone and, as root on Debian, Ceph and nginx"
	@echo "make test-servers  the tests on these servers, and over an emulated network path (root)"
	@echo "make faults        the fault campaign: 100,000 operations, Ceph with its parts killed, writers of contents killed, the protocol of contents"
	@echo "make faults-short  its short form, 2 to 4 minutes"
	@echo "make fuzz          coverage-guided fuzzing, FUZZ_SECONDS=60 for each target"
	@echo "make mutants       plants mistakes in the source, which the tests must catch: 7 minutes (ONLY=word)"
	@echo "make examples      runs examples/ and docs/recipes.md with the libraries that they show"
	@echo "make bench         speed, CPU and memory beside other clients (QUICK=1: 3 minutes)"
	@echo "make bench-path    clients beside each other over an emulated network path (root)"
	@echo "make bench-path-check  whether the emulated network path is what it says (root)"
	@echo "make bench-report  docs/BENCHMARKS.md from the saved results"

demo: $(READY)
	@$(RUN) demo.demo

test: $(READY)
	@$(RUN) pytest -m "alone and not servers" $(ALONE)
	@$(RUN) pytest -m "not alone and not servers and not thorough" $(IN_PARALLEL) --dist loadfile $(COVERAGE)
	@$(if $(THOROUGH_TESTS),$(RUN) pytest -m "thorough and not alone and not servers" \
		$(IN_PARALLEL) --dist worksteal $(THOROUGH_TESTS))

test-newer:
	@newer="$(NEWER)"; \
	if [ -z "$$newer" ]; then \
		echo "no Python 3.14, 3.13 or 3.12 is on this machine: nothing was tested with a newer one"; \
	else \
		$(MAKE) --no-print-directory $(NEWER_READY) NEWER="$$newer" && $(NEWER_VENV)/bin/python --version && \
		$(NEWER_VENV)/bin/python -m pytest -q -m "not alone and not servers" --numprocesses $(WORKERS) \
			--dist loadfile $(addprefix tests/,$(NEWER_TESTS)); \
	fi

check: $(READY)
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/basedpyright
	@$(VENV)/bin/lint-imports --no-logo

# Over an emulated path it is mostly waited, for flows to be forgotten: 2 minutes beside the others.
test-servers: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 test-services test-path

test-services: $(READY)
	@$(RUN) pytest -m servers --ignore=$(PATH_TESTS)

test-path: $(READY)
	@$(RUN) pytest -q -m servers $(PATH_TESTS)

servers-env: $(if $(LOCALSTACK_ENDPOINT),,localstack-env) emulators-env
	@servers/install-packages

localstack-env: $(LOCALSTACK_READY)

emulators-env: $(EMULATORS_READY)

# SEED=N repeats a run.
faults: $(READY)
	@$(RUN) blockyard_faults.campaign $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.campaign --outages 300 $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.cache_folder --seconds 300 $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.killed_contents $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.killed_stage $(if $(SEED),--seed $(SEED))
	@BLOCKYARD_MORE_FAULTS=1 $(RUN) pytest -q --timeout=900 tests/content/test_protocol.py tests/content/test_interleavings.py

faults-short: $(READY)
	@$(RUN) blockyard_faults.campaign --operations 10000 $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.cache_folder --seconds 30 $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.killed_contents --kills 30 $(if $(SEED),--seed $(SEED))
	@$(RUN) blockyard_faults.killed_stage --kills 30 $(if $(SEED),--seed $(SEED))
	@BLOCKYARD_FORKS=100 $(RUN) pytest -q tests/ecosystem/test_forks.py

fuzz: $(FUZZ_READY)
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		$(FUZZ_VENV)/bin/python -m fuzz $$target -max_total_time=$(FUZZ_SECONDS) \
			-timeout=10 -rss_limit_mb=1024 -max_len=4096 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=$(FUZZ_VENV)/ || exit 1; \
	done

mutants: $(READY)
	@$(RUN) mutants $(if $(ONLY),--only "$(ONLY)")

examples: $(EXAMPLES_READY)
	@$(EXAMPLES_VENV)/bin/python -m pytest -q examples

bench: $(BENCH_READY)
	@bench/install-packages
	@$(BENCH_VENV)/bin/python -m bench run $(if $(QUICK),--quick)
	@$(BENCH_VENV)/bin/python -m bench ecosystem $(if $(QUICK),--quick)

bench-path: $(BENCH_READY)
	@$(BENCH_VENV)/bin/python -m bench path $(if $(QUICK),--quick)

bench-path-check: $(READY)
	@$(RUN) bench.path

bench-report: $(BENCH_READY)
	@$(BENCH_VENV)/bin/python -m bench report

clean:
	@rm -rf $(VENV) $(NEWER_VENV) $(LOCALSTACK_VENV) $(EMULATORS_VENV) $(FUZZ_VENV) $(EXAMPLES_VENV) $(BENCH_VENV) .coverage .coverage.* .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# `--group` needs pip 25.1, which is newer than what Python 3.11 brings.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --upgrade "pip>=25.1"
	@$(RUN) pip install --quiet --editable ".[all]" --group dev
	@touch $@

$(NEWER_READY): pyproject.toml
	@echo "setting up $(NEWER_VENV) with $(NEWER)"
	@$(NEWER) -m venv --clear $(NEWER_VENV)
	@$(NEWER_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(NEWER_VENV)/bin/python -m pip install --quiet --editable ".[all]" --group dev
	@touch $@

$(LOCALSTACK_READY): servers/localstack-requirements.txt
	@echo "setting up $(LOCALSTACK_VENV)"
	@$(PYTHON) -m venv $(LOCALSTACK_VENV)
	@$(LOCALSTACK_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(EMULATORS_READY): servers/emulators-requirements.txt
	@echo "setting up $(EMULATORS_VENV)"
	@$(PYTHON) -m venv $(EMULATORS_VENV)
	@$(EMULATORS_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(FUZZ_READY): pyproject.toml
	@echo "setting up $(FUZZ_VENV)"
	@$(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(FUZZ_VENV)/bin/python -m pip install --quiet --editable . --group fuzz
	@touch $@

$(EXAMPLES_READY): pyproject.toml
	@echo "setting up $(EXAMPLES_VENV)"
	@$(PYTHON) -m venv $(EXAMPLES_VENV)
	@$(EXAMPLES_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(EXAMPLES_VENV)/bin/python -m pip install --quiet --editable ".[fsspec,zarr]" --group examples
	@touch $@

$(BENCH_READY): pyproject.toml
	@echo "setting up $(BENCH_VENV)"
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BENCH_VENV)/bin/python -m pip install --quiet --editable ".[cli,fsspec,zarr]" --group bench
	@touch $@
