# SPDX-License-Identifier: BSD-2-Clause
"""Proxies and the own end of the socket: lines to models, and what is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Family, HttpProxy, Local, Proto, Proxy, SocksProxy
from tests.unit.config.texts import CLIENT, client, client_errors, server, without

LOGIN = Credentials("alice", Secret(b"secret-password"))
BASIC, DIGEST = frozenset({"basic"}), frozenset({"digest"})
INLINE = "<http-proxy-user-pass>\nalice\nsecret-password\n</http-proxy-user-pass>\n"


@pytest.mark.parametrize(
    ("lines", "proxy"),
    [
        ("http-proxy 192.0.2.8 3128", HttpProxy("192.0.2.8", 3128)),
        ("http-proxy 192.0.2.8 3128 auto", HttpProxy("192.0.2.8", 3128, methods=BASIC | DIGEST, asks=True)),
        ("http-proxy 192.0.2.8 3128 auto-nct", HttpProxy("192.0.2.8", 3128, methods=DIGEST, asks=True)),
        ("http-proxy 192.0.2.8 3128 stdin", HttpProxy("192.0.2.8", 3128, methods=BASIC, eager=True, asks=True)),
        ("http-proxy stdin 3128 stdin digest", HttpProxy("stdin", 3128, methods=DIGEST, asks=True)),
        ("http-proxy 192.0.2.8 3128 stdin none", HttpProxy("192.0.2.8", 3128)),
        (
            "http-proxy 192.0.2.8 3128\nhttp-proxy-user-pass stdin",
            HttpProxy("192.0.2.8", 3128, methods=BASIC | DIGEST, asks=True),
        ),
        (f"http-proxy 192.0.2.8 3128 stdin\n{INLINE}", HttpProxy("192.0.2.8", 3128, LOGIN, BASIC, eager=True)),
        ("socks-proxy 192.0.2.8 1081 stdin", SocksProxy("192.0.2.8", 1081, asks=True)),
        ("http-proxy 192.0.2.8 3128 login", HttpProxy("192.0.2.8", 3128, LOGIN, BASIC, eager=True)),
        ("http-proxy 192.0.2.8 3128 login basic", HttpProxy("192.0.2.8", 3128, LOGIN, BASIC, eager=True)),
        ("http-proxy 192.0.2.8 3128 login digest", HttpProxy("192.0.2.8", 3128, LOGIN, DIGEST)),
        ("http-proxy 192.0.2.8 3128 login none", HttpProxy("192.0.2.8", 3128)),
        (f"http-proxy 192.0.2.8 3128\n{INLINE}", HttpProxy("192.0.2.8", 3128, LOGIN, BASIC | DIGEST)),
        (f"http-proxy 192.0.2.8 3128 auto\n{INLINE}", HttpProxy("192.0.2.8", 3128, LOGIN, BASIC | DIGEST)),
        (f"http-proxy 192.0.2.8 3128 auto-nct\n{INLINE}", HttpProxy("192.0.2.8", 3128, LOGIN, DIGEST)),
        (
            "http-proxy 192.0.2.8 3128 auto-nct\nhttp-proxy-user-pass login",
            HttpProxy("192.0.2.8", 3128, LOGIN, DIGEST),
        ),
        (
            "http-proxy h 1\nhttp-proxy-option VERSION 1.1\nhttp-proxy-option AGENT a b\n"
            'http-proxy-option CUSTOM-HEADER X-Y "v w"',
            HttpProxy("h", 1, version="1.1", headers=(("User-Agent", "a b"), ("X-Y", "v w"))),
        ),
        ("socks-proxy 192.0.2.8", SocksProxy("192.0.2.8", 1080)),
        ("socks-proxy 2001:db8::8 1081 login", SocksProxy("2001:db8::8", 1081, LOGIN)),
    ],
)
def test_proxies(lines: str, proxy: Proxy) -> None:
    (remote,) = client("proto tcp\n" + lines + "\n").config.remotes
    assert remote.proxy == proxy
    assert remote.hop == (proxy.host, proxy.port, Family.ANY)


def test_socks_carries_udp() -> None:
    (remote,) = client("proto udp\nsocks-proxy 192.0.2.8\n").config.remotes
    assert (remote.proto, remote.proxy) == (Proto.UDP, SocksProxy("192.0.2.8", 1080))


def test_a_block_has_its_own_proxy_or_that_of_the_file() -> None:
    text = (
        "proto tcp\nsocks-proxy 192.0.2.8\n"
        "<connection>\nremote a\nhttp-proxy 192.0.2.9 8080\n</connection>\n"
        "<connection>\nremote b\nproto udp\n</connection>\n"
    )
    first, second = client(text, base=without("remote")).config.remotes
    assert first.proxy == HttpProxy("192.0.2.9", 8080)
    assert second.proxy == SocksProxy("192.0.2.8", 1080)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("proto udp\nhttp-proxy h 1", "an HTTP proxy carries TCP only"),
        ("http-proxy h 1\nsocks-proxy h", "exclude each other"),
        ("http-proxy h", "needs port"),
        ("http-proxy h 1 login ntlm", "the method of 'http-proxy' must be"),
        ("http-proxy h 1 missing", "cannot read 'missing'"),
        ("http-proxy-user-pass login", "'http-proxy-user-pass' needs 'http-proxy'"),
        ("http-proxy-option VERSION 1.1", "'http-proxy-option' needs 'http-proxy'"),
        ("http-proxy h 1\nhttp-proxy-option VERSION 2", "the version of HTTP must be"),
        ("http-proxy h 1\nhttp-proxy-option EXT1 x", "'http-proxy-option' must be"),
        ("http-proxy h 1\nhttp-proxy-option CUSTOM-HEADER 'a b' c", "cannot be a header"),
        ("http-proxy h 1\nhttp-proxy-option AGENT \u00e9", "cannot be a header"),
        ("http-proxy h 1\nhttp-proxy-option CUSTOM-HEADER Host evil", "the program's own"),
        ("http-proxy h 1\n<http-proxy-user-pass>\na:b\nc\n</http-proxy-user-pass>", "cannot hold ':'"),
        ("http-proxy h 1\n<http-proxy-user-pass>\nalice\n</http-proxy-user-pass>", "there is no password"),
        ("http-proxy h 1\n" + "http-proxy-option AGENT x\n" * 11, "more than 10 headers"),
    ],
)
def test_refused(lines: str, problem: str) -> None:
    error, *_ = client_errors(f"{CLIENT}proto tcp\n{lines}\n")
    assert problem in error
    assert "secret-password" not in error


def test_a_server_has_no_proxy() -> None:
    with pytest.raises(ConfigError, match="'socks-proxy' is a client's"):
        server("socks-proxy h\n")


@pytest.mark.parametrize(
    ("lines", "local"),
    [
        ("", Local()),
        ("nobind", Local()),
        ("bind", Local()),
        ("lport 5000", Local(None, 5000)),
        ("lport 0", Local()),
        ("local 192.0.2.9", Local(IPv4Address("192.0.2.9"))),
        ("local 2001:db8::9\nlport 7", Local(IPv6Address("2001:db8::9"), 7)),
    ],
)
def test_the_own_end(lines: str, local: Local) -> None:
    (remote,) = client(lines + "\n").config.remotes
    assert remote.local == local


def test_a_local_address_chooses_the_family() -> None:
    (remote,) = client("local 2001:db8::9\n").config.remotes
    assert remote.hop[2] is Family.IPV6


def test_a_block_s_word_about_binding_outranks_the_file_s() -> None:
    blocks = ("remote a\nnobind", "remote b\nlport 9")
    text = "local 192.0.2.9\n" + "".join(f"<connection>\n{block}\n</connection>\n" for block in blocks)
    first, second = client(text, base=without("remote")).config.remotes
    assert first.local == Local()
    assert second.local == Local(IPv4Address("192.0.2.9"), 9)


@pytest.mark.parametrize("lines", ["local 192.0.2.9\nnobind", "nobind\nlport 9", "local name.example"])
def test_contradictions_about_binding(lines: str) -> None:
    with pytest.raises(ConfigError, match=r"'nobind'|must be an address"):
        client(lines + "\n")


def test_device_and_mark() -> None:
    common = client("bind-dev eth7\nmark 0x51\n").config.common
    assert (common.bind_dev, common.mark) == ("eth7", 0x51)
    assert server("mark 81\n").config.common.mark == 0x51


@pytest.mark.parametrize("word", ["0x1ffffffff", "-1", "1e3", "0x", "4294967296", "010 "])
def test_a_mark_is_a_number_of_32_bits(word: str) -> None:
    with pytest.raises(ConfigError, match="the mark of 'mark' must be"):
        client(f"mark '{word}'\n")


def test_a_server_bound_to_ipv6_alone() -> None:
    assert server("bind ipv6only\n").config.listen.family is Family.IPV6
    assert server("bind\n").config.listen.family is Family.ANY
    with pytest.raises(ConfigError, match="contradicts"):
        server("proto udp4\nbind ipv6only\n")
