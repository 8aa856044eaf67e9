# SPDX-License-Identifier: BSD-2-Clause
"""The data channel of one peer: bytes on the wire, keys, replay, limits, timers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.aead import Aead
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import (
    NO_PEER_ID,
    DataKeys,
    DirectionKeys,
    KeyExhausted,
    KeyInUse,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
)
from qubes_miragevpn.dataplane.keys import KeySlot
from qubes_miragevpn.dataplane.reference import OCC_EXIT, OCC_MAGIC, PING, DataChannel
from tests.unit.dataplane.packets import AES, ELSEWHERE, HERE, THERE, client, data_keys, far_end, ip_packet, wire

INNER = ip_packet("10.8.0.2", "198.51.100.7", b"payload of some length")
AEAD = sorted(name for name, suite in SUITES.items() if suite.mode is Mode.AEAD)


def slot(channel: DataChannel, key_id: int = 0) -> KeySlot:
    return channel._peers.by_handle[1].keys[key_id]


def dropped(channel: DataChannel) -> tuple[int, int, int]:
    counters = channel.counters(1)
    return counters.dropped_replay, counters.dropped_auth, counters.dropped_other


# --- the wire ---------------------------------------------------------------------------------------------


def test_known_answer_of_openvpn() -> None:
    vector = json.loads((Path(__file__).parents[2] / "vectors" / "data_channel.json").read_text())
    seed = vector["key_seed"].encode()
    material = bytes(seed[i % 32] ^ i for i in range(256))
    way = DirectionKeys(Secret(material[:32]), Secret(material[64:72]))
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, 0x17, PeerLimits())
    channel.install_key(1, 0, DataKeys(vector["suite"], way, way), 0.0)
    channel.activate_key(1, 0, 0.0)
    slot(channel).header = bytes.fromhex(vector["header"])  # the vector's first byte is no opcode of ours
    channel.send_inner(1, vector["plaintext"].encode(), 0.0)
    packet = channel.outbox[0][2]
    assert packet[:8].hex() == "0700001700000001"
    assert packet[8:24].hex() == vector["tag"]
    assert packet[24:][10:16].hex() == vector["ciphertext_from_10_to_16"]


@pytest.mark.parametrize("suite", AEAD)
@pytest.mark.parametrize("key_id", [0, 1, 7])
def test_data_v2_layout(suite: str, key_id: int) -> None:
    keys = data_keys(suite)
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, 0xABCDEF, PeerLimits())
    channel.install_key(1, key_id, keys, 0.0)
    channel.activate_key(1, key_id, 0.0)
    for packet_id in (1, 2, 3):
        header = bytes([9 << 3 | key_id]) + b"\xab\xcd\xef" + packet_id.to_bytes(4, "big")
        nonce = packet_id.to_bytes(4, "big") + keys.send.implicit_iv.reveal()
        sealed = Aead(SUITES[suite], keys.send.cipher_key).seal(nonce, INNER, header)
        assert channel.send(INNER, 0.0) == (1, HERE, header + sealed[-16:] + sealed[:-16])


@pytest.mark.parametrize("suite", AEAD)
def test_data_v1_layout(suite: str) -> None:
    keys = data_keys(suite)
    channel = client(suite, NO_PEER_ID)
    packet_id = b"\0\0\0\1"
    sealed = Aead(SUITES[suite], keys.send.cipher_key).seal(
        packet_id + keys.send.implicit_iv.reveal(), INNER, packet_id
    )
    assert wire(channel, INNER) == bytes([6 << 3]) + packet_id + sealed[-16:] + sealed[:-16]


@pytest.mark.parametrize("suite", sorted(SUITES))
@pytest.mark.parametrize("peer_id", [0, 7, 0xFFFFFE, NO_PEER_ID])
@pytest.mark.parametrize(
    "inner", [INNER, ip_packet("fd00::1", "fd00::2"), ip_packet("10.0.0.1", "10.0.0.2", bytes(16000))]
)
def test_round_trip(suite: str, peer_id: int, inner: bytes) -> None:
    here, there = client(suite, peer_id), far_end(suite, peer_id)
    assert there.receive(1, THERE, wire(here, inner), 100.0) == inner
    assert here.receive(1, None, wire(there, inner), 100.0) == inner
    assert here.counters(1) == there.counters(1)
    assert (here.counters(1).bytes_in, here.counters(1).packets_out) == (len(inner), 1)


def test_a_changed_peer_id_is_used_under_the_keys_that_are_there() -> None:
    channel = client(peer_id=NO_PEER_ID)
    channel.update_peer(1, 100.0, peer_id=5, limits=None)
    assert wire(channel, INNER)[:8].hex() == "4800000500000001"


# --- hostile packets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer_id", [7, NO_PEER_ID])
def test_truncated_at_every_byte(peer_id: int) -> None:
    packet = wire(client(peer_id=peer_id), INNER)
    there = far_end(peer_id=peer_id)
    for end in range(1, len(packet)):
        assert there.receive(1, THERE, packet[:end], 100.0) is None
    assert sum(dropped(there)) == len(packet) - 1
    assert there.events == [] and there.outbox == []
    assert there.receive(1, THERE, packet, 100.0) == INNER


@pytest.mark.parametrize("suite", AEAD)
@pytest.mark.parametrize("peer_id", [7, NO_PEER_ID])
def test_every_flipped_bit(suite: str, peer_id: int) -> None:
    """None is accepted, nothing is remembered of any. DATA_V1 does not cover its first byte, which names the key."""
    packet = wire(client(suite, peer_id), INNER)
    there = far_end(suite, peer_id)
    for bit in range(len(packet) * 8):
        bent = bytearray(packet)
        bent[bit // 8] ^= 1 << bit % 8
        if bent[0] >> 3 in (6, 9):
            assert there.receive(1, THERE, bytes(bent), 100.0) is None
    assert there.events == []
    assert there.receive(1, THERE, packet, 100.0) == INNER


def test_random_bytes_of_every_length() -> None:
    rng, there = random.Random(1), far_end()
    for length in range(2001):
        for opcode in (6, 9):
            packet = bytes([opcode << 3 | rng.randrange(8)]) + rng.randbytes(length)
            assert there.receive(1, THERE, packet, 100.0) is None
    assert sum(dropped(there)) == 2 * 2001
    assert there.events == [] and there.outbox == []


def test_replays_and_the_edge_of_the_window() -> None:
    here, there = client(), far_end()
    packets = [wire(here, INNER) for _ in range(100)]
    assert there.receive(1, THERE, packets[99], 100.0) == INNER  # id 100
    assert there.receive(1, THERE, packets[36], 100.0) == INNER  # id 37, 63 behind
    assert there.receive(1, THERE, packets[35], 100.0) is None  # id 36, 64 behind
    assert there.receive(1, THERE, packets[34], 100.0) is None  # 65 behind
    assert there.receive(1, THERE, packets[99], 100.0) is None
    assert there.receive(1, THERE, packets[36], 100.0) is None
    assert dropped(there) == (4, 0, 0)


def test_packet_id_zero_and_a_leap_of_half_the_range() -> None:
    here, there = client(), far_end()
    first = wire(here, INNER)
    slot(here).packets_sent = -1
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None
    slot(here).packets_sent = 1 << 31
    assert there.receive(1, THERE, wire(here, INNER), 100.0) == INNER
    assert there.receive(1, THERE, first, 100.0) is None
    assert dropped(there) == (2, 0, 0)


def test_a_forged_packet_does_not_move_the_window() -> None:
    here, there = client(), far_end()
    packet = wire(here, INNER)
    forged = packet[:4] + b"\xff\xff\xff\xff" + packet[8:]
    assert there.receive(1, THERE, forged, 100.0) is None
    assert there.receive(1, THERE, packet, 100.0) == INNER
    assert dropped(there) == (0, 1, 0)


def test_another_address_is_not_the_peer() -> None:
    here, there = client(), far_end()
    packet = wire(here, INNER)
    assert there.receive(1, ELSEWHERE, packet, 100.0) is None
    assert there.receive(2, THERE, packet, 100.0) is None
    assert there.dropped_unknown == 2
    assert there.receive(1, THERE, packet, 100.0) == INNER


@pytest.mark.parametrize(
    "payload",
    [
        b"\0",
        b"\x45",
        INNER[:-1],
        INNER + b"\0",
        b"\x44" + INNER[1:],
        b"\x4f" + INNER[1:],
        b"\x55" + INNER[1:],
        b"\x60" * 39,
    ],
    ids=["nul", "one byte", "short", "long", "ihl 4", "ihl 15", "version 5", "half a header"],
)
def test_malformed_inner_packets_do_not_reach_the_tun(payload: bytes) -> None:
    here, there = client(), far_end()
    here.send_inner(1, payload, 100.0)
    assert there.receive(1, THERE, here.outbox[0][2], 100.0) is None
    assert dropped(there) == (0, 0, 1)
    assert there.counters(1).packets_in == 0


def test_empty_plaintexts_are_neither_sent_nor_taken() -> None:
    here, there = client(), far_end()
    assert here.send(b"", 100.0) is None
    here.send_inner(1, b"", 100.0)
    assert here.outbox == []
    assert there.receive(1, THERE, slot(here).seal(b""), 100.0) is None
    assert dropped(there) == (0, 0, 1)
    assert there.events == []


# --- keys -------------------------------------------------------------------------------------------------


def test_three_keys_side_by_side() -> None:
    here, there = client(), far_end()
    for key_id in (1, 2):
        here.install_key(1, key_id, data_keys(seed=30 * key_id), 100.0)
        there.install_key(1, key_id, data_keys(seed=30 * key_id, reverse=True), 100.0)
    for key_id in (2, 0, 1):
        here.activate_key(1, key_id, 100.0)
        assert there.receive(1, THERE, wire(here, INNER), 100.0) == INNER
    assert there.events == [KeyInUse(1, 2), KeyInUse(1, 0), KeyInUse(1, 1)]
    with pytest.raises(MisuseError):
        here.install_key(1, 3, data_keys(), 100.0)
    there.retire_key(1, 1)
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None
    assert dropped(there) == (0, 0, 1)


def test_nothing_is_sent_without_an_active_key() -> None:
    channel = client()
    channel.retire_key(1, 0)
    assert channel.send(INNER, 100.0) is None
    channel.install_key(1, 1, data_keys(), 100.0)
    assert channel.send(INNER, 100.0) is None
    assert dropped(channel) == (0, 0, 2)
    channel.activate_key(1, 1, 100.0)
    assert wire(channel, INNER)[0] == 9 << 3 | 1


def test_a_new_key_under_an_old_id_begins_again() -> None:
    here, there = client(), far_end()
    wire(here, INNER)
    here.install_key(1, 0, data_keys(seed=50), 100.0)
    assert here.send(INNER, 100.0) is None  # it has to be activated first
    here.activate_key(1, 0, 100.0)
    packet = wire(here, INNER)
    assert packet[4:8] == b"\0\0\0\1"
    assert there.receive(1, THERE, packet, 100.0) is None
    there.install_key(1, 0, data_keys(seed=50, reverse=True), 100.0)
    assert there.receive(1, THERE, packet, 100.0) == INNER


def test_key_in_use_is_reported_once_and_for_authentic_packets_only() -> None:
    here, there = client(), far_end()
    first, second = wire(here, INNER), wire(here, INNER)
    there.receive(1, THERE, first[:-1] + b"\0", 100.0)
    assert there.events == []
    there.receive(1, THERE, first, 100.0)
    there.receive(1, THERE, second, 100.0)
    assert there.events == [KeyInUse(1, 0)]


# --- limits -----------------------------------------------------------------------------------------------


def test_packet_ids_run_out() -> None:
    channel = client()
    slot(channel).packets_sent = 0xFF000000 - 2
    slot(channel).check_sent_at = 0
    wire(channel, INNER)
    assert channel.events == []
    assert wire(channel, INNER)[4:8].hex() == "ff000000"
    assert channel.events == [KeyExhausted(1, 0)]
    slot(channel).packets_sent = 0xFFFFFFFE
    assert wire(channel, INNER)[4:8].hex() == "ffffffff"
    assert channel.send(INNER, 100.0) is None
    channel.activate_key(1, 0, 100.0)  # does not bring it back
    assert channel.send(INNER, 100.0) is None
    assert channel.events == [KeyExhausted(1, 0)]


@pytest.mark.parametrize(("suite", "fires"), [("AES-128-GCM", True), (AES, True), ("CHACHA20-POLY1305", False)])
def test_usage_limit_of_aead(suite: str, fires: bool) -> None:
    """7/8 of 2^36 - 1 blocks, counted from above: bytes/16 + 2 * packets."""
    channel = client(suite)
    limit = (2**36 - 1) * 7 // 8
    slot(channel).bytes_sent = (limit - 5) * 16
    wire(channel, INNER)  # 42 bytes, so 2 whole blocks + 2: one below
    assert channel.events == []
    wire(channel, INNER)
    assert channel.events == ([KeyExhausted(1, 0)] if fires else [])
    slot(channel).bytes_sent = (2**36 - 1) * 16
    assert channel.send(INNER, 100.0) is not None
    assert (channel.send(INNER, 100.0) is None) is fires


def test_usage_limit_of_the_receiving_direction() -> None:
    here, there = client(), far_end()
    slot(there).bytes_received = (2**36 - 1) * 16
    assert there.receive(1, THERE, wire(here, INNER), 100.0) == INNER
    assert KeyExhausted(1, 0) in there.events
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None


def test_failed_tags() -> None:
    here, there = client(), far_end()
    packet = wire(here, INNER)
    bad = packet[:-1] + bytes([packet[-1] ^ 1])
    slot(there).failed_tags = (1 << 35) - 1
    there.receive(1, THERE, bad, 100.0)
    assert there.events == []
    there.receive(1, THERE, bad, 100.0)
    assert there.events == [KeyExhausted(1, 0)]
    slot(there).failed_tags = 1 << 36
    there.receive(1, THERE, bad, 100.0)
    assert there.receive(1, THERE, packet, 100.0) is None
    assert there.events == [KeyExhausted(1, 0)]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 1000])
def test_reneg_pkts_counts_both_directions(limit: int) -> None:
    rng = random.Random(limit)
    here, there = client(limits=PeerLimits(reneg_pkts=limit)), far_end()
    for _ in range(limit):
        assert here.events in ([], [KeyInUse(1, 0)])
        if rng.random() < 0.5:
            wire(here, INNER)
        else:
            here.receive(1, None, wire(there, INNER), 100.0)
    assert KeyExhausted(1, 0) in here.events
    assert here.send(INNER, 100.0) is not None  # it is a wish, not a wall


def test_reneg_bytes() -> None:
    channel = client(limits=PeerLimits(reneg_bytes=10 * len(INNER)))
    for _ in range(9):
        wire(channel, INNER)
    assert channel.events == []
    wire(channel, INNER)
    assert channel.events == [KeyExhausted(1, 0)]


def test_new_limits_are_looked_at_at_once() -> None:
    channel = client()
    for _ in range(5):
        wire(channel, INNER)
    channel.update_peer(1, 100.0, peer_id=None, limits=PeerLimits(reneg_pkts=6))
    wire(channel, INNER)
    assert channel.events == [KeyExhausted(1, 0)]


# --- time -------------------------------------------------------------------------------------------------


def test_ping_after_silence_of_our_own() -> None:
    here, there = client(limits=PeerLimits(ping=10.0)), far_end()
    assert here.next_deadline() == 110.0
    wire(here, INNER, 105.0)
    here.tick(110.0)
    assert here.outbox == []
    assert here.next_deadline() == 115.0
    here.tick(115.0)
    ((link, endpoint, packet),) = here.outbox
    assert (link, endpoint) == (1, HERE)
    assert here.next_deadline() == 125.0
    assert there.receive(1, THERE, packet, 115.0) is None
    assert there.events == [KeyInUse(1, 0)]
    assert dropped(there) == (0, 0, 0)
    assert there.counters(1).packets_in == 0


def test_no_ping_without_a_key() -> None:
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, 7, PeerLimits(ping=10.0, silence=60.0))
    assert channel.next_deadline() is None
    channel.tick(1e9)
    assert channel.outbox == [] and channel.events == []


def test_silence_of_the_peer() -> None:
    here, there = client(limits=PeerLimits(silence=60.0)), far_end()
    assert here.next_deadline() == 160.0
    bad = wire(there, INNER)[:-1] + b"\0"
    here.receive(1, None, bad, 159.0)  # what is not authentic is no sign of life
    here.tick(159.9)
    assert here.events == []
    here.tick(160.0)
    assert here.events == [PeerSilent(1)]
    assert here.next_deadline() == 220.0
    here.receive(1, None, wire(there, INNER), 200.0)
    here.tick(220.0)
    assert here.events == [PeerSilent(1), KeyInUse(1, 0)]
    here.tick(260.0)
    assert here.events[2:] == [PeerSilent(1)]


def test_a_ping_is_a_sign_of_life() -> None:
    here, there = client(limits=PeerLimits(silence=60.0)), far_end(limits=PeerLimits(ping=50.0))
    there.tick(150.0)
    here.receive(1, None, there.outbox[0][2], 150.0)
    assert here.next_deadline() == 210.0


@pytest.mark.parametrize("opcode", range(8))
def test_occ_messages_are_handed_up_and_exit_is_told_once(opcode: int) -> None:
    here, there = client(), far_end()
    for _ in range(2):
        here.send_inner(1, OCC_MAGIC + bytes([opcode]) + b"text" + bytes(900), 100.0)
        assert there.receive(1, THERE, here.outbox.pop()[2], 100.0) is None
    handed = OccMessage(1, bytes([opcode]) + b"text" + bytes(507), 24 + 16 + 1 + 904)
    assert there.events[1:] == ([PeerExited(1)] if opcode == 6 else [handed, handed])
    assert dropped(there) == (0, 0, 0)


@pytest.mark.parametrize("payload", [PING[:-1], PING + b"\0", OCC_MAGIC[:-1]])
def test_almost_magic(payload: bytes) -> None:
    here, there = client(), far_end()
    here.send_inner(1, payload, 100.0)
    assert there.receive(1, THERE, here.outbox[0][2], 100.0) is None
    assert dropped(there) == (0, 0, 1)


def test_exit_has_to_be_authentic() -> None:
    there = far_end()
    assert there.receive(1, THERE, b"\x48\0\0\7\0\0\0\1" + bytes(16) + OCC_EXIT, 100.0) is None
    assert there.events == []


# --- misuse -----------------------------------------------------------------------------------------------


def test_unknown_peers_and_silly_values_are_our_own_fault() -> None:
    channel = client()
    for misuse in (
        lambda: channel.counters(2),
        lambda: channel.remove_peer(2),
        lambda: channel.install_key(2, 0, data_keys(), 0.0),
        lambda: channel.install_key(1, 8, data_keys(), 0.0),
        lambda: channel.install_key(1, 1, DataKeys("CAST5-CBC", data_keys().send, data_keys().receive), 0.0),
        lambda: channel.activate_key(1, 5, 0.0),
        lambda: channel.add_peer(1, 1, HERE, 7, PeerLimits()),
        lambda: channel.add_peer(2, 1, HERE, 1 << 24, PeerLimits()),
        lambda: channel.update_peer(1, 0.0, peer_id=-1, limits=None),
    ):
        with pytest.raises(MisuseError):
            misuse()


@pytest.mark.parametrize(
    ("suite", "changes"), [(AES, {}), (AES, {"epoch": True}), ("AES-256-CBC", {}), ("AES-256-CBC", {"since": 7})]
)
def test_packets_that_are_too_late_are_replays(suite: str, changes: dict[str, Any]) -> None:
    """``replay-window``'s second number: at least so many seconds, at most a quarter more."""
    here, there = DataChannel(), DataChannel()
    bare = "since" in changes
    for channel in (here, there):
        channel.add_peer(1, 1, THERE, NO_PEER_ID if bare else 7, PeerLimits(replay_time=8.0, bare=bare))
        channel.install_key(1, 0, replace(data_keys(suite, reverse=channel is there), **changes), 100.0)
        channel.activate_key(1, 0, 100.0)
    late = [wire(here, INNER) for _ in range(8)]
    now = 100.0
    assert there.receive(1, THERE, wire(here, INNER), now) == INNER
    for packet, at in ((late[7], 104.0), (late[6], 107.9)):
        assert there.receive(1, THERE, packet, at) == INNER, "late, but not too late"
    assert there.receive(1, THERE, wire(here, INNER), 112.5) == INNER, "in order is never late"
    assert there.receive(1, THERE, late[5], 112.5) is None
    assert dropped(there) == (1, 0, 0)
    fresh = [wire(here, INNER) for _ in range(3)]
    assert there.receive(1, THERE, fresh[2], 500.0) == INNER
    assert there.receive(1, THERE, fresh[0], 501.0) == INNER, "nobody sent for long: what was lost then is still new"
    assert there.receive(1, THERE, fresh[1], 512.0) is None


def test_without_a_time_nothing_is_too_late() -> None:
    here, there = client(), far_end()
    first, second = wire(here, INNER), wire(here, INNER)
    assert there.receive(1, THERE, second, 100.0) == INNER
    assert there.receive(1, THERE, first, 1e6) == INNER
