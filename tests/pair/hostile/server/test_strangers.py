# SPDX-License-Identifier: BSD-2-Clause
"""Somebody without a certificate, who completes the cookie's round trip or tries to."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.control.tls import MAX_TLS_INPUT
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode
from tests.interop.pki import Pki
from tests.pair.hostile import STRANGER, Attacker, sessions
from tests.pair.hostile.means.records import ALERT, CHANGE_CIPHER, DATA, HANDSHAKE, message, record
from tests.pair.test_handshake import WRAPS, connected
from tests.pair.world import World, client_config, server_config

SID = b"strange!"
PIECE = 1000
FLOOD = 16 * 1024 * 1024
LONGEST_ACK = 9 + 1 + 8 * 4 + 8

FLOODS: dict[str, Callable[[int], bytes]] = {
    "zeros": lambda _: bytes(PIECE),
    "hello requests": lambda _: record(HANDSHAKE, message(0, b"") * 200),
    "a hello of 16 MB": lambda n: record(HANDSHAKE, message(1, b"", 0xFFFFFF) if not n else bytes(16000)),
    "warnings": lambda _: record(ALERT, b"\x01\x5a") * 100,
    "change of ciphers": lambda _: record(CHANGE_CIPHER, b"\x01") * 100,
    "empty records": lambda _: record(HANDSHAKE, b"") * 100,
    "records that never end": lambda n: record(HANDSHAKE, b"", size=16384) if not n else b"\x02",
    "too long a record": lambda _: record(HANDSHAKE, bytes(20000)),
    "data": lambda _: record(DATA, bytes(PIECE)),
}


class Stranger:
    """One who proved his address and has a session of which TLS is only beginning."""

    def __init__(self, pki: Pki) -> None:
        self.world = World(server_config(pki))
        self.attacker = Attacker(self.world, 1)
        self.thrown = self.answered = self.packets = 0
        self._ids = itertools.count(1)
        reset = Head(Opcode.HARD_RESET_CLIENT, 0, SID).encode() + Body((), None, 0).encode()
        [answer] = self.throw(reset)
        self._sid = answer[1:9]
        self.throw(Head(Opcode.ACK, 0, SID).encode() + Body((0,), self._sid, None).encode())
        assert self.known

    @property
    def known(self) -> bool:
        return bool(sessions(self.world.server.machine))

    def throw(self, packet: bytes) -> list[bytes]:
        effects = self.attacker.throw(self.world.server, packet, STRANGER)
        answers = [each.packet for each in effects if isinstance(each, c.Transmit)]
        self.thrown += len(packet)
        self.packets += 1
        self.answered += sum(map(len, answers))
        return answers

    def speak(self, data: bytes) -> None:
        """Send `data` as TLS bytes."""
        for at in range(0, len(data), PIECE):
            if self.known:
                body = Body((), None, next(self._ids), data[at : at + PIECE])
                self.throw(Head(Opcode.CONTROL, 0, SID).encode() + body.encode())


@pytest.mark.parametrize("what", FLOODS)
def test_floods_instead_of_a_handshake(pki: Pki, what: str) -> None:
    stranger = Stranger(pki)
    for n in range(FLOOD // PIECE):
        if not stranger.known:
            break
        stranger.speak(FLOODS[what](n))
    assert not stranger.known and stranger.thrown < 1.2 * MAX_TLS_INPUT, stranger.thrown
    assert stranger.answered < LONGEST_ACK * stranger.packets + 4096, "an acknowledgement for each packet, no more"


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_handshake_cut_at_every_byte(pki: Pki, wrap: str) -> None:
    """Every packet of a handshake that worked, in pieces, to the server that had it: nothing begins, nothing ends."""
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    known = sessions(world.server.machine)
    packets = [packet for sender, packet in world.wire if sender is client and packet[0] >> 3 not in (6, 9)]
    sent = len(world.server.sent)
    attacker = Attacker(world, 1)
    for packet in packets:
        for size in {*range(min(len(packet), 120)), *range(120, len(packet), 31)}:
            for place in (client.place, STRANGER):
                attacker.throw(world.server, packet[:size], place)  # type: ignore[arg-type]
    assert sessions(world.server.machine) == known and not world.server.effects(c.RemovePeer)
    answers = world.server.sent[sent:]
    assert wrap == "none" or not answers
    assert all(len(answer) <= LONGEST_ACK for answer in answers), "acknowledgements at most"
