# SPDX-License-Identifier: BSD-2-Clause
"""Every kind of ``dhcp-option``: what is used, and what is said of the rest, in a file and in a push."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.pushed import parse_push
from tests.unit.config.texts import client

USED = "ifconfig 10.8.0.2 255.255.255.0"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("NTP 10.8.0.1", "no effect here: it is about the clock"),
        ("WINS 10.8.0.1", "no effect here: it is about NetBIOS"),
        ("NBDD 10.8.0.1", "no effect here: it is about NetBIOS"),
        ("NBT 8", "no effect here: it is about NetBIOS"),
        ("NBS scope", "no effect here: it is about NetBIOS"),
        ("DISABLE-NBT", "no effect here: it is about NetBIOS"),
        ("PROXY_HTTP proxy.example 8080", "no effect here: it is about a browser's proxy"),
        ("PROXY_AUTO_CONFIG_URL http://a/b", "no effect here: it is about a browser's proxy"),
        ("NTP here", "not of the form"),
        ("NBT 3", "not of the form"),
        ("DISABLE-NBT now", "not of the form"),
        ("PROXY_HTTP proxy.example", "not of the form"),
        ("SOMETHING else", "an unknown kind"),
        ("DNS not-an-address", "a resolver must be an IP address"),
        ("DNS 127.0.0.1", "a loopback address"),
        ("DOMAIN bad_-name-", "a search domain must be"),
        ("DOMAIN a..b", "a search domain must be"),
    ],
)
def test_what_is_not_used_is_told(option: str, said: str) -> None:
    pulled = parse_push((USED, f"dhcp-option {option}"), client().config, None)
    assert len(pulled.dropped) == 1 and said in pulled.dropped[0]
    (warning,) = client(f"dhcp-option {option}\n").warnings
    assert said in warning


@pytest.mark.parametrize("kind", ["DOMAIN", "DOMAIN-SEARCH", "ADAPTER_DOMAIN_SUFFIX"])
def test_resolvers_and_domains_are_used(kind: str) -> None:
    options = (USED, "dhcp-option DNS 10.8.0.1", "dhcp-option DNS6 fd00::1", f"dhcp-option {kind} Corp.Example")
    pulled = parse_push(options, client().config, None)
    assert pulled.dropped == () and pulled.tunnel.dns.search == ("corp.example",)
    assert pulled.tunnel.dns.servers == (ip_address("10.8.0.1"), ip_address("fd00::1"))
