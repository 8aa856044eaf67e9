# SPDX-License-Identifier: BSD-2-Clause
"""Two builds of one commit give the same bytes: another folder, another day, other habits of the builder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.packages.building import ENVIRONMENT, built, clone, run

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


@pytest.mark.parametrize("kind", ["deb", pytest.param("rpm", marks=pytest.mark.soak)])
def test_the_same_bytes(kind: str, elsewhere: Path) -> None:
    first = {path.name: path.read_bytes() for path in built(kind).glob(f"*.{kind}")}
    run("tools/package", kind, "out", cwd=elsewhere, env={**ENVIRONMENT, **HABITS})
    second = {path.name: path.read_bytes() for path in (elsewhere / "out").glob(f"*.{kind}")}
    assert sorted(first) == sorted(second) and len(first) == (1 if kind == "deb" else 4)
    assert [name for name in first if first[name] != second[name]] == []
