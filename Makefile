# qubes-miragevpn. `make help` lists what there is.

SHELL := /bin/bash
VERSION := $(shell cat version)
VENV := .venv
PYTHON := $(VENV)/bin/python
SYSTEM_PYTHON ?= python3
DESTDIR ?=
PREFIX ?= /usr
RPM_TOP ?= $(CURDIR)/build/rpm
PROVIDER ?= own
ROUNDS ?= 3
BENCH_JSON ?= build/bench.json

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test lint bench install-vm install-dom0 rpm clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: system packages, virtualenv, this package
	@tools/setup

demo: setup ## the whole product in network namespaces, checked line by line (root; PROVIDER=own|openvpn)
	@$(PYTHON) -m tests.lab.demo --provider $(PROVIDER)

lab: setup ## the same network, left up to walk around in (root)
	@$(PYTHON) -m tests.lab.demo --provider $(PROVIDER) --stay

test: setup lint ## lint, then the tests of every group (root; otherwise ALLOW_SKIP=1)
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

lint: setup ## ruff and mypy --strict
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy --no-error-summary

bench: setup ## measure against openvpn 2.6 (root; ROUNDS=n BENCH_JSON=file)
	@mkdir -p $(dir $(BENCH_JSON))
	@$(PYTHON) -m tests.bench --rounds $(ROUNDS) --json $(BENCH_JSON)

clean: ## remove what was built, and the virtualenv
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
