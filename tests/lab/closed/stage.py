# SPDX-License-Identifier: BSD-2-Clause
"""Where `scenarios` are played: a lab with noise of an AppVM and of sys-vpn's own, kept from one to the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.lab.appvm import Noise
from tests.lab.closed.barriers import SINGLE, Left, leave
from tests.lab.closed.scenarios import SCENARIOS, Scenario, settle
from tests.lab.namedrules import SOME_NAME, QubesDb
from tests.lab.places import SITE_A
from tests.lab.scene import Scene, scene


def cases(short: Callable[[Left, Scenario], bool]) -> list[object]:
    """Every scenario with every barrier that it leaves; those that are not `short` are marked."""
    return [
        pytest.param(left, name, id=f"{left.value}-{name}", marks=() if short(left, scenario) else pytest.mark.soak)
        for left, (name, scenario) in itertools.product((Left.ALL, *SINGLE), SCENARIOS.items())
        if left not in scenario.without
    ]


class Stage:
    """One scene for all scenarios with the same barriers; made anew when another set is wanted, or after a failure."""

    def __init__(self) -> None:
        self.left: Left | None = None
        self.scene: Scene | None = None
        self._close: list[object] = []

    def get(self, left: Left) -> Scene:
        """The scene with just these barriers, its service running."""
        if self.scene is None or self.left is not left:
            self.drop()
            manager = scene()
            made = manager.__enter__()
            self._close.append(manager)
            own = Noise(made.lab.vpn, own=True)
            own.__enter__()
            self._close.append(own)
            QubesDb(made.lab.vpn).set_rules(made.work.address.ip4, SOME_NAME)
            made.whole = left is Left.ALL
            leave(made.lab, left)
            made.providers.a.start()
            made.service.start()
            made.service.wait_state("connected")
            own.wait(lambda: own.answers["dns"] > 0)
            self.scene, self.left = made, left
        return self.scene

    def drop(self) -> None:
        """Take the scene down."""
        self.scene = None
        while self._close:
            self._close.pop().__exit__(None, None, None)  # type: ignore[attr-defined]


def play(stage: Stage, left: Left, name: str, backend: str) -> None:
    """Let a scenario happen, in a service that has the data plane `backend`."""
    here = stage.get(left)
    scenario = SCENARIOS[name]
    try:
        assert any(f"data plane: {backend}" in line for line in here.service.log)
        scenario.act(here)
        here.must_be_tight()
        if left is Left.ALL:
            here.must_carry(SITE_A, within=60)
        here.service.wait_state("connected", within=60)
        settle(here, 4)
        here.must_be_tight()
    except BaseException:
        stage.drop()
        raise
