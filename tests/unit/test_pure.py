# SPDX-License-Identifier: BSD-2-Clause
"""The pure layers call nothing that reads a clock, draws randomness, does I/O or logs, by whatever import.

`test_imports` bars the modules; this bars what comes with modules that are allowed, and built-in functions.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "qubes_miragevpn"
PURE = ("base", "crypto", "config", "protocol")
BUILTINS = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}
METHODS = {
    "now", "utcnow", "today", "urandom", "getrandbits", "token_bytes", "randbytes", "generate_private_key",
    "generate_key", "getLogger", "read_text", "read_bytes", "write_text", "write_bytes",
}  # fmt: skip


def impure_calls(source: str) -> list[tuple[int, str]]:
    """Line and name of every call that a pure layer may not make."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(name) if name in BUILTINS:
                    found.append((node.lineno, name))
                case ast.Attribute(_, name) if name in METHODS:
                    found.append((node.lineno, name))
    return found


@pytest.mark.parametrize("layer", PURE)
def test_no_impure_call(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    found = [f"{path}:{line} calls {name}" for path in files for line, name in impure_calls(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source", ["open('x')", "datetime.now()", "print(1)", "ec.generate_private_key(c)", "def f(): x.urandom(3)"]
)
def test_an_impure_call_is_found(source: str) -> None:
    assert impure_calls(source)
