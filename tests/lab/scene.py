# SPDX-License-Identifier: BSD-2-Clause
"""What a leak test starts from: sys-vpn booted, one AppVM sending without pause, the uplink captured.

`hostile` makes the noise, `work` is the AppVM of a person who now and then asks for a page. They are two because the
kernel limits how many ICMP errors one address gets: who floods waits for time-outs, who does not is refused at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.appvm import Noise, seen_address
from tests.lab.capture import Capture
from tests.lab.network import AppVM, Lab
from tests.lab.places import SITE_A, Site
from tests.lab.providers import OWN, Providers
from tests.lab.service import Service, add_profiles, early

ROUNDS = 18
"""Rounds of noise in a closed state: three quarters of a second, some two hundred packets."""


class Scene:
    """The lab with everything that a leak test looks at."""

    def __init__(self, lab: Lab, capture: Capture, noise: Noise, kind: str) -> None:
        self.lab, self.capture, self.noise = lab, capture, noise
        self.whole = True  # no test has taken a barrier away
        self.work = lab.appvms["work"]
        self.providers = Providers(lab, kind)
        add_profiles(lab, self.providers, current=SITE_A.name)
        self.service = Service(lab)

    def connected(self) -> None:
        """Start provider A and the service, wait for the tunnel, and see that work's traffic goes through it."""
        self.providers.a.start()
        self.service.start()
        self.service.wait_state("connected")
        self.must_carry(SITE_A)

    def must_be_tight(self) -> None:
        """Nothing clear was seen since the scene began."""
        seen = self.capture.result()
        assert seen.leaks == 0, f"{seen.leaks} clear packets: {dict(seen.clear_kinds)}\n" + "\n".join(seen.clear[:20])

    def must_be_closed(self, rounds: int = ROUNDS) -> None:
        """The noise gets no answer at all, work gets no page, and nothing clear is seen."""
        self.noise.rounds(6)  # what was on its way when the door closed has come by now
        before = self.noise.answers.copy()
        self.noise.rounds(rounds)
        answers = self.noise.answers - before
        assert not +answers, f"answers came while closed: {dict(answers)}"
        assert seen_address(self.work).startswith("no: ")
        self.must_be_tight()

    def must_carry(self, site: Site, appvm: AppVM | None = None, within: float = 40) -> float:
        """The web server sees `appvm` (work) as `site` before long; returns how long it took."""
        begin = time.monotonic()
        while (answer := seen_address(appvm or self.work)) != site.public4:
            took = time.monotonic() - begin
            assert took < within, f"seen as {answer} instead of {site.public4}\n{self.service.tail()}"
            time.sleep(0.05)
        self.must_be_tight()
        return time.monotonic() - begin

    def must_heal(self, site: Site = SITE_A, within: float = 60) -> None:
        """Traffic flows again through `site`, and the service says so."""
        self.must_carry(site, within=within)
        assert self.service.state() == "connected"


@contextmanager
def scene(kind: str = OWN) -> Iterator[Scene]:
    """Boot the lab up to where the service would start."""
    with (
        Lab(early, appvms=("work", "hostile")) as lab,
        Capture(lab) as capture,
        Noise(lab.appvms["hostile"].qube) as noise,
    ):
        yield Scene(lab, capture, noise, kind)
    assert lab.leftovers() == []
