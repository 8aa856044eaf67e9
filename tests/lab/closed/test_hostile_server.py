# SPDX-License-Identifier: BSD-2-Clause
"""A server that pushes what it likes changes nothing for a qube behind sys-vpn but what that qube can reach.

TunnelCrack (LocalNet: routes past the tunnel for networks that the server names; ServerIP: whatever goes to the
server's address goes past it), TunnelVision's more specific routes, networks of Qubes' own, resolvers and tunnel
addresses that belong to somebody else, and words that a client should not even know. After each, rules and routes are
those of an honest server, and what AppVMs send is in the tunnel or nowhere.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.appvm import Noise, ask, seen_address
from tests.lab.namedrules import SOME_NAME, QubesDb
from tests.lab.places import DNS4, FOREIGN_DNS4, SITE_A, VPN_DOMID, WEB4, Address
from tests.lab.scene import Scene, scene

GATEWAY = "10.137.0.5"
OTHER_APPVM, OTHER_APPVM6 = "10.137.0.22", "fd09:24ef:4179::a89:16"

CARRIES: dict[str, tuple[str, ...]] = {
    "past the tunnel": (
        "route 0.0.0.0 0.0.0.0 net_gateway",
        "route 0.0.0.0 128.0.0.0 net_gateway 1",
        "route 128.0.0.0 128.0.0.0 net_gateway 1",
        "route-ipv6 ::/0",
        f"route {WEB4} 255.255.255.255 net_gateway 0",
        "route-ipv6 2001:db8:80::/64",
        f"route {FOREIGN_DNS4} 255.255.255.255 net_gateway",
        f"route {SITE_A.public4} 255.255.255.255 net_gateway",
        "route 10.137.0.0 255.255.0.0 net_gateway",
        "redirect-gateway local",
    ),
    "into the tunnel": (
        f"route {SITE_A.public4} 255.255.255.255 vpn_gateway",
        f"route {GATEWAY} 255.255.255.255 vpn_gateway",
        *(f"route 10.{number}.0.0 255.255.0.0 vpn_gateway" for number in (137, 138, 139)),
        f"route-gateway {GATEWAY}",
    ),
    "no route at all": ("route-nopull", "redirect-private"),
    "programs and other systems' words": (
        *("up /bin/false", "script-security 3", "plugin /x.so", "setenv PATH /tmp", "user nobody", "chroot /"),
        *("block-outside-dns", "register-dns", "dhcp-option PROXY_HTTP 10.137.0.5 80"),
    ),
}
"""The tunnel goes on to work."""

RESOLVERS = (OTHER_APPVM, GATEWAY, "127.0.0.1", "10.139.1.1", "0.0.0.0", "224.0.0.251", Address.of(VPN_DOMID).ip4)

REFUSED: dict[str, tuple[str, ...]] = {
    "another AppVM's": (f"ifconfig {OTHER_APPVM} 255.255.255.0",),
    "the netvm's": (f"ifconfig {GATEWAY} 255.255.255.0",),
    "sys-vpn's": (f"ifconfig {Address.of(VPN_DOMID).ip4} 255.255.255.0",),
    "a virtual resolver's": ("ifconfig 10.139.1.1 255.255.255.0",),
    "the server's": (f"ifconfig {SITE_A.public4} 255.255.255.0",),
    "loopback": ("ifconfig 127.0.0.1 255.0.0.0",),
    "everybody's": ("ifconfig 224.0.0.251 255.255.255.0",),
    "another AppVM's, IPv6": (f"ifconfig-ipv6 {OTHER_APPVM6}/64 fe80::1",),
}
"""Tunnel addresses that the service does not take."""


class Hostile:
    """A scene with provider A in somebody else's hands."""

    def __init__(self, here: Scene, file: Path) -> None:
        self.here, self.file = here, file
        file.write_text("")
        here.providers.a.program = [sys.executable, "-m", "tests.lab.programs.hostile", str(file)]
        here.connected()
        self.honest = self.routing()

    def routing(self) -> str:
        """Rules and routes but for the numbers that the kernel gives; address and resolver of the tunnel may be any."""
        vpn = self.here.lab.vpn
        tables = [("rule", "show"), ("route", "show", "table", "main"), ("route", "show", "table", "5156")]
        tables.append(("route", "show", "table", "5160"))
        shown = "".join(vpn.run("ip", family, *what, check=False).stdout for family in ("-4", "-6") for what in tables)
        return "\n".join(line for line in shown.splitlines() if not line.startswith("5149:"))

    def asked(self) -> set[str]:
        """The resolvers that root may ask for names in rules."""
        show = ("rule", "show", "pref", "5149")
        rules = "".join(self.here.lab.vpn.run("ip", family, *show).stdout for family in ("-4", "-6"))
        return {line.partition(" to ")[2].split()[0] for line in rules.splitlines()}

    def push(self, *lines: str) -> None:
        """Have the client connect anew and be told `lines`."""
        self.file.write_text("\n".join(lines))
        service, begin = self.here.service, len(self.here.service.log)
        service.send(signal.SIGUSR1)
        service.until(lambda: any("authenticated the server" in line for line in service.log[begin:]), "a handshake")


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    """One scene for all; each test begins with another push."""
    with scene() as here, Noise(here.lab.vpn, own=True):
        QubesDb(here.lab.vpn).set_rules(here.work.address.ip4, SOME_NAME)
        yield Hostile(here, here.lab.folder / "pushed")


@pytest.mark.parametrize("name", CARRIES)
def test_routes_change_nothing(hostile: Hostile, name: str) -> None:
    """What the server says of routes is not even looked at: everything goes through the tunnel."""
    hostile.push(*CARRIES[name])
    hostile.here.service.wait_state("connected")
    assert hostile.routing() == hostile.honest
    hostile.here.must_carry(SITE_A)
    hostile.here.noise.rounds(6)
    hostile.here.must_be_tight()


def test_resolvers_of_others_are_not_asked(hostile: Hostile) -> None:
    """All of them refused, names cannot be looked up; one that is anywhere else is asked through the tunnel."""
    hostile.push(*(f"dhcp-option DNS {address}" for address in RESOLVERS))
    hostile.here.service.wait_state("connected")
    assert seen_address(hostile.here.work) == SITE_A.public4
    assert ask(hostile.here.work, "resolver").startswith("no: ") and hostile.asked() == set()
    hostile.push("dhcp-option DNS 10.137.0.22", f"dhcp-option DNS {DNS4}")
    hostile.here.service.wait_state("connected")
    assert ask(hostile.here.work, "resolver") == "internet" and hostile.asked() == {DNS4}
    assert hostile.routing() == hostile.honest
    hostile.here.must_be_tight()


EVERY_RUN = ("another AppVM's", "the server's", "another AppVM's, IPv6")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_RUN else pytest.mark.soak) for name in REFUSED]
)
def test_addresses_of_others_are_refused(hostile: Hostile, name: str) -> None:
    """The tunnel stays closed, nothing else changes, and an honest push opens it again."""
    here = hostile.here
    hostile.push(*REFUSED[name])
    here.service.until(lambda: here.service.state() in ("connecting", "failed"), "the refusal")
    here.noise.rounds(8)
    assert seen_address(here.work).startswith("no: ")
    here.must_be_tight()
    hostile.file.write_text("")
    here.service.call("Connect", source="dom0")
    here.must_heal(within=60)
    assert hostile.routing() == hostile.honest


def test_the_address_of_a_server_on_the_internet(hostile: Hostile) -> None:
    """A tunnel that bears the web server's address: that server is out of reach, and nothing goes past the tunnel."""
    hostile.push(f"ifconfig {WEB4} 255.255.255.0")
    hostile.here.service.wait_state("connected")
    assert seen_address(hostile.here.work).startswith("no: ")
    hostile.here.noise.rounds(8)
    hostile.here.must_be_tight()
    hostile.push()
    hostile.here.must_heal(within=60)
