# SPDX-License-Identifier: BSD-2-Clause
"""Narrow paths and IPv6: what an AppVM with an MTU of 1500 gets through the tunnel when a link on the way has less."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.appvm import ask, seen_address
from tests.lab.network import start_program
from tests.lab.places import FOREIGN_DNS4, HOSTS, SITE_A, SITE_B, WEB4, WEB6
from tests.lab.providers import OPENVPN, OWN
from tests.lab.scene import Scene, scene
from tests.lab.tables import VIRTUAL_DNS, VIRTUAL_DNS6

NARROW = 1280
DEAD, SIX = "10.8.0.77", "fd42:8::1"  # resolvers of provider A's: one that nobody has, its IPv6 address in the tunnel


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """One scene, connected."""
    with scene(OWN) as made:
        made.connected()
        yield made


def narrow(here: Scene, mtu: int, *, outside: bool) -> None:
    """The link before the provider (`outside` the tunnel), or behind it."""
    qube, far, near = (here.lab.net, "ens6", "to-net") if outside else (here.lab.provider_a, "eth0", "to-a")
    qube.ip(f"link set {far} mtu {mtu}")
    here.lab.internet.ip(f"link set {near} mtu {mtu}")


def test_a_narrow_path_to_the_server(live: Scene) -> None:
    """The transport's packets do not fit: a megabyte goes each way all the same."""
    narrow(live, NARROW, outside=True)
    try:
        assert ask(live.work, "big", WEB4) == f"{1 << 20} {1 << 20}"
    finally:
        narrow(live, 1500, outside=True)
    live.must_be_tight()


def test_a_narrow_path_behind_the_server(live: Scene) -> None:
    """The AppVM is told (ICMP "fragmentation needed" comes back through the tunnel), and a megabyte goes each way."""
    narrow(live, NARROW, outside=False)
    try:
        told = live.work.qube.run("ping", "-c", "2", "-W", "2", "-M", "do", "-s", "1400", WEB4, check=False).stdout
        assert f"mtu = {NARROW}" in told or "message too long" in told.lower(), told
        assert ask(live.work, "big", WEB4) == f"{1 << 20} {1 << 20}"
    finally:
        narrow(live, 1500, outside=False)
    live.must_be_tight()


def names_are_looked_up(here: Scene) -> None:
    """By UDP and TCP, at the virtual resolvers of both families, also while the first resolver does not answer."""
    for transport in ("udp", "tcp"):
        assert ask(here.work, "resolver", VIRTUAL_DNS[0], transport) == SITE_A.name
        assert [ask(here.work, "resolver", virtual, transport) for virtual in VIRTUAL_DNS6] == ["six", "six"]
    conf = here.lab.vpn.path("/etc/resolv.conf").read_text()
    assert [line.split()[1] for line in conf.splitlines()[1:]] == [SITE_A.resolver, DEAD, FOREIGN_DNS4, SIX]
    here.lab.provider_a.nft(f"""
table ip dead {{
  chain input {{
    type filter hook input priority filter; policy accept;
    ip daddr {SITE_A.resolver} meta l4proto {{ tcp, udp }} th dport 53 drop
  }}
}}""")
    assert ask(here.work, "resolver", VIRTUAL_DNS[0]).startswith("no: ")
    assert "foreign" in [ask(here.work, "resolver", VIRTUAL_DNS[1]) for _ in range(2)], "each gets its turn"
    here.lab.provider_a.nft("delete table ip dead")
    assert ask(here.work, "resolver", VIRTUAL_DNS[0]) == SITE_A.name


def test_a_tunnel_that_carries_ipv6() -> None:
    """openvpn gives the tunnel an IPv6 address: AppVMs reach IPv6 through it, and a tunnel without refuses it.

    Names are looked up by either family's resolvers; of three IPv4 ones the first is dead for a while, the second
    always.
    """
    with scene(OPENVPN) as here:
        a = here.providers.a
        a.extra = 'server-ipv6 fd42:8::/64\npush "route-ipv6 2000::/3"\n' + "".join(
            f'push "dhcp-option {option}"\n' for option in (f"DNS {DEAD}", f"DNS {FOREIGN_DNS4}", f"DNS6 {SIX}")
        )
        a.renew()
        start_program(here.lab.provider_a, "dns.py", "six", SIX, *HOSTS)()
        here.lab.provider_a.sysctl({"ipv6/conf/all/forwarding": 1})
        here.lab.provider_a.nft("""
table ip6 provider {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" ip6 saddr fd42:8::/64 masquerade
  }
}""")
        here.connected()
        assert seen_address(here.work, WEB6) == SITE_A.public6
        here.noise.wait(lambda: here.noise.answers["udp6"] > 3 and here.noise.answers["icmp6"] > 3)
        names_are_looked_up(here)
        here.must_be_tight()
        here.providers.b.start()
        here.service.call("Switch", SITE_B.name, source="dom0")
        here.service.wait_state("connected", profile=SITE_B.name)
        here.must_carry(SITE_B)
        assert seen_address(here.work, WEB6).startswith("no: ")
        assert "no: ConnectionRefusedError" in ask(here.work, "resolver", VIRTUAL_DNS6[0], "tcp")
        before = here.noise.answers["udp6"]
        here.noise.rounds(8)
        assert here.noise.answers["udp6"] == before
        here.must_be_tight()
