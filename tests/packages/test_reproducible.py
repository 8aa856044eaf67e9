# SPDX-License-Identifier: BSD-2-Clause
"""Two builds of one commit give the same bytes: another folder, another day, other habits of the builder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.packages.building import ENVIRONMENT, REPOSITORY, built, clone, run

HABITS = {
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C.UTF-8",
    "LANG": "de_DE.UTF-8",
    "USER": "somebody",
    "DEBEMAIL": "x@y.example",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second clone, whose files were written now by somebody whose umask is strict."""
    before = os.umask(0o077)
    try:
        return clone(tmp_path_factory.mktemp("elsewhere") / "a-longer-name-of-a-folder")
    finally:
        os.umask(before)


def contents(folder: Path, kind: str) -> dict[str, bytes]:
    """The packages in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob(f"*.{kind}")}


def must_be_the_same(first: dict[str, bytes], second: dict[str, bytes], kind: str) -> None:
    """Compare two folders."""
    assert sorted(first) == sorted(second) and len(first) == (1 if kind == "deb" else 4)
    assert [name for name in first if first[name] != second[name]] == []


def test_the_same_bytes(elsewhere: Path) -> None:
    """The deb; the crates are compiled once for both."""
    run("tools/package", "deb", "out", cwd=elsewhere, env={**ENVIRONMENT, **HABITS})
    must_be_the_same(contents(built("deb"), "deb"), contents(elsewhere / "out", "deb"), "deb")


@pytest.mark.soak
@pytest.mark.time_limit(1200)
@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_the_same_bytes_from_nothing(kind: str, elsewhere: Path, tmp_path: Path) -> None:
    """Both, and every crate is compiled twice."""
    run("tools/package", kind, tmp_path, cwd=REPOSITORY, env=dict(os.environ))
    run("tools/package", kind, "out", cwd=elsewhere, env={**os.environ, **HABITS})
    must_be_the_same(contents(tmp_path, kind), contents(elsewhere / "out", kind), kind)
