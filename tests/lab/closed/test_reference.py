# SPDX-License-Identifier: BSD-2-Clause
"""The scenarios of `test_barriers` with the readable data plane, where a service would choose the native one.

What is Python's alone (how it is killed, what it leaves behind) has the same barriers around it: `make test` takes
every scenario with all of them, and a killed service with each alone; `make soak` takes the whole product.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qubes_miragevpn.runtime.backend import REFERENCE, VARIABLE
from tests.lab.closed.barriers import Left
from tests.lab.closed.scenarios import SCENARIOS
from tests.lab.closed.stage import Stage, cases, play

pytestmark = pytest.mark.needs_native


@pytest.fixture(scope="module", autouse=True)
def in_python() -> Iterator[None]:
    """Services have the readable data plane."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, REFERENCE)
        yield


@pytest.mark.parametrize(
    ("left", "name"), cases(lambda left, scenario: left is Left.ALL or scenario is SCENARIOS["killed"])
)
def test_nothing_is_seen(stage: Stage, left: Left, name: str) -> None:
    """As there."""
    play(stage, left, name, REFERENCE)
