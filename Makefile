# Needs Python 3.11 or newer, make, and PyPI; everything else is installed into .venv. With Go, tests meet real servers too.
.DEFAULT_GOAL := help
.PHONY: help setup lint tools test bench soak golden demo lock clean

# The first interpreter that is new enough; `make PYTHON=... setup` chooses another.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
JOBS ?= 3
BIN := .venv/bin
# What surroundings may say of other environments: modules of others in the way, packages installed elsewhere.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER := 0
# Caches are in the home folder; where nothing can be written there, installers end or complain without being told.
ifneq ($(shell test -w "$$HOME" && echo writable),writable)
export UV_NO_CACHE := 1
export PIP_NO_CACHE_DIR := 1
endif
READY := .venv/.ready
EXPORT := $(BIN)/uv export --quiet --frozen --no-header --no-emit-project --all-extras --all-groups

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY) ## install the locked dependencies and this package into .venv

# The installer itself comes from the same lock, by hash. Where the index is only known to pip, pip installs the rest too.
$(READY): requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (or say which: make PYTHON=/path/to/python)" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "'$(PYTHON) -m venv' failed (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	@awk '/^uv==/ { found = 1 } found { print } found && !/\\$$/ { exit }' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@# Compiled here, because not everywhere may Python do so by itself; without, each command takes twice as long.
	@$(BIN)/python -m compileall -q -j $(JOBS) -x '/(kubernetes|envoy_data_plane|mypy|mypyc|pip)/' .venv/lib controlplane || true
	@touch $@

lint: $(READY) ## style, types, walls between packages, sizes and names, agreement of the locks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/house.py
	@$(EXPORT) | diff -q - requirements.lock >/dev/null || { echo "requirements.lock is not that of uv.lock: make lock" >&2; exit 1; }

tools: ## build the servers that tests talk to, once (needs Go; without it their tests are skipped)
	@tests/tools/build

test: lint tools ## everything: lint, then unit, property, golden and real-Envoy tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not soak" $(ARGS)

bench: $(READY) ## the table of numbers, and build/bench.json
	$(BIN)/python -m tests.bench $(ARGS)

soak: $(READY) ## the tests that run for minutes (ARGS="--soak-minutes 2 -s": see that they work)
	$(BIN)/python -m pytest -m soak -o faulthandler_timeout=0 $(ARGS)

golden: $(READY) ## rewrite the golden files; read the diff before you commit it
	$(BIN)/python -m pytest tests/golden tests/spec/test_crd.py --update-golden $(ARGS)

demo: $(READY) ## a control plane, a real Envoy and two backends on this machine (ONCE=1: check and exit)
	$(BIN)/controlplane demo $(if $(ONCE),--once)

lock: $(READY) ## choose dependency versions anew within pyproject.toml's bounds
	$(BIN)/uv lock --upgrade
	$(EXPORT) --output-file requirements.lock

clean: ## remove everything that make made
	rm -rf .venv .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
