# SPDX-License-Identifier: BSD-2-Clause
"""PUSH_REPLY: what is taken, what is dropped and recorded, what ends the session."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.config.model import Dns, PulledOptions, Route, TunnelSettings
from qubes_miragevpn.config.pushed import MAX_BYTES, MAX_DROPPED, parse_push
from tests.unit.config.texts import client

IFCONFIG = "topology subnet,ifconfig 10.8.0.2 255.255.255.0"
IFCONFIG6 = "ifconfig-ipv6 fd00::2/64 fd00::1"


def push(options: str, profile: str = "", remote: str | None = None) -> PulledOptions:
    return parse_push(tuple(options.split(",")), client(profile).config, None if remote is None else ip_address(remote))


def dig(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_a_reply_of_openvpn() -> None:
    """As openvpn 2.6 sends it, order included."""
    pulled = push(
        "route-gateway 10.9.0.1,topology subnet,ping 10,ping-restart 60,ifconfig 10.9.0.2 255.255.255.0,peer-id 3,"
        "cipher AES-256-GCM,protocol-flags cc-exit tls-ekm,tun-mtu 1500"
    )
    assert pulled == PulledOptions(
        tunnel=TunnelSettings(ipv4=IPv4Interface("10.9.0.2/24"), gateway4=IPv4Address("10.9.0.1")),
        cipher="AES-256-GCM",
        peer_id=3,
        key_derivation_ekm=True,
        cc_exit=True,
        ping=10,
        ping_restart=60,
        ping_exit=0,
    )


def test_nothing_pushed() -> None:
    assert parse_push((), client().config, None) == PulledOptions(TunnelSettings())
    assert parse_push(("", " "), client().config, None) == PulledOptions(TunnelSettings())


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        (IFCONFIG, "tunnel.ipv4", IPv4Interface("10.8.0.2/24")),
        ("ifconfig 10.8.0.2 255.255.255.0", "tunnel.ipv4", IPv4Interface("10.8.0.2/24")),
        ("ifconfig 10.8.0.6 10.8.0.5", "tunnel.ipv4", IPv4Interface("10.8.0.6/32")),
        ("ifconfig 10.8.0.6 10.8.0.5", "tunnel.ipv4_peer", IPv4Address("10.8.0.5")),
        ("ifconfig 10.8.0.6 10.8.0.5", "tunnel.gateway4", IPv4Address("10.8.0.5")),
        ("ifconfig 10.8.0.6 10.8.0.5,topology net30", "tunnel.ipv4_peer", IPv4Address("10.8.0.5")),
        ("topology p2p,ifconfig 10.8.0.6 10.8.0.1", "tunnel.ipv4_peer", IPv4Address("10.8.0.1")),
        ("topology subnet,ifconfig 10.8.0.0 255.255.255.254", "tunnel.ipv4", IPv4Interface("10.8.0.0/31")),
        (IFCONFIG6, "tunnel.ipv6", IPv6Interface("fd00::2/64")),
        (IFCONFIG6, "tunnel.gateway6", IPv6Address("fd00::1")),
        (IFCONFIG + ",route-gateway 10.8.0.1", "tunnel.gateway4", IPv4Address("10.8.0.1")),
        (IFCONFIG + ",route 10.0.0.0 255.0.0.0", "tunnel.routes", (Route(IPv4Network("10.0.0.0/8")),)),
        (
            IFCONFIG + ",route 10.0.0.0 255.0.0.0 10.8.0.9 5",
            "tunnel.routes",
            (Route(IPv4Network("10.0.0.0/8"), IPv4Address("10.8.0.9"), 5),),
        ),
        (
            IFCONFIG + ",route 10.0.0.0 255.0.0.0,route 11.0.0.0 255.0.0.0 default 9,route-metric 5",
            "tunnel.routes",
            (Route(IPv4Network("10.0.0.0/8"), None, 5), Route(IPv4Network("11.0.0.0/8"), None, 9)),
        ),
        (IFCONFIG6 + ",route-ipv6 2000::/3", "tunnel.routes", (Route(IPv6Network("2000::/3")),)),
        ("redirect-gateway", "tunnel.redirect", frozenset()),
        ("redirect-gateway def1 ipv6", "tunnel.redirect", frozenset({"def1", "ipv6"})),
        ("redirect-gateway def1 bypass-dhcp", "tunnel.redirect", frozenset({"def1"})),
        ("block-ipv6", "tunnel.block_ipv6", True),
        ("tun-mtu 1400", "tunnel.mtu", 1400),
        ("ping-exit 60", "ping_restart", 0),
        ("ping-restart 60,ping-exit 90", "ping_exit", 90),
        ("ping-exit 60,ping-restart 90", "ping_exit", 0),
        ("key-derivation tls-ekm", "key_derivation_ekm", True),
        ("protocol-flags cc-exit", "key_derivation_ekm", False),
        ("key-derivation tls-ekm,protocol-flags cc-exit", "key_derivation_ekm", True),
        ("protocol-flags tls-ekm", "cc_exit", False),
        ("protocol-flags cc-exit dyn-tls-crypt", "dynamic_tls_crypt", True),
        ("cipher aes-256-gcm", "cipher", "AES-256-GCM"),
        ("explicit-exit-notify", "explicit_exit_notify", 1),
        ("explicit-exit-notify 3", "explicit_exit_notify", 3),
        ("reneg-sec 600", "reneg_sec", 600),
        ("peer-id 16777215", "peer_id", 0xFFFFFF),
        (
            "dhcp-option DNS 10.8.0.1,dhcp-option DNS6 fd00::1,dhcp-option DOMAIN a.example,"
            "dhcp-option DOMAIN-SEARCH B.example",
            "tunnel.dns",
            Dns((IPv4Address("10.8.0.1"), IPv6Address("fd00::1")), ("a.example", "b.example")),
        ),
        (
            "dns server 1 address 10.8.0.1,dns server 0 address [fd00::1]:53 10.8.0.2:53,dhcp-option DNS 9.9.9.9,"
            "dns search-domains a.example b.example",
            "tunnel.dns",
            Dns((IPv6Address("fd00::1"), IPv4Address("10.8.0.2")), ("a.example", "b.example")),
        ),
        (
            "dns server 0 address 10.8.0.1,dns server 0 transport DoT,dns server 5 address 10.8.0.5",
            "tunnel.dns.servers",
            (IPv4Address("10.8.0.5"),),
        ),
        (
            "dns server 0 address 10.8.0.1,dns server 0 transport plain",
            "tunnel.dns.servers",
            (IPv4Address("10.8.0.1"),),
        ),
        ('"ping" "10"', "ping", 10),
        ("redirect-private def1", "tunnel.redirect", {"def1", "!ipv4"}),
        ("redirect-private block-local,redirect-private ipv6", "tunnel.redirect", {"block-local", "ipv6", "!ipv4"}),
        ("redirect-private block-local,redirect-gateway def1", "tunnel.redirect", {"block-local", "def1"}),
    ],
)
def test_taken(options: str, path: str, value: Any) -> None:
    assert dig(push(options), path) == value


@pytest.mark.parametrize(
    "option",
    [
        "up /bin/sh", "down x", "plugin x.so", "script-security 2", "setenv LD_PRELOAD x", "ca x", "remote evil 1",
        "config x", "cd /", "log /etc/passwd", "management 127.0.0.1 1", "route-up x", "tls-auth x", "secret x",
        "block-outside-dns", "register-dns", "setenv-safe A B", "echo x", "sndbuf 9",
        "rcvbuf 9",
        "mssfix 9", "verb 11", "route-delay 5", "persist-key", "persist-tun", "ip-win32 dynamic", "auth-token a b",
        "auth-token-user x", "inactive x", "nonsense", "client", "dev tun9", "data-ciphers AES-128-GCM",
        "keepalive 1 2",
        "dhcp-option WINS 10.0.0.1", "dhcp-option NTP 10.0.0.1", "dhcp-option DNS dns.example", "dhcp-option DNS",
        "dhcp-option DNS 127.0.0.1", "dhcp-option DNS 0.0.0.0", "dhcp-option DNS 224.0.0.1", "dhcp-option DNS ::1",
        "dhcp-option DNS fe80::1", "dhcp-option DNS ::ffff:10.0.0.1", "dhcp-option DNS 255.255.255.255",
        "dhcp-option DOMAIN $(touch${IFS}x)", "dhcp-option DOMAIN a;b", "dhcp-option DOMAIN `x`",
        "dhcp-option DOMAIN a..b",
        "dns server 0 address 10.0.0.1:5353", "dns server 128 address 10.0.0.1", "dns server -129 address 10.0.0.1",
        "dns server x address 10.0.0.1", "dns server 0 address", "dns server 0 address 10.0.0.1:0",
        "dns server 0 address 10.0.0.1:65536", "dns server 0 transport DoH", "dns server 0 dnssec yes",
        "dns server 0 frob x", "dns server 0 resolve-domains a", "dns nothing", "dns search-domains a|b",
        "route 10.0.0.0 255.0.255.0", "route 10.0.0.0 255.0.0.0 net_gateway", "route remote_host",
        "route www.example.org",
        "route 127.0.0.0 255.0.0.0", "route 224.0.0.0 240.0.0.0", "route 240.0.0.0 240.0.0.0", "route",
        "route 10.0.0.0 255.0.0.0 192.0.2.1", "route 10.0.0.0 255.0.0.0 vpn_gateway -1", "route-ipv6 fe80::/10",
        "route-ipv6 ff00::/8", "route-ipv6 ::1/128", "route-ipv6 2000::/129", "route-ipv6 2000::/3 net_gateway_ipv6",
        "route-gateway 192.0.2.1", "route-gateway 127.0.0.1", "redirect-gateway local",
        "ping -1", "ping 1000000", "ping-restart x", "reneg-sec 0", "reneg-sec 1", "reneg-sec 7200",
        "explicit-exit-notify 1000", 'unclosed "quote', "bell \x07", "lone \udce4", "backslash C:\\x",
    ],
)  # fmt: skip
def test_dropped_and_recorded(option: str) -> None:
    options = (*IFCONFIG.split(","), IFCONFIG6, option)
    pulled = parse_push(options, client().config, None)
    plain = push(f"{IFCONFIG},{IFCONFIG6}")
    assert len(pulled.dropped) == 1 and pulled.dropped[0].isascii() and pulled.dropped[0].isprintable()
    assert "SESS_ID" not in pulled.dropped[0]
    if option.startswith("redirect-gateway local"):
        assert pulled.tunnel.redirect == frozenset()
    else:
        assert pulled.tunnel == plain.tunnel
    assert (pulled.ping, pulled.ping_restart, pulled.reneg_sec) == (None, None, None)


@pytest.mark.parametrize(
    "options",
    [
        "ifconfig", "ifconfig 10.8.0.2", "ifconfig x 255.255.255.0", "ifconfig 10.8.0.2 255.255.255.0 x",
        "ifconfig 224.0.0.1 255.255.255.0", "ifconfig 127.0.0.2 255.255.255.0", "ifconfig 0.0.0.0 255.255.255.0",
        "ifconfig 255.255.255.255 255.255.255.0", "ifconfig 10.8.0.2 255.0.255.0", "ifconfig 10.8.0.2 0.0.0.0",
        "ifconfig 10.8.0.0 255.255.255.0", "ifconfig 10.8.0.255 255.255.255.0", "ifconfig 10.8.0.2 224.0.0.1",
        "topology subnet,ifconfig 10.8.0.2 10.8.0.1", "topology subnet,ifconfig 10.8.0.2 128.0.0.0",
        "topology net30,ifconfig 10.8.0.2 255.255.255.252", "topology p2p,ifconfig 10.8.0.2 10.8.0.2", "topology ring",
        "ifconfig-ipv6 fd00::2", "ifconfig-ipv6 fd00::2/0", "ifconfig-ipv6 fd00::2/129", "ifconfig-ipv6 ::1/64",
        "ifconfig-ipv6 ff02::1/64", "ifconfig-ipv6 ::/64", "ifconfig-ipv6 fe80::1/64",
        "ifconfig-ipv6 ::ffff:1.2.3.4/96",
        "ifconfig-ipv6 fd00::2/64 ff02::1", "ifconfig-ipv6 fd00::2/64 x",
        "tun-mtu 0", "tun-mtu 67", "tun-mtu 575", "tun-mtu 1601", "tun-mtu 65536", "tun-mtu -1",
        "cipher AES-256-CBC", "cipher none", "cipher BF-CBC", "cipher", "cipher " + "A" * 300, "cipher AES-256-GCM x",
        "key-derivation x", "key-derivation", "protocol-flags bogus", "protocol-flags tls-ekm dyn-tls-crypt bogus",
        "peer-id 16777216", "peer-id -1", "peer-id", "comp-lzo maybe",
        "redirect-gateway def1 frob", "compress migrate", "compress snappy", "compress bogus",
    ],
)  # fmt: skip
def test_the_session_ends(options: str) -> None:
    with pytest.raises(PeerError) as caught:
        push(options)
    assert caught.value.consequence is Consequence.END_SESSION
    assert len(caught.value.reason) < 600 and caught.value.reason.isprintable()


def test_a_cipher_outside_of_our_list_ends_the_session_and_the_fallback_is_in_it() -> None:
    with pytest.raises(PeerError, match="not among our data-ciphers AES-128-GCM"):
        push("cipher AES-256-GCM", "data-ciphers AES-128-GCM\n")
    pulled = push("cipher AES-256-GCM", "data-ciphers AES-128-GCM\ndata-ciphers-fallback AES-256-GCM\n")
    assert pulled.cipher == "AES-256-GCM"


def test_the_profile_s_own_lines_are_in_the_result() -> None:
    profile = (
        "route 172.16.0.0 255.240.0.0\nroute-metric 7\nroute-gateway 10.8.0.1\nredirect-gateway def1\n"
        "dhcp-option DNS 9.9.9.9\ndhcp-option DOMAIN own.example\ntun-mtu 1400\n"
    )
    tunnel = push(f"{IFCONFIG},route 10.0.0.0 255.0.0.0,redirect-gateway ipv6", profile).tunnel
    assert tunnel == TunnelSettings(
        ipv4=IPv4Interface("10.8.0.2/24"),
        gateway4=IPv4Address("10.8.0.1"),
        routes=(Route(IPv4Network("172.16.0.0/12"), None, 7), Route(IPv4Network("10.0.0.0/8"), None, 7)),
        redirect=frozenset({"def1", "ipv6"}),
        dns=Dns((IPv4Address("9.9.9.9"),), ("own.example",)),
        mtu=1400,
    )
    assert push("dhcp-option DNS 10.8.0.1", profile).tunnel.dns == Dns((IPv4Address("10.8.0.1"),), ("own.example",))


def test_route_nopull() -> None:
    pulled = push(
        f"{IFCONFIG},route-gateway 10.8.0.1,route 10.0.0.0 255.0.0.0,redirect-gateway def1,dhcp-option DNS 10.8.0.1,"
        "dns search-domains a,block-ipv6,route-metric 3",
        "route-nopull\nroute 172.16.0.0 255.240.0.0\n",
    )
    assert pulled.tunnel == TunnelSettings(
        ipv4=IPv4Interface("10.8.0.2/24"),
        gateway4=IPv4Address("10.8.0.1"),
        routes=(Route(IPv4Network("172.16.0.0/12")),),
    )
    assert len(pulled.dropped) == 6


def test_pull_filter() -> None:
    profile = 'pull-filter accept "route 10."\npull-filter ignore route\npull-filter reject "redirect-gateway"\n'
    pulled = push(f"{IFCONFIG},route 10.0.0.0 255.0.0.0,route 11.0.0.0 255.0.0.0", profile)
    assert pulled.tunnel.routes == (Route(IPv4Network("10.0.0.0/8")),)
    assert pulled.dropped == ("route: ignored by pull-filter",)
    with pytest.raises(PeerError, match="pull-filter rejects"):
        push("redirect-gateway def1", profile)


def test_ipv6_needs_its_mtu() -> None:
    pulled = push(f"{IFCONFIG},{IFCONFIG6},tun-mtu 1200,route-ipv6 2000::/3")
    assert pulled.tunnel.ipv6 is None and pulled.tunnel.routes == ()
    assert pulled.dropped == (
        "ifconfig-ipv6: IPv6 needs a tun-mtu of 1280",
        "route 2000::/3: the tunnel has no IPv6 address",
    )


def test_a_larger_mtu_is_the_profile_s_to_allow() -> None:
    assert push("tun-mtu 1600", "tun-mtu 1600\n").tunnel.mtu == 1600


def test_the_server_s_own_address_is_not_routed_into_the_tunnel() -> None:
    pulled = push(f"{IFCONFIG},route 192.0.2.1,route 192.0.2.0 255.255.255.0", remote="192.0.2.1")
    assert [str(route.network) for route in pulled.tunnel.routes] == ["192.0.2.0/24"]


def test_routes_are_unique_and_bounded() -> None:
    many = [f"route 10.{n >> 8}.{n & 255}.0 255.255.255.0" for n in range(2002)]
    pulled = parse_push((*IFCONFIG.split(","), *many[:500], *many[:500]), client().config, None)
    assert len(pulled.tunnel.routes) == 500
    config = client().config
    short = tuple(f"route 9.{n >> 8}.{n & 255}.1" for n in range(2010))
    pulled = parse_push((*IFCONFIG.split(","), *short), config, None)
    assert len(pulled.tunnel.routes) == 2000
    assert pulled.dropped[0].endswith("more than 2000 routes") and len(pulled.dropped) == 10


def test_dns_is_bounded() -> None:
    servers = tuple(f"dhcp-option DNS 10.0.0.{n}" for n in range(1, 40))
    domains = tuple(f"dhcp-option DOMAIN d{n}.example" for n in range(40))
    numbers = tuple(f"dns server {n} address 10.0.1.{n}" for n in range(1, 40))
    pulled = parse_push((*servers, *domains, *numbers), client().config, None)
    assert pulled.tunnel.dns.servers == (IPv4Address("10.0.1.1"),)
    assert len(pulled.tunnel.dns.search) == 32
    assert len(pulled.dropped) == (39 - 16) + (40 - 32) + (39 - 16)
    assert len(parse_push(servers, client().config, None).tunnel.dns.servers) == 16


def test_what_is_recorded_is_bounded() -> None:
    pulled = parse_push(tuple(f"nonsense{n} {'x' * 20}" for n in range(1000)), client().config, None)
    assert len(pulled.dropped) == MAX_DROPPED + 1 and pulled.dropped[-1] == f"and {1000 - MAX_DROPPED} more"
    assert all(len(line) < 300 for line in pulled.dropped)


def test_bytes_are_bounded() -> None:
    with pytest.raises(PeerError, match="more than 65536 bytes"):
        parse_push(("x" * MAX_BYTES,), client().config, None)
    begun = time.monotonic()
    parse_push(("a",) * (MAX_BYTES // 2), client().config, None)
    parse_push((" ".join(["route"] * 10000),), client().config, None)
    assert time.monotonic() - begun < 5


def test_two_replies_do_not_mix() -> None:
    config = client().config
    parse_push(("dhcp-option DNS 10.0.0.1", "ping 5"), config, None)
    assert parse_push((), config, None) == PulledOptions(TunnelSettings())
