# SPDX-License-Identifier: BSD-2-Clause
"""What the tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.closed.stage import Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The scene that is at hand."""
    made = Stage()
    yield made
    made.drop()
