# SPDX-License-Identifier: BSD-2-Clause
"""Imports point down the layers, and third-party modules stay where they belong.

Read from the syntax tree, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "qubes_miragevpn"
ROOT = Path(__file__).parents[2] / PACKAGE

LAYERS = (
    {"cli", "admin"},
    {"qube"},
    {"runtime"},
    {"protocol", "dataplane"},
    {"config", "crypto"},
    {"base"},
)
"""Top to bottom; a package imports its own layer and those below."""

ADMIN_MAY_IMPORT = {"admin", "base"}
"""dom0's tool parses nothing of a qube's but what it validates itself."""

THIRD_PARTY = {
    "cryptography": ("crypto",),
    "OpenSSL": ("protocol.control",),
    "pyroute2": ("runtime", "qube"),
    "pytun": ("runtime",),
    "lz4": ("dataplane.payload",),
    "lzo": ("dataplane.payload",),
    "dbus_next": ("runtime.plain", "qube.dbus"),
    "qubesdb": ("qube",),
    "qubesadmin": ("admin",),
}
"""The only modules outside the standard library, and the packages that may import each."""

PURE = ("base", "config", "crypto", "protocol")
"""No I/O, no clock, no randomness, no log: time and entropy are arguments."""

IMPURE_MODULES = {
    "asyncio", "fcntl", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package as (dotted name below the package, ``__init__`` written out; file)."""
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imports(name: str, source: str) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that module `name` (below the package) imports, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = [PACKAGE, *name.split(".")][: -node.level]
                base = ".".join([*above, *filter(None, [base])])
            # `from package import part` may name a module as well as a value.
            yield base, node.lineno
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def layer_of(part: str) -> int | None:
    """The number of the layer (0 on top) that top-level package `part` is in."""
    return next((number for number, layer in enumerate(LAYERS) if part in layer), None)


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether module `name` is one of `packages` or below one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def violations(name: str, source: str) -> list[str]:
    """What is wrong with the imports of module `name`, one line each."""
    wrong = []
    own = name.split(".")[0]
    for target, line in imports(name, source):
        top, _, rest = target.partition(".")
        where = f"{PACKAGE}.{name}:{line} imports {target}"
        if top == PACKAGE:
            part = rest.split(".")[0]
            target_layer, own_layer = layer_of(part), layer_of(own)
            if target_layer is None or own_layer is None:
                continue
            if target_layer < own_layer:
                wrong.append(f"{where}: upwards")
            if own == "admin" and part not in ADMIN_MAY_IMPORT:
                wrong.append(f"{where}: admin imports base only")
        elif top in THIRD_PARTY:
            if not within(name, THIRD_PARTY[top]):
                wrong.append(f"{where}: {top} belongs in {', '.join(THIRD_PARTY[top])}")
        elif top not in sys.stdlib_module_names:
            wrong.append(f"{where}: not a dependency")
        elif within(name, PURE) and top in IMPURE_MODULES:
            wrong.append(f"{where}: this layer does no I/O and reads no clock")
    return wrong


def test_every_import_points_down() -> None:
    found = [line for name, path in modules() for line in violations(name, path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set().union(*LAYERS), "a new package needs a place in LAYERS"


def test_top_level_holds_only_the_start() -> None:
    assert {path.name for path in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("base.names", "from qubes_miragevpn.config.model import Proto"),
        ("protocol.client", "import qubes_miragevpn.runtime.driver"),
        ("protocol.client", "def f():\n    from qubes_miragevpn import cli"),
        ("protocol.client", "from ..runtime import driver"),
        ("protocol.__init__", "from ..runtime import driver"),
        ("config.loader", "import cryptography.x509"),
        ("protocol.wire.packet", "from OpenSSL import SSL"),
        ("cli.main", "import pyroute2"),
        ("admin.plan", "from qubes_miragevpn.config.loader import load_client"),
        ("crypto.aead", "import secrets"),
        ("protocol.session", "from time import monotonic"),
        ("base.text", "import yaml"),
    ],
)
def test_a_violation_is_found(name: str, source: str) -> None:
    assert violations(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cli.main", "from qubes_miragevpn.runtime import driver\nimport asyncio"),
        ("protocol.control.tls", "from OpenSSL import SSL"),
        ("protocol.client", "from qubes_miragevpn.dataplane.interface import Link"),
        ("qube.netlink", "from pyroute2 import AsyncIPRoute"),
        ("crypto.keyfiles", "from ..base.secret import Secret\nimport hmac"),
    ],
)
def test_what_is_allowed_is_not_reported(name: str, source: str) -> None:
    assert violations(name, source) == []
