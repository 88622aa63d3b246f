# `make run` and `make test` set up what they need in VENV, then do their work; `make` alone lists the rest.
# For GNU make 3.81 or later and a POSIX shell.

VENV ?= .venv
PEERS ?= .venv-peers
# Who makes VENV: the first of these whose version is supported.
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.10
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install -q --disable-pip-version-check -c constraints.txt
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))

.PHONY: help run test lint types check mutants faults bench-peers growth roofline results deeprm equations table clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run-installed  ## train: python run.py --algo=npg; ARGS="--env=Pendulum-v1" adds flags
	$(BIN) run.py --algo=npg $(ARGS)

test: $(VENV)/.test-installed  ## run the tests, WORKERS=2 at a time; ARGS="-k returns" adds pytest's options
	$(BIN) -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.test-installed  ## check style and layout with ruff
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check

types: $(VENV)/.test-installed  ## check types with mypy
	$(BIN) -m mypy

check: test lint types  ## test, lint and types

mutants: $(VENV)/.test-installed  ## which errors no test would notice; ARGS="--module=returns" asks for one module
	$(BIN) tests/mutants.py --workers=$(WORKERS) $(ARGS)

faults: $(VENV)/.test-installed  ## provoke what breaks and write docs/reliability.md; ARGS="--lane=slow" takes hours
	$(BIN) tests/faults $(ARGS)

growth: $(VENV)/.run-installed  ## how an update grows with batch, network and iterations
	$(BIN) benchmarks/growth.py $(ARGS)

roofline: $(VENV)/.run-installed  ## how near the cases of bench-peers come to what the machine can do
	$(BIN) benchmarks/roofline.py

bench-peers: $(VENV)/.bench-installed $(PEERS)/.installed  ## measure speed beside the peers; QUICK=1 in a few minutes
	$(BIN) benchmarks/bench_peers.py --peers=$(PEERS)/bin/python $(if $(QUICK),--quick) $(ARGS)

# The peers' own environment: a CPU build of torch first, where the index has one, then the rest as pinned.
$(PEERS)/.installed: benchmarks/peers/requirements.txt | $(BIN)
	@echo "Installing the peers into $(PEERS) (some minutes the first time)."
	@$(BIN) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

results: $(VENV)/.test-installed  ## write docs/results.md anew; ARGS=run makes the runs that are missing first
	$(BIN) benchmarks/results.py $(ARGS)

deeprm: $(VENV)/.test-installed  ## the scheduling application: train, judge, write docs/deeprm.md; ARGS=judge does one of these
	$(BIN) benchmarks/deeprm.py $(ARGS)

equations: $(VENV)/.test-installed  ## write docs/equations.md anew; ARGS=--check says what is missing
	$(BIN) docs/equations.py $(ARGS)

table: $(VENV)/.run-installed  ## write the table of algorithms in README.md anew
	$(BIN) docs/table.py

clean:  ## remove VENV and the caches, not runs/
	@if [ -e $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV) && echo "Removed $(VENV)."; fi
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info __pycache__ */__pycache__ */*/__pycache__

# Ends with a usable environment in VENV, whoever made it, or with one sentence on why there is none. VENV/.installing holds the
# process that installs. One that is gone (or a zombie, where nobody reaps them) was interrupted: what it left cannot be trusted.
define environment
say() { echo "$$*" >&2; exit 1; }; \
if [ -e $(VENV)/.installing ]; then \
    process=$$(cat $(VENV)/.installing); \
    if kill -0 "$$process" 2>/dev/null && ! grep -qs '^State:.*Z' "/proc/$$process/status"; then \
        say "Process $$process is installing into $(VENV): wait for it, or delete $(VENV)."; \
    fi; \
elif [ -e $(VENV)/bin/activate ] && $(BIN) -c '$(SUPPORTED)' 2>/dev/null && $(BIN) -m pip --version >/dev/null 2>&1; then \
    exit 0; \
fi; \
found=; python=; \
for candidate in $(PYTHON); do \
    version=$$("$$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
    if "$$candidate" -c '$(SUPPORTED)'; then python=$$candidate; break; fi; \
    found="$$found; $$candidate is $$version"; \
done; \
[ "$$python" ] || say "Python 3.10, 3.11, 3.12 or 3.13 is needed, and none was found$$found. make PYTHON=/path/to/python names one."; \
if [ -e $(VENV) ] && [ ! -e $(VENV)/pyvenv.cfg ]; then \
    say "$(VENV) exists and is no Python environment. make VENV=elsewhere names another place."; \
fi; \
echo "Creating $(VENV) with Python $$version."; \
if "$$python" -c 'import ensurepip' 2>/dev/null; then \
    "$$python" -m venv --clear $(VENV); \
else \
    { "$$python" -m venv --clear --without-pip $(VENV) && "$$python" -m pip --python $(BIN) install -q pip; } >/dev/null 2>&1 \
        || say "$$python cannot create environments. On Debian and Ubuntu: sudo apt install python3-venv"; \
fi
endef

define install
echo "Installing $(1) into $(VENV) (a minute or more the first time)."; \
echo $$$$ > $(VENV)/.installing; \
$(PIP) -r $(1); status=$$?; \
rm -f $(VENV)/.installing; \
exit $$status
endef

$(BIN):
	@$(environment)

$(VENV)/.run-installed: $(BIN) requirements.txt constraints.txt
	@$(environment)
	@$(call install,requirements.txt)
	@touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed requirements-dev.txt
	@$(call install,requirements-dev.txt)
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.run-installed benchmarks/requirements.txt
	@$(call install,benchmarks/requirements.txt)
	@touch $@

# An interrupted installation is begun anew, whatever else is up to date.
ifneq ($(wildcard $(VENV)/.installing),)
.PHONY: $(VENV)/.run-installed
endif
