# Each target does its own set-up: Python 3.11 or later, make and a package
# registry are enough. ARGS goes to the program: make serve ARGS="--port 8080"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
# Debian keeps nginx where only root looks.
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench docs lock env up clean tools

help:
	@echo "make demo    a server, eleven files from a difficult origin and one verified archive"
	@echo "make serve   the server"
	@echo "make test    every test"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measurements"
	@echo "make docs    docs/configuration.md, from the settings"
	@echo "make lock    renew what the image installs"
	@echo "make env     DOMAIN=files.example.com: make .env with secrets of its own"
	@echo "make up      DOMAIN=files.example.com: the whole service in containers"
	@echo "make clean   remove what these made"

demo: $(VENV)/.installed
	@$(BIN)/downloadd demo $(ARGS)

serve: $(VENV)/.installed
	@$(BIN)/downloadd serve $(ARGS)

# Hundreds of servers are started: none is to compile its modules anew, whatever the shell says.
# What measures the seconds that SPEC promises comes after all others. 5 is pytest's word for
# having found none.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.installed-dev tools
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone" $(ARGS); most=$$?; \
	[ $$most = 0 ] || [ $$most = 5 ] || exit $$most; \
	$(BIN)/python -m pytest -m alone $(ARGS); alone=$$?; \
	[ $$alone != 5 ] || exit $$most; exit $$alone

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(VENV)/.installed-dev tools
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.installed
	$(BIN)/python -m downloadd.cli.reference config.toml >docs/configuration.md

# For every platform and Python at once. The hashes are of all files of a version.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header

lock: $(VENV)/.installed-dev
	$(LOCK) pyproject.toml --extra telemetry --output-file requirements.lock
	@$(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) - --no-annotate --output-file requirements-build.lock

env:
	@deploy/init "$(DOMAIN)"

up:
	@deploy/up "$(DOMAIN)"

clean:
	rm -rf $(VENV) build dist *.egg-info bench/out
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "installing downloadd into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.made
	@echo "installing downloadd and what its tests need into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# apt PACKAGES: install Debian packages where this user may; fail where not.
apt = { as=no; \
	if command -v apt-get >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ]; then as=; elif sudo -n true 2>/dev/null; then as="sudo -n"; fi; \
	fi; \
	[ "$$as" != no ] && echo "installing Debian packages:" $(1) && \
	$$as env DEBIAN_FRONTEND=noninteractive apt-get -qq update && \
	$$as env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
		install $(1) >/dev/null; }

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "downloadd needs Python 3.11 or later: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,python3-venv) || { \
		echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

tools:
	@missing=; \
	for pair in nginx:nginx 7z:p7zip-full bsdtar:libarchive-tools zip:zip unzip:unzip curl:curl ip:iproute2 \
		chromium:chromium esbuild:esbuild promtool:prometheus openssl:openssl unshare:util-linux \
		systemd-analyze:systemd; do \
		command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair##*:}"; \
	done; \
	[ -d /usr/share/nodejs/react-dom ] || missing="$$missing node-react node-react-dom"; \
	[ -z "$$missing" ] || $(call apt,$$missing) || \
		echo "not installed:$$missing; tests that need them are skipped"
