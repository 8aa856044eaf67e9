# SPDX-License-Identifier: BSD-2-Clause
"""Every scenario of `scenarios` leaks nothing with all barriers, and with each barrier alone.

An AppVM and a program in sys-vpn itself send by every way they have, while both ends of the uplink, a second network
card and the tunnel are captured. dom0's rules hold a name, so that root may ask the tunnel's resolver, and does.
`make test` takes every scenario with all barriers, and the main ones with each alone; `make soak` takes the whole
product. The service has the data plane that it chooses; `test_reference` has the other one. The last test takes all
barriers away, and everything is seen.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, NATIVE_MODULE, REFERENCE, VARIABLE
from tests.lab.closed.barriers import Left
from tests.lab.closed.scenarios import settle
from tests.lab.closed.stage import Stage, cases, play
from tests.lab.programs.noise import MARK, OWN_MARK

USUAL = os.environ.get(VARIABLE) or (NATIVE if find_spec(NATIVE_MODULE) else REFERENCE)
"""The data plane that a service chooses here."""


@pytest.mark.parametrize(("left", "name"), cases(lambda left, scenario: left is Left.ALL or scenario.main))
def test_nothing_is_seen(stage: Stage, left: Left, name: str) -> None:
    """The scenario begins in a running service; nothing of an AppVM's or of sys-vpn's own is seen, ever."""
    play(stage, left, name, USUAL)


def test_with_no_barrier_everything_is_seen(stage: Stage) -> None:
    """The control: the same noise, sys-vpn's own included, is seen at once where nothing is left."""
    here = stage.get(Left.NONE)
    here.service.kill()
    settle(here, 30)
    seen = here.capture.result()
    assert {"IPv4 TCP", "IPv4 UDP", "IPv6 UDP", "IPv4 ICMP", "IPv4 UDP fragment"} <= set(seen.clear_kinds), seen
    assert seen.marks[MARK] > 100 and seen.marks[OWN_MARK] > 100
    stage.drop()
