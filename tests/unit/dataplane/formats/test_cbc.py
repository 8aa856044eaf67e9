# SPDX-License-Identifier: BSD-2-Clause
"""CBC and ``none`` with an HMAC on the wire: layout, replay, hostile packets."""

from __future__ import annotations

import hmac
import random

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.cbc import Cbc
from qubes_miragevpn.crypto.digests import digest_size, hashlib_name
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.formats.cbc import CbcKey
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, DirectionKeys, KeyExhausted, PeerLimits
from qubes_miragevpn.dataplane.reference import DataChannel
from tests.unit.dataplane.packets import HERE, THERE, client, data_keys, far_end, ip_packet, wire

INNER = ip_packet("10.8.0.2", "198.51.100.7", b"payload of some length")
OLD = sorted(name for name, suite in SUITES.items() if suite.mode is not Mode.AEAD)
SHA256 = 32


def dropped(channel: DataChannel) -> tuple[int, int, int]:
    counters = channel.counters(1)
    return counters.dropped_replay, counters.dropped_auth, counters.dropped_other


def signed(body: bytes, header: bytes = b"\x48\0\0\7", suite: str = "AES-256-CBC") -> bytes:
    """A packet to the far end of which the HMAC is right, whatever `body` is."""
    key = data_keys(suite).send.hmac_key.reveal()
    return header + hmac.digest(key, body, "sha256") + body


def sealed(numbered: bytes) -> bytes:
    """A packet with these bytes for packet id and data."""
    iv = bytes(range(16))
    return signed(iv + Cbc(SUITES["AES-256-CBC"], data_keys("AES-256-CBC").send.cipher_key).encrypt(iv, numbered))


@pytest.mark.parametrize("peer_id", [7, NO_PEER_ID])
@pytest.mark.parametrize("suite", OLD)
def test_layout(suite: str, peer_id: int) -> None:
    """The HMAC covers all that is behind it, and nothing in front."""
    keys, block = data_keys(suite), SUITES[suite].block_size
    packet = wire(client(suite, peer_id), INNER)
    header = b"\x30" if peer_id == NO_PEER_ID else b"\x48\0\0\7"
    tag, body = packet[len(header) :][:SHA256], packet[len(header) + SHA256 :]
    assert packet.startswith(header)
    assert tag == hmac.digest(keys.send.hmac_key.reveal(), body, "sha256")
    if block:
        body = Cbc(SUITES[suite], keys.send.cipher_key).decrypt(body[:block], body[block:])
    assert body == b"\0\0\0\1" + INNER


@pytest.mark.parametrize("digest", ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512", "SHA3-512", "BLAKE2s256", "MD5"])
@pytest.mark.parametrize("suite", OLD)
def test_round_trip_with_every_kind_of_digest(suite: str, digest: str) -> None:
    size = digest_size(digest)
    ways = [DirectionKeys(Secret(bytes(range(n, n + SUITES[suite].key_size))), hmac_key=Secret(bytes([n]) * size))
            for n in (1, 2)]  # fmt: skip
    ends = []
    for place, (send, receive) in ((HERE, ways), (THERE, ways[::-1])):
        channel = DataChannel()
        channel.add_peer(1, 1, place, 7, PeerLimits())
        channel.install_key(1, 0, DataKeys(suite, send, receive, digest), 100.0)
        channel.activate_key(1, 0, 100.0)
        ends.append(channel)
    here, there = ends
    for inner in (INNER, ip_packet("fd00::1", "fd00::2", bytes(1400))):
        packet = wire(here, inner)
        assert there.receive(1, THERE, packet, 100.0) == inner
        assert packet[4:][:size] == hmac.digest(ways[0].hmac_key.reveal(), packet[4 + size :], hashlib_name(digest))


def test_no_iv_comes_twice() -> None:
    channel = client("AES-128-CBC")
    seen = {wire(channel, INNER)[4 + SHA256 :][:16] for _ in range(50)}
    assert len(seen) == 50


@pytest.mark.parametrize("suite", OLD)
@pytest.mark.parametrize("peer_id", [7, NO_PEER_ID])
def test_every_flipped_bit_and_every_truncation(suite: str, peer_id: int) -> None:
    """None is accepted but those of the header, which is not authenticated: they lead to another peer or key, or here
    to the only one."""
    packet, start = wire(client(suite, peer_id), INNER), 1 if peer_id == NO_PEER_ID else 4
    there = far_end(suite, peer_id)
    for bit in range(start * 8, len(packet) * 8):
        bent = bytearray(packet)
        bent[bit // 8] ^= 1 << bit % 8
        assert there.receive(1, THERE, bytes(bent), 100.0) is None
    assert dropped(there) == (0, (len(packet) - start) * 8, 0)
    for end in range(1, len(packet)):
        assert there.receive(1, THERE, packet[:end], 100.0) is None
    assert there.events == []
    assert there.receive(1, THERE, packet, 100.0) == INNER


def test_replays_are_told_from_forgeries() -> None:
    here, there = client("AES-256-CBC"), far_end("AES-256-CBC")
    packets = [wire(here, INNER) for _ in range(70)]
    assert there.receive(1, THERE, packets[69], 100.0) == INNER
    assert there.receive(1, THERE, packets[69], 100.0) is None
    assert there.receive(1, THERE, packets[6], 100.0) == INNER  # 63 behind
    assert there.receive(1, THERE, packets[5], 100.0) is None  # 64 behind
    assert dropped(there) == (2, 0, 0)


def test_what_somebody_with_the_hmac_key_alone_can_do() -> None:
    """Authentic bodies that no honest peer makes: no IV, half a block, a wrong padding, no data, packet id 0."""
    there, rng = far_end("AES-256-CBC"), random.Random(7)
    for size in range(64):
        assert there.receive(1, THERE, signed(rng.randbytes(size)), 100.0) is None
    for numbered in (b"", b"\0\0\0", b"\0\0\0\1", b"\0\0\0\0" + INNER):
        assert there.receive(1, THERE, sealed(numbered), 100.0) is None
    assert there.events == []
    assert there.receive(1, THERE, sealed(b"\0\0\0\1" + INNER), 100.0) == INNER


def test_the_padding_is_not_looked_at_before_the_hmac(monkeypatch: pytest.MonkeyPatch) -> None:
    def decrypt(*_: bytes) -> bytes:
        raise AssertionError("decrypted what is not authentic")

    there = far_end("AES-256-CBC")
    key = there._peers.by_handle[1].keys[0]
    assert isinstance(key, CbcKey)
    key._decrypt = decrypt  # type: ignore[method-assign]
    packet = bytearray(wire(client("AES-256-CBC"), INNER))
    packet[-1] ^= 1
    assert there.receive(1, THERE, bytes(packet), 100.0) is None
    assert dropped(there) == (0, 1, 0)


@pytest.mark.parametrize(("suite", "renewed"), [("BF-CBC", True), ("DES-EDE3-CBC", True), ("AES-128-CBC", False)])
def test_small_blocks_are_renewed_after_64_megabytes(suite: str, renewed: bool) -> None:
    channel = client(suite)
    channel._peers.by_handle[1].keys[0].bytes_sent = (64 << 20) - len(INNER)
    wire(channel, INNER)
    assert channel.events == ([KeyExhausted(1, 0)] if renewed else [])


def test_keys_that_do_not_fit_are_our_own_fault() -> None:
    good = data_keys("AES-256-CBC")
    short = DirectionKeys(good.send.cipher_key, hmac_key=Secret(bytes(20)))
    for keys in (DataKeys("AES-256-CBC", good.send, short, "SHA256"), DataKeys("AES-256-CBC", good.send, good.receive)):
        with pytest.raises(MisuseError):
            DataChannel().install_key(1, 0, keys, 0.0)
        channel = DataChannel()
        channel.add_peer(1, 1, HERE, 7, PeerLimits())
        with pytest.raises(MisuseError):
            channel.install_key(1, 0, keys, 0.0)
