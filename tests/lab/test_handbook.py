# SPDX-License-Identifier: BSD-2-Clause
"""What the handbook has people type in sys-vpn, run there as written, by the default user, or by root after `sudo`.

There is no systemd in the lab: its commands are left out, but that the service is restarted, which the test does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.places import SITE_A, SITE_B
from tests.lab.scene import Scene, scene
from tests.unit.handbook import Block, blocks

HOME = "/run/home"
USER = ("setpriv", "--reuid", "user", "--regid", "user", "--init-groups")
RESTART = "sudo systemctl restart qubes-miragevpn"


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene with both providers; the files that the pages speak of lie in the user's home."""
    with scene() as made:
        made.providers.b.start()
        made.connected()
        yield made


def in_sys_vpn(page: str) -> list[Block]:
    """The page's blocks for sys-vpn."""
    return [block for block in blocks(page) if block.place == "sys-vpn"]


def typed(live: Scene, block: Block) -> str:
    """Run a block line by line; what it printed."""
    vpn, printed = live.lab.vpn, ""
    for line in block.lines:
        if line == RESTART:
            live.service.stop()
            live.service.start()
        elif "systemctl" not in line and "journalctl" not in line:
            rights = () if "sudo" in line else USER
            words = ("env", f"HOME={HOME}", "bash", "-euc", line.replace("sudo ", ""))
            printed += vpn.run(*rights, *words).stdout
    return printed


def received(live: Scene) -> None:
    """A profile in the folder of what other qubes sent, and one with its authority in a file beside it."""
    vpn, text = live.lab.vpn, live.providers.b.profile_text
    before, _, rest = text.partition("<ca>\n")
    authority, _, after = rest.partition("</ca>\n")
    folder = f"{HOME}/QubesIncoming/work"
    vpn.write(f"{folder}/home.ovpn", text)
    vpn.write(f"{folder}/provider/home.ovpn", f"{before}ca ca.crt\n{after}")
    vpn.write(f"{folder}/provider/ca.crt", authority)
    vpn.run("chown", "-R", "user:user", HOME)


def test_the_installations_page(live: Scene) -> None:
    block = in_sys_vpn("install.md")[0]  # the other one asks systemd
    received(live)
    assert "profile    home" in typed(live, block)
    live.must_carry(SITE_B)
    assert not live.lab.vpn.path(f"{HOME}/QubesIncoming/work").exists()
    assert "* home (default)" in live.lab.vpn.run("miragevpn", "profiles").stdout
    live.must_be_tight()


def test_the_providers_page(live: Scene) -> None:
    """Every block in turn; `away` is the other provider, and what is said of it is seen."""
    received(live)
    away = live.providers.a.profile_text.encode()
    assert live.service.call("ImportProfile", "away", source="dom0", data=away).code == 0
    said = [typed(live, block) for block in in_sys_vpn("providers.md")]
    assert len(said) == 4
    assert live.lab.vpn.path(f"{HOME}/one.ovpn").read_text().count("<ca>") == 1
    live.must_carry(SITE_B)
    assert "vpn1" in said[-1] and "10.137.0.20" in said[-1]
    assert "vpn1" not in live.lab.vpn.run("miragevpn", "details").stdout
    live.must_be_tight()


def test_the_networks_page(live: Scene) -> None:
    """The settings are taken by a service that starts anew."""
    for block in in_sys_vpn("network.md"):
        typed(live, block)
        live.must_carry(SITE_B)
    assert live.lab.vpn.path("/etc/qubes-miragevpn/service.conf").read_text() == "own_programs = yes\n"
    live.must_be_tight()


def test_the_page_of_troubles(live: Scene) -> None:
    """The barriers can be looked at, and look as they are said to."""
    details, barriers = (typed(live, block) for block in in_sys_vpn("troubleshooting.md"))
    assert "vpn0" in details
    assert "table inet qubes-miragevpn" in barriers and "lookup 5160" in barriers and "unreachable default" in barriers
    assert SITE_A.public4 not in live.lab.vpn.run("ip", "route", "show", "table", "main").stdout
