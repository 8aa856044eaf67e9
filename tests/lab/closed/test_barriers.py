# SPDX-License-Identifier: BSD-2-Clause
"""Every scenario of `scenarios` leaks nothing with all barriers, and with each barrier alone.

An AppVM and a program in sys-vpn itself send by every way they have, while both ends of the uplink, a second network
card and the tunnel are captured. dom0's rules hold a name, so that root may ask the tunnel's resolver, and does.
`make test` takes every scenario with all barriers, and the main ones with each alone; `make soak` takes the whole
product. The service has the data plane that it chooses; that a killed one leaks nothing is shown with the other one
too. The last test takes all barriers away, and everything is seen.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, NATIVE_MODULE, REFERENCE, VARIABLE
from tests.lab.appvm import Noise
from tests.lab.closed.barriers import SINGLE, Left, leave
from tests.lab.closed.scenarios import SCENARIOS, settle
from tests.lab.namedrules import SOME_NAME, QubesDb
from tests.lab.places import SITE_A
from tests.lab.programs.noise import MARK, OWN_MARK
from tests.lab.scene import Scene, scene


def cases() -> Iterator[object]:
    """Every scenario with every barrier that it leaves; those that a short run leaves out are marked."""
    for left, (name, scenario) in itertools.product((Left.ALL, *SINGLE), SCENARIOS.items()):
        if left not in scenario.without:
            short = left is Left.ALL or scenario.main
            yield pytest.param(left, name, id=f"{left.value}-{name}", marks=() if short else pytest.mark.soak)


def usual() -> str:
    """The data plane that a service chooses here."""
    return os.environ.get(VARIABLE) or (NATIVE if find_spec(NATIVE_MODULE) else REFERENCE)


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


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The scene that is at hand."""
    made = Stage()
    yield made
    made.drop()


@pytest.mark.parametrize(("left", "name"), list(cases()))
def test_nothing_is_seen(stage: Stage, left: Left, name: str) -> None:
    """The scenario begins in a running service; nothing of an AppVM's or of sys-vpn's own is seen, ever."""
    play(stage, left, name)


@pytest.mark.needs_native
@pytest.mark.parametrize("left", SINGLE, ids=lambda left: left.value)
def test_a_killed_reference(stage: Stage, left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in Python is killed and started again: the other data plane has the same barriers around it."""
    monkeypatch.setenv(VARIABLE, REFERENCE)
    stage.drop()
    try:
        play(stage, left, "killed", REFERENCE)
    finally:
        stage.drop()


def play(stage: Stage, left: Left, name: str, backend: str = "") -> None:
    """Let a scenario happen, in a service that has the data plane `backend`."""
    here = stage.get(left)
    scenario = SCENARIOS[name]
    try:
        assert any(f"data plane: {backend or usual()}" in line for line in here.service.log)
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


def test_with_no_barrier_everything_is_seen(stage: Stage) -> None:
    """The control: the same noise, sys-vpn's own included, is seen at once where nothing is left."""
    here = stage.get(Left.NONE)
    here.service.kill()
    settle(here, 30)
    seen = here.capture.result()
    assert {"IPv4 TCP", "IPv4 UDP", "IPv6 UDP", "IPv4 ICMP", "IPv4 UDP fragment"} <= set(seen.clear_kinds), seen
    assert seen.marks[MARK] > 100 and seen.marks[OWN_MARK] > 100
    stage.drop()
