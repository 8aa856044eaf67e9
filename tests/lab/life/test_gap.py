# SPDX-License-Identifier: BSD-2-Clause
"""How long an AppVM is without traffic while its tunnel changes, by a datagram every five milliseconds."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

from tests.lab.network import python
from tests.lab.places import SITE_A, SITE_B, WEB4
from tests.lab.scene import Scene, scene

LONGEST = 5.0  # seconds; doc/architecture.md has what was measured on a quiet machine


def gap(here: Scene, act: Callable[[], None], before: str, after: str, seconds: float = 6) -> float:
    """The time without an answer when `act` is done; seen as `before` until then and as `after` from then on."""
    stream = here.work.qube.popen([*python("gap.py"), WEB4, str(seconds)], stdout=subprocess.PIPE)
    assert stream.stdout.readline() == b"ready\n"
    here.noise.rounds(12)
    act()
    gaps = json.loads(stream.stdout.readline())
    assert gaps and gaps[-1][1:] == [before, after], gaps
    here.must_be_tight()
    return float(max(each[0] for each in gaps))


def test_the_time_without_traffic() -> None:
    """A switch to the other provider and back, and connecting anew: each a short time, closed, once."""
    with scene() as here:
        here.providers.b.start()
        here.connected()
        a, b = SITE_A.public4, SITE_B.public4

        def switch(name: str) -> Callable[[], None]:
            return lambda: _switch(here, name)

        took = {
            "to a provider by TCP": gap(here, switch(SITE_B.name), a, b),
            "to a provider by UDP": gap(here, switch(SITE_A.name), b, a),
            "connecting anew": gap(here, lambda: here.service.send(signal.SIGUSR1), a, a),
        }
        print("\nwithout traffic: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
        assert max(took.values()) < LONGEST, took


def _switch(here: Scene, name: str) -> None:
    assert here.service.call("Switch", name, source="dom0").code == 0
