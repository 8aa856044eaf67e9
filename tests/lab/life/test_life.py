# SPDX-License-Identifier: BSD-2-Clause
"""A VPN qube's life: first boot, a clock that is wrong, uplinks and qubes that come and go, flows that live on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.lab.appvm import ask, seen_address
from tests.lab.network import AppVM, python
from tests.lab.places import NET_DOMID, OTHER_NET_DOMID, SITE_A, WEB4
from tests.lab.qube import Qube, drain
from tests.lab.scene import Scene, scene
from tests.lab.tables import VIRTUAL_DNS

SOON = 1.0  # seconds in which the tunnel is to be there again once the uplink can be used
SLACK = 1.0  # what a busy machine may need for it


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene, connected; each test leaves it so."""
    with scene() as made:
        made.connected()
        yield made


def test_connected_anew_as_soon_as_the_uplink_can_be_used(live: Scene) -> None:
    """The netvm is changed: gateway, routes, resolv.conf and dnat-dns are others, and so is eth0; DNS works at once."""
    took = []
    for gateway in (OTHER_NET_DOMID, NET_DOMID):
        live.lab.remove_uplink()
        live.service.until(lambda: "uplink is gone" in live.service.tail(5), "noticing")
        begin = len(live.service.log)
        live.lab.add_uplink(gateway)
        took.append(live.service.until(lambda: any("tunnel up:" in line for line in live.service.log[begin:]), "it"))  # noqa: B023
        live.must_heal()
        assert ask(live.work, "resolver") == SITE_A.name
        live.service.until(lambda: f"nameserver {SITE_A.resolver}" in resolv_conf(live), "resolv.conf written again")
    print(f"\nthe tunnel was up {', '.join(f'{seconds:.2f}' for seconds in took)} s after the uplink was")
    assert min(took) < SOON + SLACK
    live.must_be_tight()


def resolv_conf(here: Scene) -> str:
    """sys-vpn's."""
    return here.lab.vpn.path("/etc/resolv.conf").read_text()


def test_a_long_download_survives_a_reconnection(live: Scene) -> None:
    """The server is another process, the session a new one, its address the same: the very connection goes on."""
    live.providers.a.kill()
    live.providers.a.start()
    live.service.call("Disconnect", source="dom0")
    live.service.call("Connect", source="dom0")
    live.must_heal()
    lines: list[bytes] = []
    download = live.work.qube.popen([*python("stream.py"), WEB4], stdout=subprocess.PIPE)
    drain(download.stdout, lines.append)
    live.service.until(lambda: len(lines) > 5, "a stream")
    live.providers.a.kill()
    live.service.until(lambda: live.service.state() == "connecting", "noticing")
    live.noise.rounds(6)
    live.providers.a.start()
    live.must_heal()
    seen = len(lines)
    live.service.until(lambda: len(lines) > seen + 5, "more of the stream")
    assert download.poll() is None
    download.kill()
    live.must_be_tight()


def test_an_address_that_another_qube_gets(live: Scene) -> None:
    """A qube ends, a disposable takes its number and address: it works at once."""
    lab, before = live.lab, live.lab.attach("leaving")
    assert seen_address(before) == SITE_A.public4
    lab.disconnect(before)
    qube = Qube.start("arriving", lab.folder / "arriving")
    lab.qubes.append(qube)
    qube.wait_ready()
    after = AppVM(qube, before.domid, before.address)
    lab.connect(after)
    assert seen_address(after) == SITE_A.public4
    assert ask(after, "resolver", VIRTUAL_DNS[1]) == SITE_A.name
    lab.disconnect(after)
    live.must_be_tight()


def test_a_clock_that_is_wrong_for_a_while(live: Scene) -> None:
    """The server's certificate is not valid yet; as soon as it is, the tunnel is there by itself."""
    live.providers.a.kill()
    live.providers.a.renew(age=timedelta(seconds=-8))
    begin = time.monotonic()
    live.providers.a.start()
    live.service.until(lambda: "not valid yet (is the clock right?)" in live.service.tail(40), "the refusal")
    assert live.service.state() != "connected"
    live.must_heal(within=60)
    assert time.monotonic() - begin > 6
    live.must_be_tight()


def test_first_boot() -> None:
    """Nothing to connect with, a profile with an error, no password: closed, told so, over with the next command."""
    with scene() as here:
        folder = here.lab.vpn.path("/etc/qubes-miragevpn/profiles")
        good = {path: path.read_text() for path in folder.glob("*.ovpn")}
        for path in good:
            path.unlink()
        here.service.start()
        here.service.wait_state("failed")
        assert "profile" in here.service.status()["reason"]
        file = folder / f"{SITE_A.name}.ovpn"
        for text, words in (
            ("client\nno-such-directive\n", "cannot be used"),
            (good[file] + "auth-user-pass\n", "user name and password"),
        ):
            file.write_text(text)
            here.service.call("Switch", SITE_A.name, source="dom0")
            here.service.call("Connect", source="dom0")
            here.service.until(lambda: words in here.service.status()["reason"], words)  # noqa: B023
            here.must_be_closed(rounds=6)
        file.write_text(good[file])
        here.providers.a.start()
        here.service.call("Connect", source="dom0")
        here.must_heal()
