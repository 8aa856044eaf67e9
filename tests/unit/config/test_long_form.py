# SPDX-License-Identifier: BSD-2-Clause
"""A server's addresses said one by one: ``ifconfig``, ``ifconfig-pool``, and both for IPv6."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from tests.unit.config.texts import SERVER, server, server_errors, without

BARE = without("server", SERVER) + "mode server\n"
OWN = "ifconfig 10.8.0.7 255.255.255.0\n"
OWN6 = "ifconfig-ipv6 fd42:8::7/64 fd42:8::8\n"


def test_both_families() -> None:
    text = OWN + "ifconfig-pool 10.8.0.9 10.8.0.20 255.255.255.0\n" + OWN6 + "ifconfig-ipv6-pool fd42:8::100/64\n"
    config = server(text, BARE).config
    assert (config.network, config.address) == (ip_network("10.8.0.0/24"), ip_address("10.8.0.7"))
    assert config.pool == (ip_address("10.8.0.9"), ip_address("10.8.0.20"))
    assert (config.network6, config.address6) == (ip_network("fd42:8::/64"), ip_address("fd42:8::7"))
    assert config.pool6 == (ip_address("fd42:8::100"),)


def test_without_pools_there_are_addresses_for_single_clients_alone() -> None:
    config = server(OWN + OWN6, BARE).config
    assert (config.pool, config.pool6) == ((), ())


@pytest.mark.parametrize("text", ["server-ipv6 fd42:8::/64\n", OWN6 + "ifconfig-ipv6-pool fd42:8::100/64\n"])
def test_ipv6_alone(text: str) -> None:
    config = server(text, BARE).config
    assert config.network is None and config.address is None and config.network6 == ip_network("fd42:8::/64")


def test_beside_the_short_form_the_servers_own_address_has_no_effect() -> None:
    loaded = server(OWN + OWN6 + "server-ipv6 fd42:9::/64\n")
    assert loaded.config.own is loaded.config.own6 is None
    assert sum("has no effect beside" in warning for warning in loaded.warnings) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'server' is missing"),
        ("ifconfig-pool 10.8.0.9 10.8.0.20\n", "needs the server's own address"),
        ("topology net30\n" + OWN, "needs 'topology subnet'"),
        ("ifconfig 10.8.0.7 10.8.0.8\n", "needs a netmask, not 10.8.0.8"),
        ("ifconfig 10.8.0.255 255.255.255.0\n", "not the address of one machine"),
        ("ifconfig 127.0.0.1 255.0.0.0\n", "loopback"),
        (OWN + "ifconfig-pool 10.8.0.2 10.8.0.20\n", "10.8.0.7, which is no client's"),
        (OWN + "ifconfig-pool 10.9.0.2 10.9.0.20\n", "10.9.0.2 is not the address of one machine"),
        (OWN + "ifconfig-pool 10.8.0.9 10.8.0.20 255.255.0.0\n", "is not that of 10.8.0.0/24"),
        (OWN + "ifconfig-pool 10.8.0.20 10.8.0.9\n", "ends before it begins"),
        (OWN + "ifconfig-ipv6-pool fd42:8::100/64\n", "'ifconfig-ipv6-pool' needs 'ifconfig-ipv6'"),
        (OWN + "server-ipv6 fd42:8::/64\nifconfig-ipv6-pool fd42:8::100/64\n", "'server-ipv6' has a pool already"),
        (OWN + OWN6 + "ifconfig-ipv6-pool fd42:9::100/64\n", "is not in the network of"),
        (OWN + OWN6 + "ifconfig-ipv6-pool fd42:8::/64\n", "the server's own address fd42:8::7 is one of those"),
        (OWN + "ifconfig-ipv6 fd42:8::7/48\nifconfig-ipv6-pool fd42:8::100/48\n", "must be from /64 to /124"),
        (OWN + "ifconfig-ipv6 fe80::7/64\n", "link-local"),
        (OWN + "tun-mtu 1000\n" + OWN6, "too small for IPv6"),
    ],
)
def test_what_cannot_be(text: str, problem: str) -> None:
    (error,) = server_errors(BARE + text)
    assert problem in error
