# SPDX-License-Identifier: BSD-2-Clause
"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "doc" / "architecture.md").read_text(encoding="utf-8")


def test_readme_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", README, flags=re.MULTILINE)
    assert rows == [(str(code.value), code.name.lower()) for code in ExitCode]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"rpc"}))  # rpc is for the qrexec services
def test_readme_and_man_page_describe_every_command(command: str) -> None:
    man = (ROOT / "doc" / "man" / "miragevpn.1").read_text(encoding="utf-8")
    assert re.search(rf"`miragevpn {command}|`{command}`", README), "README.md"
    assert re.search(rf"^\.B {command}\b|^\.BR? {command} ", man, flags=re.MULTILINE), "doc/man/miragevpn.1"


def test_changelog_knows_this_version() -> None:
    version = (ROOT / "version").read_text(encoding="ascii").strip()
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_architecture_names_every_package() -> None:
    packages = sorted(path.parent.name for path in (ROOT / "qubes_miragevpn").glob("*/__init__.py"))
    missing = [name for name in packages if f"`{name}" not in ARCHITECTURE]
    assert not missing


def test_every_complaint_names_a_test_that_exists() -> None:
    text = (ROOT / "doc" / "complaints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .* \| `(tests/[\w/]+\.py)::(test_\w+)` \|$", text, flags=re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 44))
    for number, file, test in rows:
        found = re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found, f"complaint {number}: {file}::{test}"
