# SPDX-License-Identifier: BSD-2-Clause
"""Three AppVMs on three providers at once, each killed in turn: nobody is carried by another's tunnel, or by none.

work ----- vpn0 ----- provider-a      10.8.0.0/24 inside
second --- vpn1 ----- provider-b      10.9.0.0/24 inside
third ---- vpn2 ----- provider-c      10.8.0.0/24 inside again, addresses and resolver like A's
hostile    vpn0 or nowhere, sends by every way without pause
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.appvm import ask, seen_address
from tests.lab.network import AppVM, Lab, _sysctl_defaults, start_program
from tests.lab.places import HOSTS, SITE_A, SITE_B, SITE_C, Site
from tests.lab.providers import OWN, Offer, Provider
from tests.lab.qube import Qube
from tests.lab.scene import Scene, scene
from tests.lab.service import PROFILES

REFUSED = 7


def _third_provider(lab: Lab) -> Provider:
    """Provider C in a namespace of its own, with its resolver."""
    qube = Qube.start(SITE_C.name, lab.folder / SITE_C.name)
    lab.qubes.append(qube)
    qube.wait_ready()
    _sysctl_defaults(qube)
    lab.internet.ip(f"""
link add to-c type veth peer name eth0 netns {qube.holder.pid}
address add {SITE_C.router4}/{SITE_C.prefix4} dev to-c
link set to-c up""")
    qube.ip(f"""
address add {SITE_C.public4}/{SITE_C.prefix4} dev eth0
link set eth0 up
route add default via {SITE_C.router4}""")
    qube.sysctl({"ipv4/ip_forward": 1})
    qube.nft(f"""
table ip provider {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" ip saddr {SITE_C.tunnel}.0/24 masquerade
  }}
}}""")
    start_program(qube, "dns.py", SITE_C.name, SITE_C.resolver, *HOSTS)()
    return Provider(lab, qube, Offer(SITE_C, SITE_C.public4, "udp", 1194, "tls-crypt"), OWN)


@dataclass
class Way:
    """One AppVM, its tunnel and its provider."""

    appvm: AppVM
    tunnel: str
    site: Site
    provider: Provider

    def carried(self) -> bool:
        """Its page shows its own provider; never another one."""
        answer = seen_address(self.appvm)
        assert answer == self.site.public4 or answer.startswith("no: "), f"{self.appvm.qube.name} seen as {answer}"
        return answer == self.site.public4


@dataclass
class Stage:
    scene: Scene
    ways: list[Way]

    def wait(self, way: Way, carried: bool, within: float = 60) -> None:
        deadline = time.monotonic() + within
        while way.carried() != carried:
            assert time.monotonic() < deadline, f"{way.tunnel}: {self.details()}\n{self.scene.service.tail()}"
            time.sleep(0.1)
        self.scene.must_be_tight()

    def details(self) -> dict[str, object]:
        return dict(json.loads(self.scene.service.call("Details", source="dom0").output))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Everybody connected and assigned, by qrexec, one after the other while the others run."""
    with scene() as made:
        lab, service = made.lab, made.service
        made.providers.b.start()
        third = _third_provider(lab)
        third.start()
        lab.vpn.write(f"{PROFILES}/{SITE_C.name}.ovpn", third.profile_text, 0o600)
        made.connected()
        ways = [Way(made.work, "vpn0", SITE_A, made.providers.a)]
        for name, tunnel, provider in (("second", "vpn1", made.providers.b), ("third", "vpn2", third)):
            appvm = lab.attach(name)
            ways.append(Way(appvm, tunnel, provider.offer.site, provider))
            assert service.call("Assign", f"{appvm.address.ip4}+{tunnel}", source="dom0").code == 0
            assert seen_address(appvm).startswith("no: "), "its tunnel is not there yet"
            assert service.call("Switch", f"{provider.offer.profile}+{tunnel}", source="dom0").code == 0
        result = Stage(made, ways)
        for way in ways:
            result.wait(way, True)
        yield result


def test_each_has_its_own_way_and_resolver(stage: Stage) -> None:
    """Also where two providers use the same addresses inside."""
    for way in stage.ways:
        assert way.carried()
        assert ask(way.appvm, "resolver") == way.site.name
    status = json.loads(stage.scene.service.call("Status", "vpn1").output)
    assert (status["state"], status["profile"]) == ("connected", SITE_B.name)


@pytest.mark.parametrize("number", range(3))
def test_a_provider_that_dies_closes_its_own_qube_alone(stage: Stage, number: int) -> None:
    """The others go on all the while; the one comes back when its provider does."""
    victim, others = stage.ways[number], [way for way in stage.ways if way is not stage.ways[number]]
    victim.provider.kill()
    stage.wait(victim, False)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert not victim.carried() and all(way.carried() for way in others)
        assert ask(victim.appvm, "resolver").startswith("no: ")
    stage.scene.must_be_tight()
    victim.provider.start()
    stage.wait(victim, True, within=60)


def test_assigned_live_and_kept_over_a_kill(stage: Stage) -> None:
    """Moved by the command line: the next page is the other provider's. A service killed leaves all closed, and its
    successor serves everybody as before."""
    vpn, second = stage.scene.lab.vpn, stage.ways[1]
    vpn.run("miragevpn", "assign", second.appvm.address.ip4, "default")
    assert seen_address(second.appvm) == SITE_A.public4
    vpn.run("miragevpn", "assign", second.appvm.address.ip4, "vpn1")
    assert second.carried()
    stage.scene.service.kill()
    stage.scene.noise.rounds(10)
    for way in stage.ways:
        assert seen_address(way.appvm).startswith("no: ")
    stage.scene.must_be_tight()
    stage.scene.service.start()
    for way in stage.ways:
        stage.wait(way, True)


def test_a_tunnel_that_is_disconnected_and_a_qube_that_is_plugged_in(stage: Stage) -> None:
    """The disconnected one's qube stays closed; a new qube uses vpn0 without anybody's doing, or nothing at all."""
    service, third = stage.scene.service, stage.ways[2]
    assert service.call("Disconnect", "vpn2", source="dom0").code == 0
    stage.wait(third, False)
    new = stage.scene.lab.attach("fourth")
    way = Way(new, "vpn0", SITE_A, stage.ways[0].provider)
    stage.wait(way, True, within=10)
    assert not third.carried() and stage.ways[1].carried()
    assert service.call("Assign", f"{new.address.ip4}+vpn9", source="dom0").code == 0
    assert seen_address(new).startswith("no: "), "a tunnel that is not there"
    assert service.call("Connect", "vpn2", source="dom0").code == 0
    stage.wait(third, True)
    stage.scene.must_be_tight()
    assert service.call("Assign", f"{new.address.ip4}+default", source="dom0").code == 0


def test_a_tunnel_that_is_removed(stage: Stage) -> None:
    """Interface, rules and table go, the others' traffic goes on; its qube stays closed until somebody says other."""
    service, vpn, third = stage.scene.service, stage.scene.lab.vpn, stage.ways[2]
    assert service.call("RemoveTunnel", "vpn0", source="dom0").code == REFUSED
    assert service.call("RemoveTunnel", "vpn2", source="dom0").code == 0

    def left() -> str:
        words = [
            ("ip", "link"),
            ("ip", "rule"),
            ("ip", "-6", "rule"),
            ("nft", "list", "table", "inet", "qubes-miragevpn"),
        ]
        words += [("ip", *family, "route", "show", "table", "5162") for family in ((), ("-6",))]
        return "\n".join(vpn.run(*each, check=False).stdout for each in words)

    assert not any(word in left() for word in ("vpn2", "5162", "unreachable default")), left()
    assert stage.ways[0].carried() and stage.ways[1].carried() and not third.carried()
    assert service.call("Status", "vpn2").code == REFUSED
    service.kill()
    service.start()
    for way in stage.ways[:2]:
        stage.wait(way, True)
    assert not third.carried() and "vpn2" not in left()
    assert service.call("Switch", f"{SITE_C.name}+vpn2", source="dom0").code == 0
    stage.wait(third, True)
    vpn.run("miragevpn", "remove-tunnel", "vpn2", "--default")
    assert seen_address(third.appvm) == SITE_A.public4, "it uses the tunnel for the rest"
    stage.scene.must_be_tight()
