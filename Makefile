# Kontora: `make help` lists what there is.

PYTHON ?= python3
KONTORA_DEMO ?= 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CATALOGUES := $(patsubst %.po,%.mo,$(wildcard crm/translations/*/LC_MESSAGES/*.po))
EXTRACT := $(BIN)/pybabel -q extract --add-location=file -F babel.cfg -k _l -k _p:1c,2 -k _lp:1c,2 -k _n:1,2
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help run test lint acceptance bench chaos screens translations lock chromium

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime $(CATALOGUES) ## set everything up and serve on 127.0.0.1:$PORT (8000), with demo data unless KONTORA_DEMO=0
	@KONTORA_DEMO=$(KONTORA_DEMO) exec $(BIN)/python -m crm.supervisor

test: $(VENV)/.dev $(CATALOGUES) chromium lint ## everything CI checks; ARGS="tests/bills -k archive" narrows the tests
	@$(BIN)/python -m pytest -n 2 --dist=worksteal $(ARGS)

lint: $(VENV)/.dev ## style, types, import rules, translations
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "format: run $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tests.translations

acceptance: $(VENV)/.dev ## every row of the acceptance table with its tests' result of the last `make test`
	@$(BIN)/python -m tests.acceptance

bench: $(VENV)/.dev $(CATALOGUES) ## figures side by side with peers
	@$(BIN)/python -m bench

chaos: $(VENV)/.dev $(CATALOGUES) ## the long fault runs: money moved by many at once, kills of clerks and of the database
	@CHAOS=1 $(BIN)/python -m pytest -p no:cacheprovider tests/chaos tests/ledger/test_properties.py $(ARGS)

screens: $(VENV)/.dev $(CATALOGUES) chromium ## pictures of the main screens for the documentation
	@$(BIN)/python -m tests.screens

translations: $(VENV)/.dev ## collect the texts of code and templates into the catalogues
	@mkdir -p var
	@$(EXTRACT) -o var/messages.pot .
	@$(BIN)/pybabel -q update -i var/messages.pot -d crm/translations --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date

lock: $(VENV)/.runtime ## pin the packages of pyproject.toml with their hashes
	@$(PIP) uv
	@$(LOCK) --output-file requirements.txt
	@$(LOCK) --group dev --constraint requirements.txt --output-file requirements-dev.txt

chromium: $(VENV)/.dev
	@$(BIN)/python -m tests.chromium

# Stamps: packages are installed again only when their list has changed.
$(VENV)/.runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Kontora needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing packages into $(VENV)…"
	@$(PIP) --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	@echo "Installing test packages into $(VENV)…"
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

%.mo: %.po | $(VENV)/.runtime
	@$(BIN)/pybabel -q compile -i $< -o $@
