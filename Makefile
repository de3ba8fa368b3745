# `make demo` and `make test` are the whole set-up on a machine with Python 3.11 or newer and make.

PYTHON ?= python3
# More than the cores: most tests wait for timers, processes and disks.
JOBS ?= 4
VERSIONS := 3.11 3.12 3.13
LOCKS := pyproject.toml requirements.lock tests/requirements.lock
# Nothing is installed that was not tested, byte for byte, and no stranger's build script is run.
INSTALL := install --quiet --disable-pip-version-check
LOCKED := $(INSTALL) --only-binary :all: --require-hashes

# Which campaigns, how long (its own size where none is given), and what they draw their luck from:
# the same seed draws the same luck.
CAMPAIGNS ?= kills wishes powercuts cutsweep syscalls fulldisk damage hostile storm shutdowns \
	cancellations model months mutants joins
SIZE ?=
SEED ?= $(shell date +%s)
# Which rows of the benchmarks, all where none is named: see docs/performance.md.
BENCH ?=

# The path of a Python of version $(1) that really runs (a shim of pyenv may not), or nothing.
find_python = $(shell for python in python$(1) "$$HOME"/.pyenv/versions/$(1).*/bin/python$(1); do \
	"$$python" -c '' 2>/dev/null && command -v "$$python" && break; done)

.PHONY: demo test check bench campaign tools lock audit wheel

demo: .venv/installed
	.venv/bin/suno-videod demo

test: .venv/installed
	.venv/bin/pytest -n $(JOBS) --dist worksteal $(if $(CI),--no-skips)

check: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pytest -n $(JOBS) --dist worksteal --cov --cov-report=
	.venv/bin/coverage report --include='daemon/rules/*' --fail-under=100
	.venv/bin/coverage report --omit='daemon/rules/*' --fail-under=95
	@set -e; for version in $(VERSIONS); do $(MAKE) --no-print-directory test-$$version; done

# The version of .venv was tested by `check` itself.
test-%: .venv/installed
	@if [ -x .venv/bin/python$* ]; then :; \
	elif [ -z "$(call find_python,$*)" ]; then echo "python$* is not on this machine: not tested"; \
	else $(MAKE) --no-print-directory .venv-$*/installed && .venv-$*/bin/pytest -n $(JOBS) --dist worksteal; fi

bench: .venv/installed
	.venv/bin/python -m tests.benchmarks.bench $(if $(SIZE),--size $(SIZE)) $(BENCH)

campaign: .venv/installed
	@set -e; for campaign in $(CAMPAIGNS); do echo "== $$campaign"; \
	.venv/bin/python -m tests.campaigns.$$campaign $(if $(SIZE),--size $(SIZE)) --seed $(SEED); done

# As root: the system packages that some tests need.
tools:
	apt-get update
	sed 's/#.*//' tests/system-packages.txt | DEBIAN_FRONTEND=noninteractive \
		xargs --no-run-if-empty apt-get install --yes --no-upgrade --no-install-recommends

# Needs uv. `make lock UPGRADE=--upgrade` takes the newest versions.
COMPILE = uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"

lock:
	$(COMPILE) --output-file requirements.lock --group build pyproject.toml
	$(COMPILE) --output-file requirements-extras.lock --constraints requirements.lock \
		--group build --all-extras pyproject.toml
	$(COMPILE) --output-file tests/requirements.lock --constraints requirements.lock \
		--group build --group test --group lint pyproject.toml
	$(COMPILE) --output-file tests/audit.lock --group audit

# Asks a service on the internet about every locked version, and fails where it cannot: without
# --strict, an index that does not answer counts as no known vulnerability.
AUDIT = .venv-audit/bin/pip-audit --strict --require-hashes --disable-pip $(ASK)

audit: .venv-audit/installed
	$(AUDIT) -r requirements.lock
	$(AUDIT) -r requirements-extras.lock
	$(AUDIT) -r tests/requirements.lock

.venv-audit/installed: tests/audit.lock
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip $(LOCKED) -r tests/audit.lock
	@touch $@

# The same commit gives the same bytes, on any machine: compare dist/SHA256SUMS.
wheel: .venv/installed
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv/bin/python -I -m hatchling build --target wheel
	cd dist && sha256sum *.whl | tee SHA256SUMS

.venv/installed: $(LOCKS)
	$(call install,$(PYTHON))

.venv-%/installed: $(LOCKS)
	$(call install,$(call find_python,$*))

define install
	@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "suno-videod needs Python \
	3.11 or newer, and $(1) is not: name another, as in make PYTHON=python3.12" >&2; exit 1; }
	$(1) -m venv $(@D)
	$(@D)/bin/pip $(LOCKED) -r tests/requirements.lock
	$(@D)/bin/pip $(INSTALL) --no-deps --no-build-isolation --editable .
	$(@D)/bin/pip check
	@touch $@
endef
