# SPDX-License-Identifier: BSD-2-Clause
"""What each directive of a client's profile does to its `ClientConfig`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    DEFAULT_DATA_CIPHERS,
    Credentials,
    Dns,
    Family,
    Identity,
    Local,
    NameCheck,
    NameType,
    NoWrap,
    Proto,
    PullFilter,
    Remote,
    Route,
    SizeOf,
    Timers,
    TlsAuth,
    TlsCrypt,
    TlsVersions,
)
from tests.unit.config.texts import CERTIFICATE, KEY, STATIC_KEY, STATIC_KEY_FILE, client, without

SHARED = Secret(STATIC_KEY)


def dig(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_defaults_are_openvpn_s() -> None:
    config = client().config
    assert config.remotes == (Remote("vpn.example.org", 1194, Proto.UDP, Family.ANY),)
    assert config.common.wrap == NoWrap() and config.common.identity is None
    assert config.common.timers == Timers() and config.common.tls == TlsVersions()
    assert (config.common.mssfix, config.common.tun_mtu, config.common.dev) == (1492, 1500, "tun")
    assert config.common.data_ciphers == DEFAULT_DATA_CIPHERS and config.common.data_ciphers_fallback is None
    assert config.redirect is None and config.routes == ()
    assert config.remotes[0].local == Local() and config.remotes[0].proxy is None


@pytest.mark.parametrize(
    ("lines", "path", "value"),
    [
        ("remote-random", "remote_random", True),
        ("dev tun7", "common.dev", "tun7"),
        ("connect-retry 5", "common.timers.connect_retry", 5),
        ("connect-retry 5", "common.timers.connect_retry_max_pause", 300),
        ("connect-retry 5 9", "common.timers.connect_retry_max_pause", 9),
        ("connect-retry 400 9", "common.timers.connect_retry_max_pause", 400),
        ("connect-retry-max 3", "common.timers.connect_retry_max", 3),
        ("connect-retry-max infinite", "common.timers.connect_retry_max", 0),
        ("connect-timeout 9", "common.timers.connect_timeout", 9),
        ("server-poll-timeout 9", "common.timers.connect_timeout", 9),
        ("sndbuf 5000", "common.sndbuf", 5000),
        ("rcvbuf 5000", "common.rcvbuf", 5000),
        ("verb 4", "common.verb", 4),
        ("explicit-exit-notify", "common.explicit_exit_notify", 1),
        ("explicit-exit-notify 3", "common.explicit_exit_notify", 3),
        ("tun-mtu 1400", "common.tun_mtu", 1400),
        ("tun-mtu 1400", "common.mssfix", 1400),
        ("tun-mtu 1400", "common.mssfix_of", SizeOf.INNER),
        ("mssfix", "common.mssfix", 1492),
        ("mssfix", "common.mssfix_of", SizeOf.OUTER),
        ("mssfix 0", "common.mssfix", 0),
        ("mssfix 1450", "common.mssfix_of", SizeOf.LINK),
        ("mssfix 1450 mtu", "common.mssfix_of", SizeOf.OUTER),
        ("mssfix 1300 fixed", "common.mssfix", 1300),
        ("mssfix 1300 fixed", "common.mssfix_of", SizeOf.INNER),
        ("fragment 1300", "common.fragment", 1300),
        ("fragment 1300", "common.mssfix", 1300),
        ("fragment 1300", "common.mssfix_of", SizeOf.OUTER),
        ("fragment 1300", "common.fragment_of", SizeOf.LINK),
        ("fragment 1300 mtu\nmssfix", "common.mssfix_of", SizeOf.OUTER),
        ("fragment 1300 mtu\nmssfix 1200", "common.mssfix", 1200),
        ("fragment 1300 mtu\nmssfix 0", "common.mssfix", 0),
        ("tun-mtu-max 1550", "common.tun_mtu_max", 1550),
        ("replay-window 128 10", "common.replay_window", 128),
        ("hand-window 20", "common.timers.hand_window", 20),
        ("tls-timeout 3", "common.timers.tls_timeout", 3),
        ("tran-window 30", "common.timers.tran_window", 30),
        ("reneg-sec 0", "common.timers.reneg_sec", 0),
        ("reneg-sec 600 300", "common.timers.reneg_sec", 600),
        ("reneg-bytes 67108864", "common.timers.reneg_bytes", 67108864),
        ("reneg-pkts 9", "common.timers.reneg_pkts", 9),
        ("ping 15", "common.timers.ping", 15),
        ("ping-restart 0", "common.timers.ping_restart", 0),
        ("ping-exit 60", "common.timers.ping_exit", 60),
        ("ping-exit 60", "common.timers.ping_restart", 0),
        ("ping-exit 60\nping-restart 30", "common.timers.ping_restart", 30),
        ("ping-exit 60\nping-restart 30", "common.timers.ping_exit", 0),
        ("ping-restart 30\nping-exit 60", "common.timers.ping_exit", 60),
        ("keepalive 10 60", "common.timers.ping", 10),
        ("keepalive 10 60", "common.timers.ping_restart", 60),
        ("cert own.crt\nkey own.key", "common.identity", Identity(CERTIFICATE.encode(), Secret(KEY.encode()))),
        ("tls-auth ta.key", "common.wrap", TlsAuth(SHARED, None, "SHA1")),
        ("tls-auth ta.key 1\nauth SHA512", "common.wrap", TlsAuth(SHARED, 1, "SHA512")),
        ("tls-auth ta.key\nkey-direction 0\nauth RSA-SHA256", "common.wrap", TlsAuth(SHARED, 0, "SHA256")),
        (f"key-direction 1\n<tls-auth>\n{STATIC_KEY_FILE}</tls-auth>", "common.wrap", TlsAuth(SHARED, 1, "SHA1")),
        (f"tls-auth [inline] 1\n<tls-auth>\n{STATIC_KEY_FILE}</tls-auth>", "common.wrap", TlsAuth(SHARED, 1, "SHA1")),
        ("tls-crypt ta.key", "common.wrap", TlsCrypt(SHARED)),
        (f"<tls-crypt>\n{STATIC_KEY_FILE}</tls-crypt>", "common.wrap", TlsCrypt(SHARED)),
        ("", "common.peer.remote_cert_tls", "server"),
        ("verify-x509-name 'C=DE, CN=a b'", "common.peer.name", NameCheck("C=DE, CN=a b", NameType.SUBJECT)),
        ("verify-x509-name a subject", "common.peer.name", NameCheck("a", NameType.SUBJECT)),
        ("verify-x509-name a name", "common.peer.name", NameCheck("a", NameType.NAME)),
        ("verify-x509-name a name-prefix", "common.peer.name", NameCheck("a", NameType.NAME_PREFIX)),
        ("tls-version-min 1.3", "common.tls", TlsVersions((1, 3), None)),
        ("tls-version-min 1.9 or-highest", "common.tls", TlsVersions((1, 3), None)),
        ("tls-version-max 1.2", "common.tls", TlsVersions((1, 2), (1, 2))),
        ("tls-version-max 1.3", "common.tls", TlsVersions((1, 2), None)),
        ("data-ciphers AES-128-GCM:AES-256-GCM", "common.data_ciphers", ("AES-128-GCM", "AES-256-GCM")),
        ("data-ciphers ?FOO:chacha20-poly1305", "common.data_ciphers", ("CHACHA20-POLY1305",)),
        (
            "data-ciphers AES-128-GCM:DEFAULT",
            "common.data_ciphers",
            ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"),
        ),
        ("ncp-ciphers AES-128-GCM", "common.data_ciphers", ("AES-128-GCM",)),
        ("data-ciphers-fallback aes-128-gcm", "common.data_ciphers_fallback", "AES-128-GCM"),
        ("cipher AES-256-GCM", "common.data_ciphers", DEFAULT_DATA_CIPHERS),
        ("", "auth_user_pass", True),
        ("", "credentials", None),
        ("auth-nocache", "auth_nocache", True),
        ("auth-retry interact", "auth_retry", "interact"),
        ("route 10.0.0.0 255.0.0.0", "routes", (Route(IPv4Network("10.0.0.0/8")),)),
        ("route 10.9.8.7", "routes", (Route(IPv4Network("10.9.8.7/32")),)),
        ("route 10.9.8.7 255.255.0.0", "routes", (Route(IPv4Network("10.9.0.0/16")),)),
        ("route 0.0.0.0 0.0.0.0 vpn_gateway", "routes", (Route(IPv4Network("0.0.0.0/0")),)),
        (
            "route 10.0.0.0 255.0.0.0 10.8.0.1 7",
            "routes",
            (Route(IPv4Network("10.0.0.0/8"), IPv4Address("10.8.0.1"), 7),),
        ),
        ("route 10.0.0.0 default default 7", "routes", (Route(IPv4Network("10.0.0.0/32"), None, 7),)),
        ("route-ipv6 2000::/3", "routes", (Route(IPv6Network("2000::/3")),)),
        ("route-gateway 10.8.0.1", "route_gateway", IPv4Address("10.8.0.1")),
        ("route-gateway dhcp", "route_gateway", None),
        ("route-metric 50", "route_metric", 50),
        ("route-nopull", "route_nopull", True),
        ("redirect-gateway", "redirect", frozenset()),
        ("redirect-gateway def1\nredirect-gateway ipv6", "redirect", frozenset({"def1", "ipv6"})),
        (
            'pull-filter ignore "dhcp-option DNS"\npull-filter accept route',
            "pull_filters",
            (PullFilter("ignore", "dhcp-option DNS"), PullFilter("accept", "route")),
        ),
        (
            "dhcp-option DNS 9.9.9.9\ndhcp-option DOMAIN example.org",
            "dns",
            Dns((IPv4Address("9.9.9.9"),), ("example.org",)),
        ),
        ("dns server 1 address 9.9.9.9:53", "dns", Dns((IPv4Address("9.9.9.9"),))),
        ("block-ipv6\nmode p2p\nkey-method 2\ntopology subnet", "redirect", None),
    ],
)
def test_applied(lines: str, path: str, value: Any) -> None:
    loaded = client(lines + "\n")
    assert dig(loaded.config, path) == value
    assert loaded.warnings == ()


def test_fingerprints_instead_of_a_ca() -> None:
    one, two, three = (":".join([f"{n:02x}"] * 32) for n in (1, 2, 3))
    extra = f"peer-fingerprint {one}\n<peer-fingerprint>\n# two\n{two}\n\n  {three}\n</peer-fingerprint>\n"
    peer = client(extra, without("ca")).config.common.peer
    assert peer.ca_pem == b"" and peer.fingerprints == {b"\1" * 32, b"\2" * 32, b"\3" * 32}


@pytest.mark.parametrize(
    ("lines", "remote"),
    [
        ("remote a", Remote("a", 1194, Proto.UDP)),
        ("remote a 5", Remote("a", 5, Proto.UDP)),
        ("remote a 5 tcp", Remote("a", 5, Proto.TCP)),
        ("remote a 5 tcp6-client\nproto udp\nport 7", Remote("a", 5, Proto.TCP, Family.IPV6)),
        ("remote a\nport 7\nproto tcp4", Remote("a", 7, Proto.TCP, Family.IPV4)),
        ("remote a\nport 7\nrport 8", Remote("a", 8, Proto.UDP)),
        ("remote 192.0.2.1", Remote("192.0.2.1", 1194, Proto.UDP, Family.IPV4)),
        ("remote 2001:db8::1", Remote("2001:db8::1", 1194, Proto.UDP, Family.IPV6)),
        ("<connection>\nremote b\n</connection>", Remote("b", 1194, Proto.UDP)),
        ("proto tcp\nport 7\n<connection>\nremote b\nproto udp\n</connection>", Remote("b", 7, Proto.UDP)),
        ("proto tcp\n<connection>\nremote b 9 udp4\nnobind\n</connection>", Remote("b", 9, Proto.UDP, Family.IPV4)),
        ("<connection>\nrport 9\nremote b\nmultihome\n</connection>", Remote("b", 9, Proto.UDP)),
    ],
)
def test_remote(lines: str, remote: Remote) -> None:
    assert client(lines + "\n", without("remote")).config.remotes == (remote,)


def test_remotes_keep_their_order() -> None:
    blocks = "".join(f"<connection>\nremote {name}\n</connection>\n" for name in "xyz")
    assert [remote.host for remote in client(blocks, without("remote")).config.remotes] == ["x", "y", "z"]
    assert [remote.host for remote in client("remote a\nremote b\n").config.remotes] == ["vpn.example.org", "a", "b"]


LOGIN = Credentials("alice", Secret(b"secret-password"))


@pytest.mark.parametrize(
    ("lines", "credentials", "warning"),
    [
        ("auth-user-pass login", LOGIN, ""),
        ("<auth-user-pass>\nalice\nsecret-password\n</auth-user-pass>", LOGIN, ""),
        ("<auth-user-pass>\nalice\r\nsecret-password\r\n\r\n</auth-user-pass>", LOGIN, ""),
        ("auth-user-pass [inline]\n<auth-user-pass>\nalice\nsecret-password\n</auth-user-pass>", LOGIN, ""),
        ("auth-user-pass stdin", None, ""),
        ("<auth-user-pass>\nalice\n</auth-user-pass>", None, ""),
    ],
)
def test_credentials(lines: str, credentials: Credentials | None, warning: str) -> None:
    loaded = client(lines + "\n", without("auth-user-pass"))
    assert loaded.config.auth_user_pass and loaded.config.credentials == credentials
    assert loaded.config.username == (None if "alice" not in lines and credentials is None else "alice")
    assert any(warning in line for line in loaded.warnings) if warning else loaded.warnings == ()
    assert "secret-password" not in repr(loaded)


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        ("cipher none", "'cipher none' is ignored; AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305 are negotiated"),
        ("cipher AES-256-GCM\ndata-ciphers AES-128-GCM", "'cipher AES-256-GCM' is ignored; AES-128-GCM are negotiated"),
        ("data-ciphers AES-128-CFB:AES-128-GCM", "the data cipher 'AES-128-CFB' is not supported and left out"),
        ("data-ciphers-fallback BF-CBC", "the data cipher 'BF-CBC' is insecure (its blocks of 64 bits"),
        ("tls-version-min 1.0", "TLS versions before 1.2 are not used"),
        ("route 10.0.0.0 255.0.0.0 net_gateway", "'route' has no effect: nothing is routed around the tunnel"),
        ("route remote_host 255.255.255.255 net_gateway", "nothing is routed around the tunnel"),
        ("route 224.0.0.0 240.0.0.0", "this network cannot be routed"),
        ("route-ipv6 fe80::/64", "this network cannot be routed"),
        ("dhcp-option WINS 10.0.0.1", "'dhcp-option WINS' has no effect"),
        ("dhcp-option DNS dns.example", "a resolver must be an IP address"),
        ("dns server 0 transport DoT", "encrypted DNS is not supported"),
        ("comp-lzo", "what the other end compresses is dropped"),
        ("compress lz4-v2", "what the other end compresses is dropped"),
        ("allow-compression yes", "'allow-compression yes' is taken as 'asym'"),
        ('tls-cipher "DEFAULT:@SECLEVEL=0"', "'tls-cipher' allows weak keys and signatures (security level 0)"),
        ("compress migrate", "'compress' has no effect"),
        ("ifconfig 10.0.0.1 10.0.0.2", "'ifconfig' has no effect: the server's word counts"),
        ('push "route 10.0.0.0"', "'push' has no effect: a client pushes nothing"),
        ("up /etc/openvpn/update-resolv-conf", "'up' has no effect: scripts are never run"),
    ],
)
def test_accepted_with_a_warning(lines: str, warning: str) -> None:
    assert any(warning in line for line in client(lines + "\n").warnings)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("remote 192.0.2.1 1194 udp6", "c.ovpn:6: 192.0.2.1 is no ipv6 address, which the protocol demands"),
        ("remote a 1194 tcp-server", "c.ovpn:6: 'tcp-server' is the other end's protocol"),
        ("tls-version-min 1.9", "c.ovpn:6: there is no such TLS version"),
        ("tls-version-min 1.3\ntls-version-max 1.2", "c.ovpn:7: 'tls-version-max' is below the oldest TLS version"),
        ("tls-version-max 1.1", "c.ovpn:6: 'tls-version-max' is below the oldest TLS version"),
        ("data-ciphers AES-256-CFB:BF-CBC", "c.ovpn:6: none of these data ciphers can be used"),
        ("tls-auth ta.key\nauth MD4", "c.ovpn:7: the digest 'MD4' is not supported"),
        ("<connection>\nproto udp\n</connection>", "c.ovpn:6: the <connection> block names no server"),
        ("<connection>\nremote a\nverb 3\n</connection>", "c.ovpn:8: 'verb' is not supported in a <connection> block"),
        ("<connection>\nremote a\nremote\n</connection>", "c.ovpn:8: 'remote' needs host"),
        ("<connection>\n<connection>\n</connection>", "c.ovpn:7: the block <connection> is not closed"),
        ("peer-fingerprint 00:11", "the fingerprint of 'peer-fingerprint' must be a SHA-256 fingerprint"),
        ("<peer-fingerprint>\n\n00:11\n</peer-fingerprint>", "c.ovpn:8: this must be a SHA-256 fingerprint"),
        ("tls-cipher TLS-NOT-A-CIPHER:!aNULL", "'tls-cipher': it names no TLS cipher that is known"),
        ("tls-ciphersuites AES", "'tls-ciphersuites': it names no TLS 1.3 suite"),
        ("tls-groups 'a b'", "'tls-groups': it is no list of groups"),
        ("tun-mtu 100", "the bytes of 'tun-mtu' must be a number from 576 to 9000, not '100'"),
        ("mssfix 100", "the size of 'mssfix' must be 0, or a number from 154 to 65535, not '100'"),
    ],
)
def test_errors(lines: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client(lines + "\n")
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "told", "warnings"),
    [
        ("setenv UV_IPV6 no\npush-peer-info\n", (("UV_IPV6", "no"),), 0),
        ("setenv UV_IPV6 no\n", (), 0),
        ("push-peer-info\nsetenv CLIENT_CERT 0\nsetenv PATH\n", (), 0),
        ("push-peer-info\nsetenv UV_A b\nsetenv UV_A 'c d'\nsetenv UV_E\n", (("UV_A", "c d"), ("UV_E", "")), 0),
        ("push-peer-info\nsetenv UV_A=b c\nsetenv UV_ x\nsetenv UV_É x\nsetenv UV_A é\n", (), 4),
    ],
)
def test_what_the_server_is_told_about_the_client(lines: str, told: tuple[tuple[str, str], ...], warnings: int) -> None:
    loaded = client(lines)
    assert loaded.config.peer_info == told and len(loaded.warnings) == warnings


def test_redirection_with_and_without_the_default_route() -> None:
    both = client("redirect-gateway def1\nredirect-private block-local\n").config
    assert (both.redirect, both.redirect_private) == ({"def1"}, {"block-local"})
    alone = client("redirect-private\n").config
    assert (alone.redirect, alone.redirect_private) == (None, frozenset())
    asked = client("redirect-gateway bypass-dhcp bypass-dns\n")
    assert sum("no effect, as with openvpn on Linux" in line for line in asked.warnings) == 2
