# A checkout's commands. `make demo` and `make test` make what they need on a fresh machine first.

PY := .venv/bin/python

# Tests start hundreds of Python processes: without bytecode each of them would compile all of Dayfly first.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: demo test unit lint format types bench test-kills test-nodes test-clouds test-clients test-faults real-world tried venv venv-dev venv-bench engine clean

demo: venv engine
	@$(PY) examples/quickstart.py

# Most tests wait for engines and servers, so that one more than there are cores goes well. JOBS=1: one after the other.
JOBS ?= $(shell expr `getconf _NPROCESSORS_ONLN` + 1)
PYTEST = $(PY) -m pytest -n $(JOBS) --dist worksteal

# What takes minutes, or more than an hour, has targets of its own: kills, the crash matrix, many machines at once, every end of the
# clouds' machines and of several clients. A short sample of each is here. The types are checked by one of the tests, so that they
# take no time of their own.
test: lint engine
	@$(PYTEST) -m "not kills and not nodes and not clouds and not clients"

# The unit tests alone, on all cores and off the disk: what starts a server or a process at length is left to `make test`.
unit: venv-dev
	@if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi; $(PY) -m pytest -q -n auto --dist worksteal -m "not kills and not engine and not sshd and not network and not process" \
		$(foreach folder,engine faults emulators real_world,--ignore=tests/$(folder))

lint: venv-dev
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

format: venv-dev
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

types: venv-dev
	@$(PY) -m mypy

bench: venv-bench engine
	@$(PY) -m benchmarks $(ONLY)

test-kills: venv-dev engine
	@$(PY) -m pytest -m kills tests/faults -s -q

# Four machines that share a map, with calls that crash or take too long; the examples of several machines; and a step of torch on
# two, where torch is installed.
test-nodes: venv-dev engine
	@$(PY) -m pytest -m nodes tests -s -q -rs

test-clouds: venv-dev engine
	@$(PYTEST) -m clouds tests/engine

test-clients: venv-dev engine
	@$(PYTEST) -m clients tests/engine

# Goes on where it was broken off, as long as the code is the same. One family: ONLY=kills; a part: SHARD=1/2. One trial again,
# beside the records: ONLY=kills SEED=7. CHECK=1 switches off each safety rule of the product instead, and sees it noticed.
test-faults: venv-dev engine
	$(if $(SEED),$(if $(ONLY)$(CHECK),,$(error SEED=$(SEED) is a trial of one family: add ONLY=, as in ONLY=kills SEED=$(SEED))))
	@$(PY) -m tests.faults $(if $(CHECK),--self-check,$(if $(SEED),--trials 1,--resume)) $(if $(ONLY),--family $(ONLY)) $(if $(SHARD),--shard $(SHARD)) $(if $(SEED),--seed $(SEED))

# Runs on real clouds; each test says which credentials it needs, and prints what it can cost before it spends it.
real-world: venv-dev engine
	@$(PY) -m pytest -v -rs tests/real_world

# Takes what the last test runs have shown into the README's table of what was tried how, and the catalog's prices into the page
# that compares providers.
tried: venv-dev
	@$(PY) -m tests.tried
	@$(PY) -m tests.comparison

venv:
	@sh scripts/bootstrap.sh run

venv-dev:
	@sh scripts/bootstrap.sh dev

venv-bench:
	@sh scripts/bootstrap.sh bench

engine: venv
	@$(PY) -m dayfly.stacks.engine install

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
