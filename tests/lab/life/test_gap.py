# SPDX-License-Identifier: BSD-2-Clause
"""How long an AppVM is without traffic while its tunnel changes, by a datagram every five milliseconds; and that a
connection under full load lives through a change after which the server sees it as before."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from qubes_miragevpn.runtime.backend import NATIVE, REFERENCE, VARIABLE
from tests.lab.network import Lab, python
from tests.lab.places import SITE_A, SITE_B, WEB4
from tests.lab.providers import Providers
from tests.lab.scene import Scene, scene
from tests.lab.service import PROFILES, Service, early

LONGEST = 15.0  # seconds; doc/architecture.md has what was measured on a quiet machine
LONGEST_LOADED = 45.0  # the same, and until the sender tries again: twice as long each time
ANOTHER = "the-same-by-tcp"


def gap(here: Scene, act: Callable[[], None], before: str, after: str, seconds: float = 20) -> float:
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
            "connecting anew": gap(here, lambda: here.service.send(signal.SIGUSR1), a, a, 6),
        }
        print("\nwithout traffic: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
        assert max(took.values()) < LONGEST, took


def _switch(here: Scene, name: str) -> None:
    assert here.service.call("Switch", name, source="dom0").code == 0


@pytest.mark.parametrize("backend", [NATIVE, pytest.param(REFERENCE, marks=pytest.mark.soak)])
def test_a_connection_under_full_load(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another profile, which leads to another address of the server's, gives the same address and ends there too,
    and back: the connection that is full both ways goes on, and nothing of it is lost."""
    monkeypatch.setenv(VARIABLE, backend)
    # Without noise and capture: what a connection under full load sends is more than a capture takes in.
    with Lab(early, appvms=("work",)) as lab:
        work, provider, service = lab.appvms["work"].qube, Providers(lab).a, Service(lab)
        settings = lab.folder / "clients"
        settings.mkdir()
        (settings / "customer").write_text(f"ifconfig-push {SITE_A.tunnel}.77 255.255.255.0\n")
        provider.extra = f"local * 1194 udp\nlocal * 1194 tcp\nclient-config-dir {settings}\n"
        provider.renew()
        # Whoever comes again takes his own place, even if his farewell was lost in the load.
        provider.config.write_text(provider.config.read_text().replace("duplicate-cn\n", ""))
        by_tcp = provider.profile_text.replace("1194 udp", "1194 tcp-client").replace("explicit-exit-notify 1", "")
        for name, text in ((SITE_A.name, provider.profile_text), (ANOTHER, by_tcp)):
            lab.vpn.write(f"{PROFILES}/{name}.ovpn", text, 0o600)
        provider.start()
        service.start()
        assert service.call("Switch", SITE_A.name, source="dom0").code == 0
        service.wait_state("connected", profile=SITE_A.name)
        address = _address(lab)
        stream = work.popen([*python("bulk.py"), WEB4], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert stream.stdout.readline() == b"ready\n"
        for name in (ANOTHER, SITE_A.name):
            time.sleep(1.0)  # of load
            assert service.call("Switch", name, source="dom0").code == 0
            service.wait_state("connected", profile=name)
            assert _address(lab) == address
        time.sleep(1.0)
        stream.stdin.close()
        result = json.loads(stream.stdout.readline())
        print(f"\n{backend}: {result}")
        assert result["same"] and result["sent"] == result["came"] and result["longest"] < LONGEST_LOADED, result


def _address(lab: Lab) -> str:
    return lab.vpn.run("ip", "-br", "-4", "address", "show", "vpn0").stdout
