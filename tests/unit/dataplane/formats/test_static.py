# SPDX-License-Identifier: BSD-2-Clause
"""The format of the static key mode, packet by packet."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.cbc import Cbc
from qubes_miragevpn.crypto.replay import Replayed
from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.formats.choose import make_key
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, DirectionKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import KeySlot, TooShort
from qubes_miragevpn.dataplane.reference import DataChannel

HALF = DirectionKeys(Secret(b"c" * 32), hmac_key=Secret(b"h" * 32))
LIMITS = PeerLimits(bare=True)
ENDPOINT = ("192.0.2.1", 1194)
INNER = bytes([0x45, 0, 0, 28]) + bytes(8) + bytes([10, 1, 0, 1, 10, 1, 0, 2]) + bytes(8)


def keys(since: int = 1_700_000_000, suite: str = "AES-256-CBC") -> DataKeys:
    return DataKeys(suite, HALF, HALF, digest="SHA256", since=since)


def slot(since: int = 1_700_000_000) -> KeySlot:
    return make_key(0, keys(since), NO_PEER_ID, LIMITS, lambda size: b"\x11" * size)


def test_the_bytes_are_as_openvpn_s() -> None:
    packet = slot().seal(b"payload")
    tag, iv, rest = packet[:32], packet[32:48], packet[48:]
    assert hmac.digest(b"h" * 32, iv + rest, hashlib.sha256) == tag and iv == b"\x11" * 16
    plaintext = Cbc(SUITES["AES-256-CBC"], HALF.cipher_key).decrypt(iv, rest)
    assert plaintext == b"\0\0\0\1" + (1_700_000_000).to_bytes(4, "big") + b"payload"


def test_replays_and_older_numberings_are_refused() -> None:
    ours, theirs = slot(), slot()
    first, second = ours.seal(b"one"), ours.seal(b"two")
    assert theirs.open(second, 0) == b"two" and theirs.open(first, 0) == b"one"
    with pytest.raises(Replayed):
        theirs.open(first, 0)
    newer = slot(1_700_000_001).seal(b"anew")
    assert theirs.open(newer, 0) == b"anew", "the same number again, of a newer start"
    with pytest.raises(Replayed):
        theirs.open(ours.seal(b"late"), 0)


def test_what_was_changed_or_cut_is_refused() -> None:
    packet = slot().seal(b"payload")
    for at in range(len(packet)):
        with pytest.raises(PeerError):
            slot().open(packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :], 0)
        with pytest.raises(PeerError):
            slot().open(packet[:at], 0)
    with pytest.raises(TooShort):
        slot().open(b"", 0)


@pytest.mark.parametrize("suite", ["AES-256-GCM", "none"])
def test_only_cbc(suite: str) -> None:
    with pytest.raises(MisuseError):
        make_key(0, keys(suite=suite), NO_PEER_ID, LIMITS, bytes)


def channel() -> DataChannel:
    made = DataChannel(entropy=lambda size: bytes(size))
    made.add_peer(1, 5, ENDPOINT, NO_PEER_ID, LIMITS)
    made.install_key(1, 0, keys(), 0.0)
    made.activate_key(1, 0, 0.0)
    return made


def test_any_first_byte_is_data_on_a_bare_link() -> None:
    here, there = channel(), channel()
    seen = set()
    for _ in range(300):
        sent = here.send(INNER, 1.0)
        assert sent is not None
        seen.add(sent[2][0] >> 3)
        assert there.receive(5, None, sent[2], 1.0) == INNER
    assert len(seen) > 20, "all kinds of opcodes, if they were any"
    assert there.receive(5, None, bytes(100), 1.0) is None and there.counters(1).dropped_auth == 1
