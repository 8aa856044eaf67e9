# SPDX-License-Identifier: BSD-2-Clause
"""A scripted dom0 for each test, seen from dom0 and from a management qube."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.admin.dom0 import Dom0


@pytest.fixture(params=["dom0", "management"])
def dom0(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dom0]:
    """The edges; whatever was expected must have been asked when the test ends."""
    edges = Dom0(tmp_path, monkeypatch, in_dom0=request.param == "dom0")
    try:
        yield edges
        edges.done()
    finally:
        edges.close()


@pytest.fixture
def in_dom0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dom0]:
    """The same where the tool runs in dom0."""
    edges = Dom0(tmp_path, monkeypatch, in_dom0=True)
    try:
        yield edges
        edges.done()
    finally:
        edges.close()
