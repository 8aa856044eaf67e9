# SPDX-License-Identifier: BSD-2-Clause
"""A server's ``dev tap``: its forms of ``server-bridge``, and what goes with frames and what does not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import load_server, looks_between_two, looks_like_server
from qubes_miragevpn.config.model import Bridge, ServerConfig
from tests.unit.config.texts import SERVER, read_file, server_errors, without

ADDRESSES = "server-bridge 10.8.0.4 255.255.255.0 10.8.0.128 10.8.0.254"
BARE = without("server", SERVER)


def tap(*lines: str, base: str = BARE) -> ServerConfig:
    text = "\n".join((base, "dev tap", *lines, "")).encode()
    return load_server(text, file="s.conf", read_file=read_file, surroundings=Surroundings(around=True)).config


@pytest.mark.parametrize(
    ("line", "bridge"),
    [
        ("server-bridge", Bridge()),
        ("server-bridge nogw", Bridge(dhcp_gateway=False)),
        ("mode server", Bridge(dhcp_gateway=False)),
        (ADDRESSES, Bridge(ip_address("10.8.0.4"))),
    ],
)
def test_the_forms(line: str, bridge: Bridge) -> None:
    config = tap(line)
    assert config.bridge == bridge and config.common.ethernet and config.address == bridge.gateway
    if bridge.gateway is None:
        assert (config.network, config.pool) == (None, ())
    else:
        assert config.network == ip_network("10.8.0.0/24")
        assert config.pool == (ip_address("10.8.0.128"), ip_address("10.8.0.254"))
    assert looks_like_server(line.encode()) and not looks_between_two(f"tls-server\n{line}".encode())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("server-bridge 10.8.0.4",), "four words, 'nogw' or none"),
        (("server-bridge 10.8.0.4 255.255.255.0 10.8.0.128",), "four words, 'nogw' or none"),
        (("server-bridge nogw 255.255.255.0 10.8.0.128 10.8.0.254",), "four words, 'nogw' or none"),
        (("server-bridge 10.8.0.4 255.255.255.0 10.8.1.128 10.8.1.254",), "10.8.1.128 is not the address of one"),
        (("server-bridge 10.8.0.4 255.255.255.0 10.8.0.128 10.8.0.255",), "10.8.0.255 is not the address of one"),
        (("server-bridge 10.8.0.4 255.255.255.0 10.8.0.9 10.8.0.8",), "ends before it begins"),
        (("server-bridge 10.8.0.4 255.255.255.0 10.8.0.2 10.8.0.8",), "10.8.0.4, which is no client"),
        (("server-bridge 10.8.0.4 255.0.0.0 10.9.0.0 10.11.0.0",), "more than 65536 addresses"),
        (("server-bridge 10.8.0.4 128.0.0.0 10.9.0.0 10.9.0.9",), "larger than 10.0.0.0/8"),
        (("server-bridge 127.0.0.1 255.0.0.0 127.0.0.2 127.0.0.3",), "loopback"),
        ((ADDRESSES, "server 10.8.0.0 255.255.255.0"), "'server' does not go with 'server-bridge'"),
        ((ADDRESSES, "server-ipv6 fd42:8::/64"), "'server-ipv6' does not go with 'server-bridge'"),
        ((ADDRESSES, "nat"), "'nat' does not go with 'server-bridge'"),
        ((ADDRESSES, "route 10.5.0.0 255.255.0.0"), "a 'route' into a TAP needs a gateway"),
        ((ADDRESSES, "route-ipv6 fd05::/32"), "a 'route-ipv6' into a TAP needs a gateway"),
        ((ADDRESSES, "dev-type tun"), "needs a tunnel of Ethernet frames"),
    ],
)
def test_what_makes_no_bridge(lines: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        tap(*lines)


def test_frames_have_one_topology_and_routes_a_neighbour() -> None:
    config = tap("topology net30", "route 10.5.0.0 255.255.0.0 10.8.0.7", base=SERVER)
    assert config.topology == "subnet" and [route.gateway for route in config.routes] == [ip_address("10.8.0.7")]
    assert tap("topology subnet", base=BARE + "server 10.8.0.0 255.255.255.252\n").network == ip_network("10.8.0.0/30")


def test_a_pool_of_a_bridges_network_in_its_long_form() -> None:
    config = tap("mode server", "tls-server", "ifconfig-pool 10.8.0.128 10.8.0.254 255.255.255.0")
    assert (config.network, config.bridge) == (ip_network("10.8.0.0/24"), Bridge(dhcp_gateway=False))
    assert config.pool == (ip_address("10.8.0.128"), ip_address("10.8.0.254")) and config.address is None
    with pytest.raises(ConfigError, match="needs a netmask"):
        tap("mode server", "ifconfig-pool 10.8.0.128 10.8.0.254")


def test_not_in_a_vpn_qube() -> None:
    assert any("not supported in a VPN qube" in error for error in server_errors(SERVER + "dev tap\n"))
