# SPDX-License-Identifier: BSD-2-Clause
"""A server that breaks the reliability layer: acknowledgements, session ids, replays, resets in every state."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.control.reliability import MAX_RETRY, RECEIVE_WINDOW
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import MAX_CONTROL_PACKET, Opcode, read_body, read_head
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import PUSH, SID, Rogue

OTHER = b"rogue-02"
FAR = (0xFFFFFFFF, 0x80000000, 1000, 7, 6)


def begun(rogue: Rogue) -> None:
    """The client has sent its reset and heard nothing."""


def shaken(rogue: Rogue) -> None:
    rogue.reset()


def exchanging(rogue: Rogue) -> None:
    rogue.handshake()


def waiting(rogue: Rogue) -> None:
    rogue.established()


def working(rogue: Rogue) -> None:
    rogue.working()


def renewing(rogue: Rogue) -> None:
    rogue.working().renegotiate()


STATES: tuple[Callable[[Rogue], None], ...] = (begun, shaken, exchanging, waiting, working, renewing)


def in_state(pki: Pki, reach: Callable[[Rogue], None]) -> Rogue:
    rogue = Rogue(pki)
    reach(rogue)
    return rogue


def still_good(rogue: Rogue, reach: Callable[[Rogue], None]) -> None:
    """Whatever was thrown changed nothing: the honest rest of the script leads to a tunnel."""
    assert not rogue.lost, rogue.said()
    if reach in (begun, shaken):
        rogue.handshake()
    if reach in (begun, shaken, exchanging):
        rogue.introduce()
    if reach not in (working, renewing):
        rogue.say(PUSH)
    if reach is renewing:
        rogue.introduce()
    assert rogue.up, rogue.said()


def only_drops(effects: list[c.Effect]) -> bool:
    return all(isinstance(effect, c.Drop) for effect in effects)


@pytest.mark.parametrize("reach", STATES)
def test_resets_in_every_state(pki: Pki, reach: Callable[[Rogue], None]) -> None:
    """All kinds, all key ids, of our session and of another: at most one is acknowledged again."""
    rogue = in_state(pki, reach)
    sent = len(rogue.packets)
    kinds = (Opcode.HARD_RESET_CLIENT, Opcode.HARD_RESET_SERVER, Opcode.HARD_RESET_CLIENT_V3, Opcode.CONTROL_WKC)
    for opcode, key_id, message_id, sid in itertools.product(kinds, (0, 1, 7), (0, 1, 5), (SID, OTHER)):
        if reach is begun and (opcode, key_id, message_id) == (Opcode.HARD_RESET_SERVER, 0, 0):
            continue  # which is what it waits for
        assert only_drops(rogue.throw(opcode, message_id, key_id=key_id, sid=sid, acks=(0,)))
    assert len(rogue.packets) - sent <= 3
    still_good(rogue, reach)


@pytest.mark.parametrize("reach", STATES)
def test_soft_resets_that_skip_or_come_too_early(pki: Pki, reach: Callable[[Rogue], None]) -> None:
    rogue = in_state(pki, reach)
    following = rogue.key_id + 1
    for key_id in range(8):
        if key_id == following and reach in (waiting, working):
            continue  # the one that is due
        for message_id, sid in itertools.product((0, 1, 3), (SID, OTHER)):
            assert only_drops(rogue.throw(Opcode.SOFT_RESET, message_id, key_id=key_id, sid=sid))
    still_good(rogue, reach)


@pytest.mark.parametrize("reach", STATES[1:])
def test_another_session_id_is_another_peer(pki: Pki, reach: Callable[[Rogue], None]) -> None:
    rogue = in_state(pki, reach)
    key_id, next_id = rogue.line.key_id, rogue.line.sent
    for opcode, message_id in ((Opcode.CONTROL, next_id), (Opcode.ACK, None), (Opcode.HARD_RESET_SERVER, 0)):
        for sid, to in ((OTHER, None), (SID, OTHER), (OTHER, OTHER), (bytes(8), None), (SID, SID)):
            effects = rogue.throw(opcode, message_id, b"", key_id=key_id, acks=(0,), sid=sid, to=to)
            assert effects and only_drops(effects)
    still_good(rogue, reach)


@pytest.mark.parametrize("reach", STATES[1:])
def test_acknowledgements_of_what_was_never_sent(pki: Pki, reach: Callable[[Rogue], None]) -> None:
    rogue = in_state(pki, reach)
    key_id, before = rogue.line.key_id, rogue.machine.next_deadline()
    for acks in ((far,) for far in FAR):
        rogue.throw(Opcode.ACK, None, key_id=key_id, acks=acks)
    rogue.throw(Opcode.ACK, None, key_id=key_id, acks=(0xFFFFFFFF,) * 8)
    assert rogue.machine.next_deadline() == before, "no timer changed"
    still_good(rogue, reach)


@pytest.mark.parametrize("reach", STATES)
def test_malformed_packets_in_every_state(pki: Pki, reach: Callable[[Rogue], None]) -> None:
    rogue = in_state(pki, reach)
    sid, key_id = rogue.sid, rogue.line.key_id
    own = rogue.client_sid
    for opcode in range(32):
        head = bytes((opcode << 3 | key_id,)) + sid
        for body in (
            b"", b"\0", b"\1", b"\x09" + bytes(60), b"\xff" + bytes(2000), b"\1" + bytes(4) + own[:7], b"\0\0\0\0",
            bytes(MAX_CONTROL_PACKET), b"\0" + (RECEIVE_WINDOW + 50).to_bytes(4, "big"), b"\0\xff\xff\xff\xff",
        ):  # fmt: skip
            assert only_drops(rogue.raw(head + body)), (opcode, body)
    assert only_drops(rogue.raw(b""))
    still_good(rogue, reach)


def test_replays_of_every_packet(pki: Pki) -> None:
    """A whole recorded connection once more, in and out of order: every packet is acknowledged or dropped, no more."""
    rogue = Rogue(pki)
    recorded: list[bytes] = []
    raw = rogue.raw

    def record(packet: bytes) -> list[c.Effect]:
        recorded.append(packet)
        return raw(packet)

    rogue.raw = record  # type: ignore[method-assign]
    rogue.working()
    rogue.raw = raw  # type: ignore[method-assign]
    before = len(rogue.seen)
    for packet in (*recorded, *reversed(recorded), *recorded):
        rogue.raw(packet)
    assert only_drops(rogue.seen[before:])
    assert all(read_head(packet).opcode is Opcode.ACK for packet in rogue.packets[-2 * len(recorded) :])
    assert rogue.up


def test_packets_beyond_the_window_keep_nothing(pki: Pki) -> None:
    rogue = Rogue(pki).handshake()
    for message_id in range(1000):
        rogue.throw(Opcode.CONTROL, rogue.line.sent + 1 + message_id, bytes(1200))
    layer = rogue.machine._state._session._slots[0].reliability  # type: ignore[union-attr]
    assert len(layer._early) == RECEIVE_WINDOW - 1
    assert not rogue.lost


def test_a_server_that_acknowledges_nothing_hears_no_more_than_the_timers_say(pki: Pki) -> None:
    """The reset is answered and then nothing; a day of retransmissions is capped and given up."""
    rogue = Rogue(pki)
    rogue.throw(Opcode.HARD_RESET_SERVER, 0, acks=(99,))
    began = len(rogue.packets)
    rogue.wait(59)
    hello = [p for p in rogue.packets[began:] if read_head(p).opcode is Opcode.CONTROL]
    pieces = {read_body(Opcode.CONTROL, p[9:]).message_id for p in hello}
    assert len(hello) <= len(pieces) * 7 and MAX_RETRY <= 60
    rogue.wait(2)
    assert rogue.lost


@pytest.mark.parametrize(
    ("payload", "taken"),
    [
        (b"", True), (earlyneg.ask_wrapped_key(), True), (earlyneg.ask_wrapped_key() * 250, True),
        (bytes.fromhex("00020000") * 250, True), (bytes.fromhex("ffff0001aa"), True), (bytes.fromhex("0001"), False),
        (bytes.fromhex("00010002"), False), (bytes.fromhex("0001ffff0001"), False), (bytes.fromhex("00010000"), False),
        (bytes.fromhex("0001000101"), False), (bytes.fromhex("000100020001" "00"), False),
    ],
)  # fmt: skip
def test_early_negotiation_that_asks_for_a_key_we_have_not(pki: Pki, payload: bytes, taken: bool) -> None:
    rogue = Rogue(pki)
    effects = rogue.reset(payload)
    assert bool(effects) is not taken and only_drops(effects)
    assert not any(read_head(packet).opcode is Opcode.CONTROL_WKC for packet in rogue.packets)
    if not taken:
        rogue.lines[0].sent = 0
    still_good(rogue, begun)


@pytest.mark.parametrize("both", [False, True])
def test_renegotiations_over_and_over(pki: Pki, both: bool) -> None:
    rogue = Rogue(pki).working()
    for _ in range(20):
        rogue.renegotiate(both=both).introduce()
    assert rogue.up and len(rogue.effects(c.InstallKey)) == 21
    assert len(rogue.effects(c.RetireKey)) == 19
