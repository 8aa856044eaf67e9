# SPDX-License-Identifier: BSD-2-Clause
"""Pure policies: verification of the peer's certificate, choice of cipher, the walk over the remotes, MSS."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError
from qubes_miragevpn.config.model import (
    Common,
    Family,
    NameCheck,
    NameType,
    NoWrap,
    PeerPolicy,
    Proto,
    Remote,
    Timers,
)
from qubes_miragevpn.crypto.x509 import CertificateFacts, inspect_certificate
from qubes_miragevpn.protocol.control.negotiation import client_cipher, server_cipher
from qubes_miragevpn.protocol.control.verify import verify_leaf
from qubes_miragevpn.protocol.limits import peer_limits
from qubes_miragevpn.protocol.remotes import MAX_ADDRESSES, GiveUp, Lookup, Pause, Remotes, Step, Try
from qubes_miragevpn.protocol.wire import peerinfo
from tests.unit.protocol.certificates import CLIENT_AUTH, CN, SERVER_AUTH, certificate, der

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "control_channel.json").read_text())
CA = b"some CA"


# --- the peer's certificate


def facts(name: str = "vpn.example", **kinds: Iterable[object] | None) -> CertificateFacts:
    subject = ((NameOID.COUNTRY_NAME, "AA"), (CN, name))
    return inspect_certificate(der(certificate(subject, **kinds)))  # type: ignore[arg-type]


def refused(seen: CertificateFacts, policy: PeerPolicy) -> str:
    with pytest.raises(PeerError) as caught:
        verify_leaf(seen, policy)
    assert caught.value.consequence is Consequence.FATAL
    assert caught.value.reason.startswith("certificate refused") and caught.value.reason.isascii()
    return caught.value.reason


def test_a_policy_that_trusts_nothing_is_a_bug_and_never_consent() -> None:
    with pytest.raises(MisuseError):
        verify_leaf(facts(), PeerPolicy())
    with pytest.raises(MisuseError):
        verify_leaf(facts(), PeerPolicy(remote_cert_tls="server", name=NameCheck("vpn.example", NameType.NAME)))


def test_a_ca_alone_demands_nothing_more_of_the_leaf() -> None:
    verify_leaf(facts(usages=None, extended=None), PeerPolicy(ca_pem=CA))


@pytest.mark.parametrize(
    ("type_", "expected", "name", "good"),
    [
        (NameType.NAME, "vpn.example", "vpn.example", True),
        (NameType.NAME, "vpn.example", "vpn.example.evil", False),
        (NameType.NAME, "vpn.example", "evil.vpn.example", False),
        (NameType.NAME, "vpn.example", "VPN.example", False),
        (NameType.NAME, "vpn.example", "*.example", False),
        (NameType.NAME, "*.example", "vpn.example", False),
        (NameType.NAME, "vpn.example", "vpn.example ", False),
        (NameType.NAME_PREFIX, "vpn-", "vpn-7", True),
        (NameType.NAME_PREFIX, "vpn-", "vpn-", True),
        (NameType.NAME_PREFIX, "vpn-", "vpn", False),
        (NameType.NAME_PREFIX, "vpn-", "xvpn-7", False),
        (NameType.SUBJECT, "C=AA, CN=vpn.example", "vpn.example", True),
        (NameType.SUBJECT, "CN=vpn.example", "vpn.example", False),
        (NameType.SUBJECT, "vpn.example", "vpn.example", False),
        (NameType.SUBJECT, "C=AA, CN=a", "a, CN=b", False),
    ],
)
def test_names(type_: NameType, expected: str, name: str, good: bool) -> None:
    policy = PeerPolicy(ca_pem=CA, name=NameCheck(expected, type_))
    if good:
        verify_leaf(facts(name), policy)
    else:
        assert "verify-x509-name" in refused(facts(name), policy)


@pytest.mark.parametrize("type_", [NameType.NAME, NameType.NAME_PREFIX])
def test_no_common_name_is_no_name(type_: NameType) -> None:
    nameless = inspect_certificate(der(certificate(((NameOID.ORGANIZATION_NAME, "vpn.example"),))))
    for expected in ("vpn.example", ""):
        refused(nameless, PeerPolicy(ca_pem=CA, name=NameCheck(expected, type_)))


@pytest.mark.parametrize(
    ("role", "usages", "extended", "good"),
    [
        ("server", ("digital_signature",), (SERVER_AUTH,), True),
        ("server", ("key_encipherment",), (SERVER_AUTH,), True),
        ("server", ("key_agreement",), (SERVER_AUTH, CLIENT_AUTH), True),
        ("server", ("digital_signature",), (CLIENT_AUTH,), False),  # a client that plays the server
        ("server", ("digital_signature",), None, False),
        ("server", None, (SERVER_AUTH,), False),
        ("server", ("key_cert_sign",), (SERVER_AUTH,), False),
        ("server", None, None, False),
        ("client", ("digital_signature",), (CLIENT_AUTH,), True),
        ("client", ("key_agreement",), (CLIENT_AUTH,), True),
        ("client", ("key_encipherment",), (CLIENT_AUTH,), False),
        ("client", ("digital_signature",), (SERVER_AUTH,), False),
    ],
)
def test_remote_cert_tls(
    role: str, usages: tuple[str, ...] | None, extended: tuple[object, ...] | None, good: bool
) -> None:
    seen, policy = facts(usages=usages, extended=extended), PeerPolicy(ca_pem=CA, remote_cert_tls=role)
    if good:
        verify_leaf(seen, policy)
    else:
        assert "remote-cert-tls" in refused(seen, policy)


def test_fingerprints_are_demanded_also_beside_a_ca() -> None:
    one, other = facts(), facts()
    for ca in (b"", CA):
        policy = PeerPolicy(ca_pem=ca, fingerprints=frozenset({other.fingerprint, bytes(32)}))
        verify_leaf(other, policy)
        assert one.fingerprint.hex(":") in refused(one, policy)


def test_a_hostile_name_is_shown_printably() -> None:
    reason = refused(facts("\u202e\x9b31mä"), PeerPolicy(ca_pem=CA, name=NameCheck("x", NameType.NAME)))
    assert reason.isprintable()


# --- the cipher


def common(ciphers: tuple[str, ...] = ("AES-256-GCM", "AES-128-GCM"), fallback: str | None = None) -> Common:
    return Common(NoWrap(), None, PeerPolicy(ca_pem=CA), data_ciphers=ciphers, data_ciphers_fallback=fallback)


@pytest.mark.parametrize(("ours", "info", "occ_cipher", "best"), VECTORS["ncp"]["best"])
def test_published_choices_of_a_server(ours: list[str], info: str, occ_cipher: str | None, best: str | None) -> None:
    options = f"V4,cipher {occ_cipher}" if occ_cipher else "V4"
    if best is not None:
        assert server_cipher(peerinfo.parse(info), options, common(tuple(ours))) == best
        return
    with pytest.raises(PeerError) as caught:
        server_cipher(peerinfo.parse(info), options, common(tuple(ours)))
    assert caught.value.consequence is Consequence.END_SESSION


def test_a_servers_fallback_is_for_clients_that_cannot_negotiate_only() -> None:
    config = common(("CHACHA20-POLY1305",), "AES-128-GCM")
    assert server_cipher(peerinfo.parse(""), "V4", config) == "AES-128-GCM"
    with pytest.raises(PeerError):
        server_cipher(peerinfo.parse("IV_CIPHERS=AES-256-GCM\n"), "V4", config)


@pytest.mark.parametrize(
    ("pushed", "options", "fallback", "chosen"),
    [
        ("AES-128-GCM", "V4,cipher AES-256-GCM", None, "AES-128-GCM"),
        ("aes-128-gcm", "", None, "AES-128-GCM"),
        ("id-aes256-GCM", "", None, "AES-256-GCM"),
        (None, "V4,cipher AES-128-GCM", None, "AES-128-GCM"),
        (None, "V4,cipher BF-CBC", "AES-256-GCM", "AES-256-GCM"),
        (None, "", "AES-256-GCM", "AES-256-GCM"),
        ("CHACHA20-POLY1305", "", "CHACHA20-POLY1305", "CHACHA20-POLY1305"),
        ("CHACHA20-POLY1305", "", None, None),  # not in our list
        ("none", "", None, None),
        ("BF-CBC", "", "AES-256-GCM", None),  # pushed: the fallback does not rescue it
        ("x" * 300, "", None, None),
        ("\x1b\u202e", "", None, None),
        (None, "", None, None),
        (None, "V4,cipher none", None, None),
    ],
)
def test_choices_of_a_client(pushed: str | None, options: str, fallback: str | None, chosen: str | None) -> None:
    if chosen is not None:
        assert client_cipher(pushed, options, common(fallback=fallback)) == chosen
        return
    with pytest.raises(PeerError) as caught:
        client_cipher(pushed, options, common(fallback=fallback))
    assert caught.value.consequence is Consequence.FATAL
    assert caught.value.reason.isprintable() and caught.value.reason.isascii() and len(caught.value.reason) < 200


# --- the walk over the remotes

ADDRESS = {name: ip_address(text) for name, text in {"a": "192.0.2.1", "b": "192.0.2.2", "6": "2001:db8::1"}.items()}
NAMED = Remote("vpn.example", 1194, Proto.UDP)
LITERALS = tuple(Remote(str(ADDRESS[name]), 1194, Proto.UDP) for name in "ab")


def walk(remotes: Iterable[Remote], *, shuffle: bool = False, **timers: float) -> Remotes:
    dice = iter(range(1000))
    return Remotes(
        tuple(remotes),
        Timers(**timers),
        shuffle=shuffle,
        entropy=lambda n: (997 - next(dice) * 7 % 5).to_bytes(n, "big"),  # type: ignore[arg-type]
    )


def shown(step: Step) -> str:
    match step:
        case Try(_, address):
            return f"try {address}"
        case Lookup(remote):
            return f"look {remote.host}"
        case Pause(seconds):
            return f"wait {seconds:g}"
        case GiveUp():
            return "give up"


def steps(remotes: Remotes, count: int) -> list[str]:
    return [shown(remotes.next()) for _ in range(count)]


def test_every_remote_in_turn_and_a_growing_pause_after_each_pass() -> None:
    one_pass = ["try 192.0.2.1", "try 192.0.2.2"]
    expected = [*one_pass, "wait 1", *one_pass, "wait 2", *one_pass, "wait 4", *one_pass, "wait 5", *one_pass, "wait 5"]
    assert steps(walk(LITERALS, connect_retry_max_pause=5), 15) == expected


def test_it_gives_up_after_so_many_passes() -> None:
    remotes = walk(LITERALS[:1], connect_retry_max=2)
    assert steps(remotes, 4) == ["try 192.0.2.1", "wait 1", "try 192.0.2.1", "give up"]


def test_a_name_is_looked_up_in_every_pass_and_each_address_tried() -> None:
    remotes = walk([NAMED])
    for expected in ("wait 1", "wait 2"):
        assert steps(remotes, 1) == ["look vpn.example"]
        remotes.resolved(NAMED, (ADDRESS["b"], ADDRESS["6"]))
        assert steps(remotes, 3) == ["try 192.0.2.2", "try 2001:db8::1", expected]


def test_a_name_without_an_address_is_passed_over() -> None:
    assert steps(walk([NAMED, LITERALS[0]]), 3) == ["look vpn.example", "try 192.0.2.1", "wait 1"]


@pytest.mark.parametrize(("family", "left"), [(Family.IPV4, ["a"]), (Family.IPV6, ["6"]), (Family.ANY, ["a", "6"])])
def test_addresses_of_another_family_are_left_out(family: Family, left: list[str]) -> None:
    remote = Remote("vpn.example", 1194, Proto.UDP, family)
    remotes = walk([remote])
    remotes.next()
    remotes.resolved(remote, (ADDRESS["a"], ADDRESS["6"]))
    assert steps(remotes, len(left) + 1) == [*(f"try {ADDRESS[name]}" for name in left), "wait 1"]


def test_addresses_of_a_name_are_bounded() -> None:
    remotes = walk([NAMED])
    remotes.next()
    remotes.resolved(NAMED, tuple(IPv4Address(n) for n in range(1000)))
    assert steps(remotes, MAX_ADDRESSES + 1)[-1] == "wait 1"


def test_after_a_lasting_connection_the_same_address_comes_first() -> None:
    remotes = walk(LITERALS)
    steps(remotes, 4)  # one pause is behind us
    last = Try(LITERALS[0], ADDRESS["a"])
    assert remotes.again(last, lasted=True) == 0
    assert steps(remotes, 4) == ["try 192.0.2.1", "try 192.0.2.2", "try 192.0.2.1", "wait 1"]


def test_after_a_short_connection_the_others_come_first_and_the_pause_grows() -> None:
    remotes = walk(LITERALS)
    last = Try(LITERALS[0], ADDRESS["a"])
    assert [remotes.again(last, lasted=False) for _ in range(4)] == [1, 2, 4, 8]
    assert steps(remotes, 3) == ["try 192.0.2.2", "try 192.0.2.1", "wait 16"]


def test_shuffling_keeps_every_remote() -> None:
    many = [Remote(f"192.0.2.{n}", 1194, Proto.UDP) for n in range(1, 9)]
    seen = steps(walk(many, shuffle=True), 8)
    assert sorted(seen) == sorted(f"try 192.0.2.{n}" for n in range(1, 9)) and seen != sorted(seen)


# --- MSS


def mss(mssfix: int, endpoint: str, proto: Proto) -> tuple[int, int]:
    config = Common(NoWrap(), None, PeerPolicy(ca_pem=CA), mssfix=mssfix)
    limits = peer_limits(config, proto, (endpoint, 1194), cipher="AES-256-GCM", ping=0, silence=0)
    return limits.mss4, limits.mss6


@pytest.mark.parametrize(
    ("mssfix", "endpoint", "proto", "expected"),
    [
        (1492, "192.0.2.1", Proto.UDP, (1400, 1380)),
        (1492, "2001:db8::1", Proto.UDP, (1380, 1360)),
        (1492, "fe80::1%eth0", Proto.UDP, (1380, 1360)),
        (1492, "::ffff:192.0.2.1", Proto.UDP, (1400, 1380)),
        (1492, "192.0.2.1", Proto.TCP, (1386, 1366)),
        (0, "192.0.2.1", Proto.UDP, (0, 0)),
        (50, "192.0.2.1", Proto.UDP, (88, 88)),
    ],
)
def test_mss(mssfix: int, endpoint: str, proto: Proto, expected: tuple[int, int]) -> None:
    assert mss(mssfix, endpoint, proto) == expected


def test_published_mss() -> None:
    vector = VECTORS["mssfix"]
    for size in range(vector["first"], vector["last"] + 1):
        # The published calculation has no outer headers; ours counts IPv4 and UDP within mssfix.
        assert mss(size + 28, "192.0.2.1", Proto.UDP)[0] == size - vector["overhead"]
