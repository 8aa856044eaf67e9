# SPDX-License-Identifier: BSD-2-Clause
"""The epoch format: bytes on the wire, rotation by either end, and a peer that plays with epochs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.dataplane.formats.epoch import FUTURE, LAST_RECEIVED_EPOCH, RENEW_EPOCH, EpochKey
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, DirectionKeys, KeyExhausted, KeyInUse, PeerLimits
from qubes_miragevpn.dataplane.reference import DataChannel
from tests.unit.dataplane.packets import AES, HERE, THERE, SockAddr, ip_packet, wire

INNER = ip_packet("10.8.0.2", "198.51.100.7", b"payload of some length")
LIMIT = 2**36 - 1


def end(place: SockAddr, suite: str = AES, *, reverse: bool = False, peer_id: int = 7) -> DataChannel:
    ways = [DirectionKeys(Secret(bytes(range(n, n + 32)))) for n in (1, 101)]
    channel = DataChannel()
    channel.add_peer(1, 1, place, peer_id, PeerLimits())
    channel.install_key(1, 0, DataKeys(suite, *(ways[::-1] if reverse else ways), epoch=True), 100.0)
    channel.activate_key(1, 0, 100.0)
    return channel


def ends(suite: str = AES) -> tuple[DataChannel, DataChannel]:
    return end(HERE, suite), end(THERE, suite, reverse=True)


def key(channel: DataChannel) -> EpochKey:
    found = channel._peers.by_handle[1].keys[0]
    assert isinstance(found, EpochKey)
    return found


def dropped(channel: DataChannel) -> tuple[int, int, int]:
    counters = channel.counters(1)
    return counters.dropped_replay, counters.dropped_auth, counters.dropped_other


def forward(channel: DataChannel, epochs: int) -> None:
    for _ in range(epochs):
        key(channel)._iterate()


def sender_place(sender: DataChannel) -> SockAddr:
    return THERE if sender._peers.by_handle[1].endpoint == HERE else HERE


def passes(sender: DataChannel, receiver: DataChannel) -> bool:
    return receiver.receive(1, sender_place(sender), wire(sender, INNER), 100.0) == INNER


def test_known_answer_of_openvpn() -> None:
    vector = json.loads((Path(__file__).parents[3] / "vectors" / "epoch.json").read_text())["packet"]
    seed = vector["key_seed"].encode()
    way = DirectionKeys(Secret(bytes(seed[i % 32] ^ i for i in range(32))))
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, 0x17, PeerLimits())
    channel.install_key(1, 0, DataKeys(vector["suite"], way, way, epoch=True), 0.0)
    channel.activate_key(1, 0, 0.0)
    key(channel).header = bytes.fromhex(vector["header"])  # the vector's first byte is no opcode of ours
    forward(channel, vector["epoch"] - 1)
    channel.send_inner(1, vector["plaintext"].encode(), 0.0)
    packet = channel.outbox[0][2]
    assert packet[:12].hex() == vector["header"] + vector["packet_id"]
    assert packet[-16:].hex() == vector["tag"]
    assert packet[12:][6:12].hex() == vector["ciphertext_from_6_to_12"]


@pytest.mark.parametrize("suite", ["AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305"])
def test_round_trip_and_layout(suite: str) -> None:
    here, there = ends(suite)
    for number in range(1, 4):
        packet = wire(here, INNER)
        assert packet[:12].hex() == f"480000070001{number:012x}"
        assert len(packet) == 12 + len(INNER) + 16
        assert there.receive(1, THERE, packet, 100.0) == INNER
    assert passes(there, here)


def test_every_flipped_bit_and_truncation() -> None:
    here, there = ends()
    packet = wire(here, INNER)
    for bit in range(8, len(packet) * 8):
        bent = bytearray(packet)
        bent[bit // 8] ^= 1 << bit % 8
        assert there.receive(1, THERE, bytes(bent), 100.0) is None
    for length in range(1, len(packet)):
        assert there.receive(1, THERE, packet[:length], 100.0) is None
    assert there.events == []
    assert (key(there).current.epoch, key(there).send_epoch) == (1, 1)
    before = dropped(there)[0]  # counter 1 with its last bit turned over is 0
    assert there.receive(1, THERE, packet, 100.0) == INNER
    assert there.receive(1, THERE, packet, 100.0) is None
    assert dropped(there)[0] == before + 1


def test_the_other_end_follows() -> None:
    here, there = ends()
    forward(here, 1)
    assert passes(here, there)
    assert (key(there).current.epoch, key(there).send_epoch) == (2, 2)
    assert passes(there, here)
    assert (key(here).current.epoch, key(here).send_epoch) == (2, 2)


@pytest.mark.parametrize(
    ("jump", "taken"), [(1, True), (FUTURE - 1, True), (FUTURE, True), (FUTURE + 1, False), (100, False)]
)
def test_jumps(jump: int, taken: bool) -> None:
    here, there = ends()
    assert passes(here, there)
    forward(here, jump)
    assert passes(here, there) is taken
    assert key(there).current.epoch == (1 + jump if taken else 1)
    now = key(there).current.epoch
    assert sorted(key(there)._future) == list(range(now + 1, now + 1 + FUTURE))
    assert dropped(there) == (0, 0, 0 if taken else 1)


def test_only_one_past_epoch_is_taken() -> None:
    here, there = ends()
    packets = []
    for _ in range(4):
        packets.append([wire(here, INNER), wire(here, INNER)])
        forward(here, 1)
    assert there.receive(1, THERE, packets[0][0], 100.0) == INNER
    assert there.receive(1, THERE, packets[2][0], 100.0) == INNER  # 1 retires, 2 is gone
    assert there.receive(1, THERE, packets[0][1], 100.0) == INNER
    assert there.receive(1, THERE, packets[0][0], 100.0) is None  # its window is its own
    assert there.receive(1, THERE, packets[1][0], 100.0) is None
    assert there.receive(1, THERE, packets[3][0], 100.0) == INNER
    assert there.receive(1, THERE, packets[0][1], 100.0) is None
    assert there.receive(1, THERE, packets[2][1], 100.0) == INNER
    assert dropped(there) == (1, 0, 2)
    assert key(there).current.epoch == 4


def test_the_counter_restarts_and_zero_is_invalid() -> None:
    here, there = ends()
    for _ in range(3):
        wire(here, INNER)
    forward(here, 1)
    assert wire(here, INNER)[4:12].hex() == "0002000000000001"
    key(here)._counter = -1
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None
    assert dropped(there) == (1, 0, 0)


def test_forged_epochs_move_nothing() -> None:
    _, there = ends()
    rng = random.Random(1)
    for epoch in [0, 1, 2, 1 + FUTURE, 2 + FUTURE, 0x7FFF, 0xFFFF] * 3:
        packet = b"\x48\0\0\7" + epoch.to_bytes(2, "big") + rng.randbytes(6 + 40)
        assert there.receive(1, THERE, packet, 100.0) is None
    assert dropped(there) == (0, 9, 12)
    assert (key(there).current.epoch, key(there).send_epoch, key(there).retiring) == (1, 1, None)


def test_data_v1_is_no_epoch_packet() -> None:
    here, there = ends()
    packet = wire(here, INNER)
    assert there.receive(1, THERE, bytes([6 << 3]) + packet[4:], 100.0) is None
    assert dropped(there) == (0, 0, 1)
    for misuse in (lambda: end(HERE, peer_id=NO_PEER_ID), lambda: end(HERE, "AES-256-CBC")):
        with pytest.raises(MisuseError):
            misuse()


# --- limits


@pytest.mark.parametrize("suite", [AES, "CHACHA20-POLY1305"])
def test_the_sender_iterates_at_its_usage_limit(suite: str) -> None:
    here, there = ends(suite)
    key(here)._blocks = LIMIT - 1
    assert passes(here, there)  # counter 1, and 4 blocks more
    assert passes(here, there)
    expected = 2 if suite == AES else 1
    assert (key(here).send_epoch, key(there).send_epoch) == (expected, expected)
    assert here.events == []


def test_the_counter_never_wraps() -> None:
    here, _ = ends("CHACHA20-POLY1305")
    key(here)._counter = (1 << 48) - 2
    assert wire(here, INNER)[4:12].hex() == "0001ffffffffffff"
    assert wire(here, INNER)[4:12].hex() == "0002000000000001"


def test_overuse_by_the_peer_moves_our_own_epoch_once() -> None:
    here, there = ends()
    key(there).current.blocks = LIMIT
    assert passes(here, there) and passes(here, there)
    assert (key(there).send_epoch, key(there).current.epoch) == (2, 1)
    assert passes(there, here)
    assert key(here).send_epoch == 2
    assert passes(here, there)
    assert (key(there).current.epoch, key(there).current.blocks) == (2, 3)


def test_forgeries_move_our_own_epoch_and_wear_the_key_out_at_last() -> None:
    here, there = ends()
    good = wire(here, INNER)
    bad = good[:-1] + bytes([good[-1] ^ 1])
    key(there).failed_tags = 1 << 35
    there.receive(1, THERE, bad, 100.0)
    assert (key(there).send_epoch, key(there).spent) == (2, False)
    key(there).failed_tags = 1 << 36
    there.receive(1, THERE, bad, 100.0)
    assert key(there).spent and there.receive(1, THERE, good, 100.0) is None


def at(channel: DataChannel, send: int, receive: int) -> None:
    """Pretend that so many epochs have passed; the keys are those of the chain's first ones."""
    made = key(channel)
    made._send_chain.epoch, made._receive_chain.epoch = send, receive + FUTURE
    made.current.epoch = receive
    made._future = {receive + n: made._future[1 + n] for n in range(1, 1 + FUTURE)}
    for number, future in made._future.items():
        future.epoch = number


def test_late_epochs_ask_for_a_new_key_and_the_last_ones_are_not_received() -> None:
    here, there = ends()
    at(here, RENEW_EPOCH - 1, 1)
    assert wire(here, INNER) and here.events == []
    forward(here, 1)
    assert wire(here, INNER)
    assert here.events == [KeyExhausted(1, 0)]
    here, there = ends()
    at(there, LAST_RECEIVED_EPOCH - 1, LAST_RECEIVED_EPOCH - 1)
    at(here, LAST_RECEIVED_EPOCH - 1, 1)
    assert passes(here, there)
    forward(here, 1)
    assert passes(here, there)
    assert key(there).current.epoch == LAST_RECEIVED_EPOCH
    forward(here, 1)
    assert not passes(here, there)


def test_the_very_last_epoch_is_used_up() -> None:
    here, _ = ends()
    at(here, 0xFFFF, 1)
    key(here)._blocks = LIMIT
    assert here.send(INNER, 100.0) is not None
    assert here.send(INNER, 100.0) is None
    assert KeyExhausted(1, 0) in here.events


def test_random_rotation_over_a_reordering_link() -> None:
    """Whatever the two do within the window of epochs, nothing is lost but what came too late."""
    rng = random.Random(9)
    here, there = ends()
    for _ in range(300):
        here, there = there, here
        sender, receiver = here, there
        if rng.random() < 0.2:
            forward(sender, rng.randint(1, 2))
        packets = [wire(sender, INNER) for _ in range(rng.randint(1, 20))]
        rng.shuffle(packets)
        place = sender_place(sender)
        assert all(receiver.receive(1, place, packet, 100.0) == INNER for packet in packets)
        assert key(receiver).send_epoch >= key(sender).send_epoch
    assert here.events == there.events == [KeyInUse(1, 0)]
