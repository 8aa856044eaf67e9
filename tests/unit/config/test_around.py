# SPDX-License-Identifier: BSD-2-Clause
"""What only a plain host may do: routes around the tunnel, and resolvers that systemd-resolved can serve.

The same text is read twice: for a plain host (`around`) and for a VPN qube, where nothing leads around the tunnel.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import load_client
from qubes_miragevpn.config.model import ClientConfig, Detour, Dns, Route, TunnelSettings
from qubes_miragevpn.config.pushed import parse_push
from tests.unit.config.texts import CLIENT, client, read_file

REMOTE = IPv4Address("192.0.2.1")
INSIDE = ("topology subnet", "ifconfig 10.8.0.2 255.255.255.0", "route-gateway 10.8.0.1", "ifconfig-ipv6 fd08::2/64")
NET = IPv4Network("10.66.0.0/16")


def plain(text: str = "") -> ClientConfig:
    loaded = load_client(
        (CLIENT + text).encode(), file="c.ovpn", read_file=read_file, surroundings=Surroundings(around=True)
    )
    return loaded.config


def settings(*pushed: str, config: ClientConfig | None = None) -> TunnelSettings:
    return parse_push((*INSIDE, *pushed), config or plain(), REMOTE).tunnel


@pytest.mark.parametrize(
    ("line", "detours"),
    [
        ("route 10.66.0.0 255.255.0.0 net_gateway", (Detour(NET),)),
        ("route 10.66.0.0 255.255.0.0 net_gateway 7", (Detour(NET, None, 7),)),
        ("route 10.66.0.0 255.255.0.0 192.168.1.1", (Detour(NET, IPv4Address("192.168.1.1")),)),
        ("route 10.66.0.0 255.255.0.0 remote_host", (Detour(NET, REMOTE),)),
        ("route remote_host 255.255.255.255 net_gateway", (Detour(IPv4Network("192.0.2.1/32")),)),
        ("route net_gateway 255.255.255.255 net_gateway", (Detour(None),)),
        ("route-ipv6 2001:db8::/32 net_gateway", (Detour(IPv6Network("2001:db8::/32")),)),
        ("route-ipv6 2001:db8::/32 net_gateway_ipv6 9", (Detour(IPv6Network("2001:db8::/32"), None, 9),)),
    ],
)
def test_detours_on_a_plain_host_and_never_in_a_qube(line: str, detours: tuple[Detour, ...]) -> None:
    for found in (settings(line), settings(config=plain(line + "\n"))):
        assert found.detours == detours and found.routes == ()
    assert not client(line + "\n").config.around
    for config, pushed in ((client().config, (line,)), (client(line + "\n").config, ())):
        tunnel = settings(*pushed, config=config)
        assert tunnel.detours == () and tunnel.routes == ()


@pytest.mark.parametrize(
    ("line", "route"),
    [
        ("route 10.66.0.0 255.255.0.0 vpn_gateway 7", Route(NET, None, 7)),
        ("route 10.66.0.0 255.255.0.0 10.8.0.9", Route(NET, IPv4Address("10.8.0.9"))),
        ("route vpn_gateway 255.255.255.255", Route(IPv4Network("10.8.0.1/32"))),
    ],
)
def test_routes_into_the_tunnel(line: str, route: Route) -> None:
    assert settings(line).routes == (route,) and settings(line).detours == ()


def test_a_landmark_is_still_a_route_into_the_tunnel_for_the_server_s_own_address() -> None:
    assert settings("route remote_host 255.255.255.255").routes == (), "it would lead the tunnel into itself"


def test_route_nopull_keeps_detours_out() -> None:
    config = replace(plain(), route_nopull=True)
    assert settings("route 10.66.0.0 255.255.0.0 net_gateway", config=config).detours == ()


@pytest.mark.parametrize("flag", ["local", "autolocal"])
def test_flags_that_lead_around(flag: str) -> None:
    assert settings(f"redirect-gateway def1 {flag}").redirect == {"def1", flag}
    assert settings(f"redirect-gateway def1 {flag}", config=client().config).redirect == {"def1"}


@pytest.mark.parametrize(
    ("lines", "dns"),
    [
        (
            ("dns server 1 address 10.8.0.1:5353", "dns server 1 resolve-domains a.example B.example"),
            Dns((IPv4Address("10.8.0.1"),), (), ("a.example", "b.example"), 5353),
        ),
        (
            ("dns server 1 address 10.8.0.1", "dns server 1 transport DoT", "dns server 1 sni dns.example",
             "dns server 1 dnssec yes"),
            Dns((IPv4Address("10.8.0.1"),), (), (), 853, "yes", True, "dns.example"),
        ),
        (
            ("dns server 1 address 10.8.0.1", "dns server 1 transport DoH", "dns server 2 address 10.8.0.2"),
            Dns((IPv4Address("10.8.0.2"),)),
        ),
        (
            ("dhcp-option DNS 10.8.0.1", "dhcp-option DOMAIN-ROUTE a.example", "dhcp-option DOMAIN b.example"),
            Dns((IPv4Address("10.8.0.1"),), ("b.example",), ("a.example",)),
        ),
        (
            ("dhcp-option DNS 10.8.0.1", "dhcp-option DOMAIN-ROUTE a.example", "dhcp-option DOMAIN-ROUTE ."),
            Dns((IPv4Address("10.8.0.1"),), (), (".",)),
        ),
        (
            ("dns server 1 address 10.8.0.1:5353", "dns server 1 resolve-domains . a.example"),
            Dns((IPv4Address("10.8.0.1"),), (), (".",), 5353),
        ),
    ],
)  # fmt: skip
def test_resolvers_of_a_plain_host(lines: tuple[str, ...], dns: Dns) -> None:
    assert settings(*lines).dns == dns
    assert settings(config=plain("\n".join(lines) + "\n")).dns == dns
    inside = settings(*lines, config=client().config).dns
    assert inside.split == () and not inside.tls and inside.port == 53


@pytest.mark.parametrize("line", ["dhcp-option DOMAIN-ROUTE .", "dns server 1 resolve-domains ."])
def test_every_name_is_nothing_that_a_vpn_qube_would_not_do(line: str) -> None:
    assert client(line + "\n").warnings == () and settings(line, config=client().config).dns == Dns()


@pytest.mark.parametrize("word", ["10.8.0.1:0", "10.8.0.1:65536", "10.8.0.1:x", "127.0.0.1:5353"])
def test_ports_that_are_none(word: str) -> None:
    assert settings(f"dns server 1 address {word}").dns == Dns()


@pytest.mark.parametrize(
    ("line", "field"),
    [("persist-tun", "persist_tun"), ("ifconfig-noexec", "ifconfig_noexec"), ("route-noexec", "route_noexec")],
)
def test_habits(line: str, field: str) -> None:
    assert getattr(plain(line + "\n"), field) is True and getattr(plain(), field) is False
