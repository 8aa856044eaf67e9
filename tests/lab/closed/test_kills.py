# SPDX-License-Identifier: BSD-2-Clause
"""SIGKILL at random moments of the service's life: nothing is seen, and the next start works.

Root asks the tunnel's resolver all the while, since a rule of dom0's holds a name. A seed decides the moments; a
failure names the seed, the phase and the delay. Twenty kills in every test run, hundreds in `make soak`
(KILLS=n SEED=n), there with either data plane.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, REFERENCE, VARIABLE
from tests.lab.appvm import Noise
from tests.lab.namedrules import SOME_NAME, QubesDb
from tests.lab.places import SITE_A, SITE_B
from tests.lab.qube import LabError
from tests.lab.scene import Scene, scene

WITHIN = 45.0  # seconds that a start may take on a busy machine


def _launch(here: Scene) -> None:
    here.service.launch()


def _connect(here: Scene) -> None:
    """Killed once it is connecting: the firewall has let marked sockets out, a handshake is going on."""
    _launched(here, "tunnel connecting")


def _connected(here: Scene) -> None:
    _launched(here, "tunnel up:")


def _launched(here: Scene, line: str) -> None:
    begin = len(here.service.log)
    here.service.launch()
    here.service.until(lambda: any(line in each for each in here.service.log[begin:]), line, WITHIN)


def _switch(here: Scene) -> None:
    """Asked for by a caller who may be left without an answer."""
    _connected(here)
    current = here.service.status().get("profile")
    other = SITE_A if current == SITE_B.name else SITE_B
    threading.Thread(target=_call, args=(here, other.name), daemon=True).start()
    time.sleep(0.1)  # until the caller's program has come to ask


def _call(here: Scene, name: str) -> None:
    with contextlib.suppress(Exception):
        here.service.call("Switch", name, source="dom0")


def _reconnect(here: Scene) -> None:
    _connected(here)
    here.service.send(signal.SIGUSR1)


def _stop(here: Scene) -> None:
    _connected(here)
    here.service.send(signal.SIGTERM)


PHASES: Mapping[str, tuple[int, Callable[[Scene], None], float]] = {
    "start": (5, _launch, 1.0),
    "connect": (5, _connect, 0.4),
    "connected": (1, _connected, 0.3),
    "switch": (2, _switch, 0.6),
    "reconnect": (2, _reconnect, 0.4),
    "stop": (2, _stop, 0.2),
}
"""How often, what leads there, and the seconds within which the kill falls."""


def kill_at_random(number: int, seed: int) -> Counter[str]:
    """Kill `number` times; returns how often in which phase."""
    dice = random.Random(seed)
    done: Counter[str] = Counter()
    with scene() as here, Noise(here.lab.vpn, own=True) as own:
        QubesDb(here.lab.vpn).set_rules(here.work.address.ip4, SOME_NAME)
        here.providers.start()
        for turn in range(number):
            phase = dice.choices(list(PHASES), [weight for weight, _, _ in PHASES.values()])[0]
            _, lead, longest = PHASES[phase]
            delay = dice.uniform(0, longest)
            where = f"kill {turn + 1} of {number}, seed {seed}: {phase} and {delay:.3f} s"
            try:
                lead(here)
                time.sleep(delay)
                here.service.kill()
                here.noise.rounds(2)
                here.must_be_tight()
            except (AssertionError, LabError) as error:
                raise AssertionError(f"{where}: {error}") from error
            done[phase] += 1
        here.must_be_closed()
        here.service.start()
        here.service.wait_state("connected")
        own.wait(lambda: own.answers["dns"] > 0)
        here.noise.rounds(6)
        here.must_be_tight()
    return done


def test_killed_at_random_moments() -> None:
    """A few, each time the same."""
    assert sum(kill_at_random(20, seed=1).values()) == 20


@pytest.mark.soak
@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("backend", [pytest.param(NATIVE, marks=pytest.mark.needs_native), REFERENCE])
def test_killed_hundreds_of_times(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every phase was hit; the counts are printed."""
    monkeypatch.setenv(VARIABLE, backend)
    number, seed = int(os.environ.get("KILLS") or 300), int(os.environ.get("SEED") or 1)
    done = kill_at_random(number, seed)
    print(f"\n{backend}: {number} kills with seed {seed}, no packet in the clear: {dict(done)}")
    assert number < 50 or set(done) == set(PHASES)
