# SPDX-License-Identifier: BSD-2-Clause
"""A server that is authenticated and sends a key method 2 message that is none, or sends it at the wrong moment."""

from __future__ import annotations

import pytest

from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.wire import keymethod2
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import HELLO, PUSH, Rogue, tls_context

WHOLE = keymethod2.encode(HELLO)
HEAD, RANDOM = b"\0\0\0\0\2", bytes(64)


def string(raw: bytes, size: int | None = None) -> bytes:
    return (len(raw) if size is None else size).to_bytes(2, "big") + raw


FAULTS = {
    "one byte": b"\0",
    "the head alone": HEAD,
    "half of the random bytes": HEAD + bytes(32),
    "one byte too few": HEAD + bytes(63),
    "a word that is not zero": b"\0\0\0\1\2" + RANDOM,
    "method 0": b"\0\0\0\0\0" + RANDOM,
    "method 1": b"\0\0\0\0\1" + RANDOM,
    "method 3": b"\0\0\0\0\3" + RANDOM,
    "method 15": b"\0\0\0\0\x0f" + RANDOM,
    "half a length": HEAD + RANDOM + b"\0",
    "a length and nothing": HEAD + RANDOM + b"\0\5",
    "a length of 65535": HEAD + RANDOM + string(b"V4\0", 65535),
    "options of 513 bytes": HEAD + RANDOM + string(b"x" * 512 + b"\0"),
    "options without NUL": HEAD + RANDOM + string(b"V4,dev-type tun"),
    "options with a NUL inside": HEAD + RANDOM + string(b"V4\0dev-type tun\0"),
    "a user name of 129 bytes": HEAD + RANDOM + string(b"V4\0") + string(b"u" * 128 + b"\0"),
    "a password without NUL": HEAD + RANDOM + string(b"V4\0") + string(b"u\0") + string(b"pass"),
    "a password of 4096 bytes": HEAD + RANDOM + string(b"V4\0") + string(b"u\0") + string(b"p" * 4095 + b"\0"),
    "peer info of 8193 bytes": HEAD + RANDOM + string(b"V4\0") + bytes(4) + string(b"I" * 8192 + b"\0"),
    "peer info without NUL": HEAD + RANDOM + string(b"V4\0") + bytes(4) + string(b"ID=1"),
    "a push in its place": PUSH.encode() + b"\0",
    "noise": bytes(range(1, 200)),
}


@pytest.mark.parametrize("version", [(1, 2), (1, 3)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_message_ends_the_attempt(pki: Pki, fault: str, version: tuple[int, int]) -> None:
    rogue = Rogue(pki, tls_context(pki, version)).handshake()
    rogue.introduce(FAULTS[fault])
    rogue.say(PUSH)
    assert not rogue.effects(c.TunnelUp) and not rogue.effects(c.InstallKey)
    assert rogue.lost and "key method" in rogue.said(), rogue.said()


@pytest.mark.parametrize("cut", range(0, len(WHOLE)))
def test_every_truncation(pki: Pki, cut: int) -> None:
    """Whole strings may be left out at the end; everything else that is cut is refused."""
    rogue = Rogue(pki).handshake()
    if cut:
        rogue.introduce(WHOLE[:cut])
    ends = {len(HEAD + RANDOM), len(WHOLE), len(WHOLE) - 2, len(WHOLE) - 4, len(WHOLE) - 6}
    assert rogue.lost is (cut != 0 and cut not in ends), rogue.said()


def test_in_two_records_it_is_none(pki: Pki) -> None:
    rogue = Rogue(pki).handshake()
    rogue.record(WHOLE[:40], WHOLE[40:])
    assert rogue.lost and not rogue.effects(c.InstallKey)


@pytest.mark.parametrize("tail", [b"\0", b"PUSH_REPLY\0", bytes(16384 - len(WHOLE))])
def test_what_follows_in_the_record_is_not_looked_at(pki: Pki, tail: bytes) -> None:
    rogue = Rogue(pki).handshake()
    rogue.introduce(WHOLE + tail)
    assert not rogue.lost and not rogue.effects(c.TunnelUp)
    rogue.say(PUSH)
    assert rogue.up


def test_a_second_one_changes_no_key(pki: Pki) -> None:
    rogue = Rogue(pki).working()
    other = WHOLE.replace(bytes(range(32)), b"\xee" * 32)
    rogue.record(other, other)
    assert rogue.up and len(rogue.effects(c.InstallKey)) == 1


def test_a_fault_in_a_renegotiation_ends_the_session(pki: Pki) -> None:
    rogue = Rogue(pki).working()
    rogue.renegotiate().introduce(FAULTS["method 1"])
    assert rogue.lost and not rogue.up and len(rogue.effects(c.InstallKey)) == 1


@pytest.mark.parametrize(
    "options",
    [
        "cipher \x1b[31m,auth none", "V4,cipher " + "x" * 480, "\u202e\x9b,cipher AES-128-CBC", ",,,,=,cipher,auth,",
        "V4,auth [null-digest],cipher [null-cipher]",
    ],
)  # fmt: skip
def test_an_odd_options_string_is_shown_harmlessly_and_chooses_nothing(pki: Pki, options: str) -> None:
    """Without a pushed cipher the string is asked; what it names must be allowed by the profile."""
    hello = keymethod2.KeyMethod2(HELLO.source, options, "", HELLO.password, "")
    rogue = Rogue(pki).handshake().introduce(keymethod2.encode(hello))
    rogue.say(PUSH.replace(",cipher AES-256-GCM", ""))
    assert rogue.lost and not rogue.effects(c.TunnelUp) and not rogue.effects(c.InstallKey)
    assert "the server wants cipher" in rogue.said() and rogue.said().isascii()
