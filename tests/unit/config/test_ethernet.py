# SPDX-License-Identifier: BSD-2-Clause
"""``dev tap``: on a plain host, never in a VPN qube; addresses have a netmask, and routes a gateway."""

from __future__ import annotations

from ipaddress import IPv4Interface, ip_address

import pytest

from qubes_miragevpn.base.errors import ConfigError, PeerError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import load_client
from qubes_miragevpn.config.model import ClientConfig, TunnelSettings
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.runtime.plain.plainroutes import tunnel_routes
from tests.unit.config.texts import CLIENT, client_errors, read_file


def tap(*lines: str) -> ClientConfig:
    """A profile of a plain host."""
    text = "\n".join((CLIENT, "dev tap", *lines, "")).encode()
    return load_client(text, file="t", read_file=read_file, surroundings=Surroundings(around=True)).config


def pushed(config: ClientConfig, *options: str) -> TunnelSettings:
    return parse_push(options, config, ip_address("192.0.2.1")).tunnel


@pytest.mark.parametrize("lines", ["dev tap\n", "dev tap3\n", "dev vpn0\ndev-type tap\n"])
def test_a_vpn_qube_takes_none(lines: str) -> None:
    assert any("not supported in a VPN qube" in error for error in client_errors(CLIENT + lines))


def test_which_device_it_is() -> None:
    assert tap().common.ethernet and tap("dev vpn0", "dev-type tap").common.ethernet
    assert not tap("dev tun").common.ethernet
    for lines in (("dev tap", "dev-type tun"), ("dev tun", "dev-type tap")):
        with pytest.raises(ConfigError, match="contradicts"):
            tap(*lines)


def test_addresses_have_a_netmask_whatever_the_topology() -> None:
    for topology in ((), ("topology net30",), ("topology p2p",)):
        settings = pushed(tap(), "ifconfig 10.8.0.2 255.255.255.0", *topology)
        assert (settings.ipv4, settings.ipv4_peer) == (IPv4Interface("10.8.0.2/24"), None) and settings.ethernet
    with pytest.raises(PeerError, match="not a netmask"):
        pushed(tap(), "ifconfig 10.8.0.2 10.8.0.1")


def test_routes_have_a_gateway() -> None:
    options = ("ifconfig 10.8.0.2 255.255.255.0", "route 10.9.0.0 255.255.0.0", "redirect-gateway def1")
    settings = pushed(tap(), *options, "route-gateway 10.8.0.1", "route 10.7.0.0 255.255.0.0 10.8.0.7")
    found = {str(route.network): str(route.via) for route in tunnel_routes(settings, "tap0")}
    assert found == {
        "10.9.0.0/16": "10.8.0.1", "10.7.0.0/16": "10.8.0.7", "0.0.0.0/1": "10.8.0.1", "128.0.0.0/1": "10.8.0.1"
    }  # fmt: skip
    for option in options[1:]:
        with pytest.raises(PeerError, match="needs a gateway"):
            pushed(tap(), options[0], option)
    assert pushed(tap()).ipv4 is None, "addresses may come by DHCP"
