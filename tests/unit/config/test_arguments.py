# SPDX-License-Identifier: BSD-2-Clause
"""Argument types: what each takes, and that everything else is a `ValueError`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Interface
from typing import Any

import pytest

from qubes_miragevpn.config.model import Family, NameType, Proto
from qubes_miragevpn.config.rows import arguments as a
from qubes_miragevpn.config.rows.arguments import Kind, ProtoWord


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (a.integer(0, 9), "9", 9),
        (a.seconds(), "20", 20.0),
        (a.choice("a", "b"), "b", "b"),
        (a.either("none", 7, a.integer(0, 3)), "none", 7),
        (a.either("none", 7, a.integer(0, 3)), "3", 3),
        (a.TEXT, "x" * 255, "x" * 255),
        (a.HOST, "vpn-1.example.org", "vpn-1.example.org"),
        (a.HOST, "vpn_1.example.org.", "vpn_1.example.org."),
        (a.HOST, "192.0.2.1", "192.0.2.1"),
        (a.HOST, "2001:DB8::1", "2001:db8::1"),
        (a.DEVICE, "tun-vpn_0.1", "tun-vpn_0.1"),
        (a.PROTO, "udp", ProtoWord(Proto.UDP, Family.ANY)),
        (a.PROTO, "udp4", ProtoWord(Proto.UDP, Family.IPV4)),
        (a.PROTO, "udp6", ProtoWord(Proto.UDP, Family.IPV6)),
        (a.PROTO, "tcp", ProtoWord(Proto.TCP, Family.ANY)),
        (a.PROTO, "tcp4", ProtoWord(Proto.TCP, Family.IPV4)),
        (a.PROTO, "tcp6", ProtoWord(Proto.TCP, Family.IPV6)),
        (a.PROTO, "tcp-client", ProtoWord(Proto.TCP, Family.ANY, "client")),
        (a.PROTO, "tcp4-client", ProtoWord(Proto.TCP, Family.IPV4, "client")),
        (a.PROTO, "tcp6-client", ProtoWord(Proto.TCP, Family.IPV6, "client")),
        (a.PROTO, "tcp-server", ProtoWord(Proto.TCP, Family.ANY, "server")),
        (a.NETMASK, "255.255.255.0", 24),
        (a.NETMASK, "0.0.0.0", 0),
        (a.NETMASK, "255.255.255.255", 32),
        (a.ROUTE_TARGET, "10.1.2.3", IPv4Network("10.1.2.3/32")),
        (a.ROUTE_TARGET, "10.1.2.3/8", IPv4Network("10.0.0.0/8")),
        (a.ROUTE_TARGET, "remote_host", "remote_host"),
        (a.GATEWAY4, "default", None),
        (a.GATEWAY4, "vpn_gateway", "vpn_gateway"),
        (a.GATEWAY4, "10.0.0.1", IPv4Address("10.0.0.1")),
        (a.GATEWAY6, "default", None),
        (a.IPV6_INTERFACE, "fd00::2/64", IPv6Interface("fd00::2/64")),
        (a.FINGERPRINT, ":".join(["aB"] * 32), b"\xab" * 32),
        (a.TLS_VERSION, "1.3", (1, 3)),
        (a.DNS_NAME, "Corp.example.", "Corp.example"),
        (a.NAME_TYPE, "name-prefix", NameType.NAME_PREFIX),
    ],
)
def test_taken(kind: Kind, word: str, value: Any) -> None:
    assert kind.parse(word) == value


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (a.integer(0, 9), "10"),
        (a.integer(1, 9), "0"),
        (a.integer(0, 9), "-1"),
        (a.integer(0, 9), "+1"),
        (a.integer(0, 9), " 1"),
        (a.integer(0, 9), "1s"),
        (a.integer(0, 9), "0x1"),
        (a.integer(0, 9), "٣"),
        (a.integer(0, 9), "1_0"),
        (a.integer(0, 10**12), "9" * 4000),
        (a.seconds(), "1.5"),
        (a.choice("a", "b"), "A"),
        (a.TEXT, ""),
        (a.TEXT, "x" * 256),
        (a.HOST, "1.2.3"),
        (a.HOST, "1.2.3.256"),
        (a.HOST, "fe80::1%eth0"),
        (a.HOST, "-a.example"),
        (a.HOST, "a b"),
        (a.HOST, "a;b"),
        (a.HOST, "a" * 254),
        (a.PORT, "0"),
        (a.PORT, "65536"),
        (a.DEVICE, "tun/0"),
        (a.DEVICE, ".."),
        (a.DEVICE, "t" * 16),
        (a.PROTO, "UDP"),
        (a.PROTO, "udp-client"),
        (a.NETMASK, "255.0.255.0"),
        (a.NETMASK, "0.255.255.255"),
        (a.NETMASK, "24"),
        (a.ROUTE_TARGET, "10.0.0.0/33"),
        (a.ROUTE_TARGET, "10.0.0.0/255.0.0.0"),
        (a.ROUTE_TARGET, "www.example.org"),
        (a.GATEWAY4, "gateway"),
        (a.IPV4, "010.0.0.1"),
        (a.IPV6, "fe80::1%eth0"),
        (a.IPV6_INTERFACE, "fd00::2"),
        (a.IPV6_INTERFACE, "fd00::2/129"),
        (a.IPV6_INTERFACE, "fd00::2/ffff::"),
        (a.FINGERPRINT, ":".join(["ab"] * 31)),
        (a.FINGERPRINT, "ab" * 32),
        (a.TLS_VERSION, "1.10"),
        (a.TLS_VERSION, "2.0"),
        (a.DNS_NAME, "$(touch x)"),
        (a.DNS_NAME, "a..b"),
        (a.DNS_NAME, "-a"),
        (a.DNS_NAME, "a" * 64),
        (a.DNS_NAME, "a." * 127 + "a"),
        (a.DNS_NAME, "zürich"),
        (a.DNS_NAME, "a\n"),
        (a.DNS_NAME, ""),
        (a.NAME_TYPE, "cn"),
    ],
)
def test_refused(kind: Kind, word: str) -> None:
    with pytest.raises(ValueError):
        kind.parse(word)


def test_expectations_read_well() -> None:
    assert a.choice("a").expected == "'a'"
    assert a.choice("a", "b", "c").expected == "'a', 'b' or 'c'"
    assert a.integer(1, 5).expected == "a number from 1 to 5"
