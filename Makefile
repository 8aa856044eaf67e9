# qubes-miragevpn. `make help` lists what there is.

SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
DESTDIR ?=
PROVIDER ?= own
ROUNDS ?= 3
WORKERS ?= 3
KILLS ?= 300
SEED ?= 1
SECONDS_EACH ?= 30
BENCH_JSON ?= build/bench.json

# What an installation uses: the distribution's interpreter, and where the distribution keeps its modules.
INSTALL_PYTHON ?= /usr/bin/python3
PYTHON_SITE ?= $(shell $(INSTALL_PYTHON) -c 'import sysconfig as s; \
	names = [n for n in ("deb_system", "rpm_prefix") if n in s.get_scheme_names()] + [s.get_default_scheme()]; \
	print(s.get_path("purelib", names[0]))')
NATIVE := qubes_miragevpn/dataplane/_native.abi3.so
LIBDIR := /usr/lib/qubes-miragevpn
UNITS := /usr/lib/systemd/system
VERSION := $(shell cat version)
# All of the package that dom0 gets: nothing there can parse a profile.
DOM0_MODULES := qubes_miragevpn/__init__.py $(shell find qubes_miragevpn/base qubes_miragevpn/admin -name '*.py' | sort)
SERVICES = $(wildcard qubes-rpc/miragevpn.*)

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test matrix soak lint fuzz bench install-vm install-dom0 install-server install-server-files install-package deb rpm clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: system packages, virtualenv, this package
	@tools/setup

demo: setup ## the whole product in network namespaces, checked line by line (root; PROVIDER=own|openvpn)
	@$(PYTHON) -m tests.lab.demo --provider $(PROVIDER)

lab: setup ## the same network, left up to walk around in (root)
	@$(PYTHON) -m tests.lab.demo --provider $(PROVIDER) --stay

test: setup lint ## lint, then the tests of every group (root; otherwise ALLOW_SKIP=1)
	@tools/native test
	@tools/setup packages
	@tools/test $(PYTHON) $(WORKERS) $(PYTEST_ARGS)

matrix: setup ## our client and our server against openvpn 2.6, in every way, as a table with verdicts (root)
	@$(PYTHON) -m tests.interop.matrix

soak: setup ## the long tests: every scenario with every barrier alone, hundreds of kills (root; KILLS=n SEED=n)
	@tools/setup packages
	@SOAK=1 KILLS=$(KILLS) SEED=$(SEED) $(PYTHON) -m pytest -m soak -o faulthandler_timeout=3600 $(PYTEST_ARGS)

lint: setup ## ruff and mypy --strict; for the native data plane rustfmt and clippy
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m mypy --no-error-summary
	@tools/native lint

fuzz: setup ## look for inputs that break the native data plane, and (atheris) the readers of text and keys (SECONDS_EACH=n)
	@tools/native fuzz $(SECONDS_EACH)
	@$(PYTHON) -c 'import atheris' 2>/dev/null || $(PYTHON) -m pip install --quiet atheris
	@$(PYTHON) -m tests.fuzz --seconds $(SECONDS_EACH)

bench: setup ## measure against openvpn 2.6 (root; ROUNDS=n BENCH_JSON=file)
	@mkdir -p $(dir $(BENCH_JSON))
	@$(PYTHON) -m tests.bench --rounds $(ROUNDS) --json $(BENCH_JSON)

install-vm: install-package ## install into a Qubes template (or DESTDIR): package, units, barriers, qrexec services
	install -D -m 755 -t $(DESTDIR)/usr/bin install/vm/miragevpn install/both/qvm-miragevpn
	install -D -m 644 -t $(DESTDIR)/usr/share/bash-completion/completions install/both/bash-completion/*
	install -D -m 755 install/vm/qubes-miragevpn-lockdown $(DESTDIR)$(LIBDIR)/qubes-miragevpn-lockdown
	install -D -m 755 install/vm/qubes-miragevpn-dns.py $(DESTDIR)$(LIBDIR)/qubes-miragevpn-dns
	install -D -m 644 -t $(DESTDIR)$(LIBDIR)/nft install/vm/nft/*.nft
	install -D -m 644 -t $(DESTDIR)$(UNITS) install/vm/systemd/*.service install/vm/systemd/*.socket
	install -D -m 644 -t $(DESTDIR)/usr/lib/sysusers.d install/vm/sysusers.d/*.conf
	install -D -m 644 -t $(DESTDIR)/usr/lib/tmpfiles.d install/vm/tmpfiles.d/*.conf
	for extra in qubes-network.service.d qubes-network-uplink@.service.d; do \
		install -D -m 644 -t $(DESTDIR)$(UNITS)/$$extra install/vm/systemd/$$extra/*.conf || exit 1; \
	done
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system-preset install/vm/systemd/*.preset
	install -D -m 644 -t $(DESTDIR)/usr/lib/qubes-bind-dirs.d install/vm/bind-dirs/*.conf
	install -D -m 755 -t $(DESTDIR)/etc/qubes/qubes-firewall.d install/vm/qubes-firewall.d/*
	install -D -m 755 -t $(DESTDIR)/etc/qubes/suspend-post.d install/vm/suspend-post.d/*.sh
	install -D -m 755 -t $(DESTDIR)/etc/qubes/post-install.d install/vm/post-install.d/*.sh
	install -D -m 755 -t $(DESTDIR)/etc/qubes-rpc $(SERVICES)
	install -d $(DESTDIR)/etc/qubes/rpc-config
	for service in $(notdir $(SERVICES)); do \
		install -m 644 install/vm/rpc-config/miragevpn $(DESTDIR)/etc/qubes/rpc-config/$$service || exit 1; \
	done
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man1 doc/man/*.1
	install -d -m 750 $(DESTDIR)/etc/qubes-miragevpn
	install -d -m 700 $(addprefix $(DESTDIR)/etc/qubes-miragevpn,/profiles /credentials /settings /state)
ifeq ($(DESTDIR),)
	systemd-sysusers qubes-miragevpn.conf
	gpasswd -d qubes-miragevpn qubes >/dev/null 2>&1 || :
	systemd-tmpfiles --create qubes-miragevpn.conf
	systemctl daemon-reload
	systemctl preset qubes-miragevpn.service
	@$(INSTALL_PYTHON) -c 'import cryptography, OpenSSL, pyroute2' \
		|| echo 'still needed: the packages python3-cryptography, python3-pyOpenSSL (or python3-openssl), python3-pyroute2'
endif

install-package:
	@$(INSTALL_PYTHON) -c 'import setuptools' || { echo 'install python3-setuptools first' >&2; exit 4; }
	[ "$(MIRAGEVPN_NATIVE)" = skip ] || tools/native build
	MIRAGEVPN_NATIVE=skip $(INSTALL_PYTHON) -W ignore setup.py -q build --build-base build/py --executable /usr/bin/python3 install \
		--root $(or $(DESTDIR),/) --install-lib $(PYTHON_SITE) --install-scripts /usr/bin \
		--single-version-externally-managed --record build/installed-files $(COMPILE)
	if [ "$(MIRAGEVPN_NATIVE)" != skip ] && { [ -e $(NATIVE) ] || [ "$(MIRAGEVPN_NATIVE)" = require ]; }; then \
		install -D -m 644 -t $(DESTDIR)$(PYTHON_SITE)/$(dir $(NATIVE)) $(NATIVE); \
	fi

install-server: install-package install-server-files ## install a plain server or client on any Linux (or DESTDIR): package, systemd unit
ifeq ($(DESTDIR),)
	systemctl daemon-reload
	@$(INSTALL_PYTHON) -c 'import cryptography, OpenSSL, pyroute2' \
		|| echo 'still needed: the packages python3-cryptography, python3-pyOpenSSL (or python3-openssl), python3-pyroute2'
endif

install-server-files:
	install -D -m 755 -t $(DESTDIR)/usr/bin install/vm/miragevpn
	install -D -m 644 -t $(DESTDIR)$(UNITS) install/server/systemd/*.service
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man1 doc/man/miragevpn.1
	install -D -m 644 -t $(DESTDIR)/usr/share/bash-completion/completions install/both/bash-completion/miragevpn
	install -d -m 700 $(DESTDIR)/etc/miragevpn

install-dom0: ## install into dom0 (or DESTDIR): qvm-miragevpn, the qrexec policy, the Salt formula
	install -D -m 664 -t $(DESTDIR)/etc/qubes/policy.d install/dom0/*.policy
	install -D -m 755 -t $(DESTDIR)/usr/bin install/both/qvm-miragevpn
	for module in $(DOM0_MODULES); do \
		install -D -m 644 $$module $(DESTDIR)$(PYTHON_SITE)/$$module || exit 1; \
	done
	install -d $(DESTDIR)$(PYTHON_SITE)/qubes_miragevpn-$(VERSION).dist-info
	printf 'Metadata-Version: 2.1\nName: qubes-miragevpn\nVersion: $(VERSION)\n' \
		>$(DESTDIR)$(PYTHON_SITE)/qubes_miragevpn-$(VERSION).dist-info/METADATA
	chmod 644 $(DESTDIR)$(PYTHON_SITE)/qubes_miragevpn-$(VERSION).dist-info/METADATA
	install -D -m 644 -t $(DESTDIR)/usr/share/man/man1 doc/man/qvm-miragevpn.1
	install -D -m 644 -t $(DESTDIR)/usr/share/bash-completion/completions install/both/bash-completion/qvm-miragevpn
	install -D -m 644 -t $(DESTDIR)/srv/salt install/dom0/salt/*

deb: ## build the package for a Debian template into build/deb
	@tools/setup packages
	@tools/package deb

rpm: ## build the packages for a Fedora template and for dom0 into build/rpm
	@tools/setup packages
	@tools/package rpm

clean: ## remove what was built, and the virtualenv
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache native/target
	rm -f qubes_miragevpn/dataplane/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
