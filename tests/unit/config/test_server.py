# SPDX-License-Identifier: BSD-2-Clause
"""What each directive of a server's file does to its `ServerConfig`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.loader import looks_like_server
from qubes_miragevpn.config.model import ClientDir, Family, Frequency, Identity, Listen, OutputFile, Proto, Route
from tests.unit.config.texts import CLIENT, SERVER, server, without


def dig(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_defaults() -> None:
    config = server().config
    assert config.listen == Listen("", 1194, Proto.UDP, Family.ANY)
    assert config.network == IPv4Network("10.8.0.0/24")
    assert isinstance(config.common.identity, Identity)
    assert (config.max_clients, config.duplicate_cn, config.client_to_client) == (1024, False, False)


def test_keepalive_waits_twice_as_long_and_is_pushed() -> None:
    config = server('push "route 10.1.0.0 255.255.0.0"\n').config
    assert (config.common.timers.ping, config.common.timers.ping_restart) == (10, 120)
    assert config.push == ("ping 10", "ping-restart 60", "route 10.1.0.0 255.255.0.0")


def test_without_keepalive_nobody_is_dropped_for_silence() -> None:
    config = server(base=without("keepalive", SERVER)).config
    assert (config.common.timers.ping, config.common.timers.ping_restart, config.push) == (0, 0, ())


@pytest.mark.parametrize(
    ("lines", "path", "value"),
    [
        ("mode server\ntls-server", "listen.proto", Proto.UDP),
        ("port 443\nproto tcp-server", "listen", Listen("", 443, Proto.TCP, Family.ANY)),
        ("proto tcp4", "listen", Listen("", 1194, Proto.TCP, Family.IPV4)),
        ("proto udp6", "listen", Listen("", 1194, Proto.UDP, Family.IPV6)),
        ("local 192.0.2.1\nlport 7\nport 8", "listen", Listen("192.0.2.1", 7, Proto.UDP, Family.IPV4)),
        ("local 192.0.2.1", "places", (Listen("192.0.2.1", 1194, Proto.UDP, Family.IPV4),)),
        (
            "local * 443 tcp\nlocal 2001:db8::1\nlocal *\nport 7",
            "places",
            (Listen("", 443, Proto.TCP), Listen("2001:db8::1", 7, Proto.UDP, Family.IPV6), Listen("", 7, Proto.UDP)),
        ),
        (
            "proto tcp6\nlocal *\nlocal 192.0.2.1 8 udp",
            "places",
            (Listen("", 1194, Proto.TCP, Family.IPV6), Listen("192.0.2.1", 8, Proto.UDP, Family.IPV4)),
        ),
        (
            "bind ipv6only\nlocal *\nlocal * 7 tcp",
            "places",
            (Listen("", 1194, Proto.UDP, Family.IPV6), Listen("", 7, Proto.TCP, Family.IPV6)),
        ),
        ("connect-freq 3 60\nconnect-freq-initial 20 5", "new_clients", Frequency(3, 60.0)),
        ("connect-freq 3 60\nconnect-freq-initial 20 5", "first_packets", Frequency(20, 5.0)),
        ("reneg-sec 9", "first_packets", Frequency(100, 10.0)),
        ("max-clients 5", "max_clients", 5),
        ("duplicate-cn", "duplicate_cn", True),
        ("client-to-client", "client_to_client", True),
        ("verify-client-cert require", "common.peer.remote_cert_tls", None),
        ("verify-client-cert", "common.peer.remote_cert_tls", None),
        ("remote-cert-tls client", "common.peer.remote_cert_tls", "client"),
        ("push 'dhcp-option DNS 10.8.0.1'", "push", ("ping 10", "ping-restart 60", "dhcp-option DNS 10.8.0.1")),
        ("tls-auth ta.key 0\nauth SHA256", "common.wrap.direction", 0),
        ("data-ciphers CHACHA20-POLY1305", "common.data_ciphers", ("CHACHA20-POLY1305",)),
        ("explicit-exit-notify", "common.explicit_exit_notify", 1),
        ("reneg-sec 30", "common.timers.reneg_sec", 30),
        ("dev tun5\nuser nobody", "common.dev", "tun5"),
        ("server 10.8.0.0 255.255.255.0 nopool", "pool", ()),
        (
            "server 10.8.0.0 255.255.255.0 nopool\nifconfig-pool 10.8.0.9 10.8.0.90 255.255.255.0",
            "pool",
            (IPv4Address("10.8.0.9"), IPv4Address("10.8.0.90")),
        ),
        ("nat", "nat", ""),
        ("nat eth1", "nat", "eth1"),
        ("ifconfig-pool-persist a", "persist", OutputFile("a", 600)),
        ("ifconfig-pool-persist a 0", "persist", OutputFile("a", 0)),
        ("client-config-dir ccd", "client_dir", ClientDir("ccd")),
        ("client-config-dir ccd\nccd-exclusive", "client_dir", ClientDir("ccd", exclusive=True)),
        ("max-routes-per-client 3", "max_routes_per_client", 3),
        ("route 10.5.0.0 255.255.0.0 10.8.0.2", "routes", (Route(IPv4Network("10.5.0.0/16")),)),
        ("route-ipv6 fd05::/32", "routes", (Route(IPv6Network("fd05::/32")),)),
        ("server-ipv6 fd42:8::/64", "network6", IPv6Network("fd42:8::/64")),
    ],
)
def test_applied(lines: str, path: str, value: Any) -> None:
    assert dig(server(lines + "\n").config, path) == value


@pytest.mark.parametrize(
    ("line", "error"),
    [
        # the first four as openvpn 2.6.14 refuses them
        ("server 10.8.0.1 255.255.255.0", "10.8.0.1 is not the first address of its network (write 'server 10.8.0.0"),
        ("server 10.8.0.0 255.255.255.252", "must be from /16 to /29"),
        ("server 10.0.0.0 255.0.0.0", "must be from /16 to /29"),
        ("server 10.8.0.0 255.0.255.0", "must be a netmask with contiguous ones"),
        ("server 224.0.0.0 255.255.255.0", "these addresses cannot be given to clients"),
        ("server 127.0.0.0 255.255.255.0", "these addresses cannot be given to clients"),
        ("server-ipv6 fd42:8::/48", "must be from /64 to /124"),  # these three as openvpn as well
        ("server-ipv6 fd42:8::/125", "must be from /64 to /124"),
        ("server-ipv6 10.8.0.0/24", "must be an IPv6 address with a prefix length"),
        ("server-ipv6 fd42:8::1/64", "fd42:8::1 is not the first address of its network (write 'server-ipv6 fd42:8"),
        ("server-ipv6 ff02::/64", "cannot be given to clients: ff02::1 is a multicast address"),
        ("server-ipv6 fd42:8::/64\ntun-mtu 1200", "'tun-mtu 1200' is too small for IPv6"),
        ("nat 'a b'", "must be an interface name"),
        ("ifconfig-pool 10.8.0.9 10.8.0.90", "'server' has a pool already"),
        ("server 10.8.0.0 255.255.255.0 nopool\nifconfig-pool 10.8.0.90 10.8.0.9", "ends before it begins"),
        ("server 10.8.0.0 255.255.255.0 nopool\nifconfig-pool 10.8.0.1 10.8.0.9", "which is no client's"),
        ("mode p2p", "'mode' is not supported with 'p2p'"),
        ("topology net30\nserver 10.8.0.0 255.255.255.248", "must be from /16 to /28"),
        ("verify-client-cert none", "anybody could connect"),
        ("push 'a,b'", "must be one option in quotes"),
        ("push '\x7f'", "control character"),
        ("push ''", "must be one option in quotes"),
        ("local vpn.example.org", "'local' must be an address"),
        ("local 192.0.2.1\nproto udp6", "is no ipv6 address"),
        ("local 192.0.2.1\nlocal 192.0.2.1 1194 udp4", "the server listens there already"),
        ("local * 443 tcp-client", "'tcp-client' is the other end's protocol"),
        ("local * 443 tcp4\nlocal 2001:db8::1 443 tcp4", "is no ipv4 address"),
        ("local * 70000", "the port of 'local' must be a number from 1 to 65535"),
        ("".join(f"local * {port} udp\n" for port in range(1, 18)), "'local'"),
        ("local * 443 tcp4\nbind ipv6only", "'bind ipv6only' contradicts"),
        ("connect-freq 0 1", "the number of 'connect-freq' must be a number from 1 to 1000000"),
        ("connect-freq-initial 5", "'connect-freq-initial' needs seconds"),
        ("max-clients 0", "must be a number from 1 to 65535"),
        ("tls-server x", "'tls-server' has too many words"),
        ("ccd-exclusive", "'ccd-exclusive' needs 'client-config-dir'"),
        ("iroute 10.1.0.0 255.255.0.0", "'iroute' is for one client (write it into his file in 'client-config-dir')"),
        ("crl-verify crl.pem", "cannot read 'crl.pem' of 'crl-verify'"),
    ],
)
def test_errors(line: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server(line + "\n")
    assert error in str(caught.value)


def test_the_role_of_a_file_is_seen() -> None:
    assert looks_like_server(SERVER.encode()) and not looks_like_server(CLIENT.encode())
    assert looks_like_server(b"mode server\n") and looks_like_server(b"tls-server\n")
    assert not looks_like_server(b"remote server\n# server\n") and not looks_like_server(b'server "\n')
