# SPDX-License-Identifier: BSD-2-Clause
"""The reliability layer of one key slot: ordered, acknowledged delivery of control packets.

Message ids count from 0 in each direction. At most `SEND_WINDOW` packets are unacknowledged; a packet that is not
acknowledged is sent again after a time that doubles up to `MAX_RETRY` (unbounded doubling was CVE-2026-84732), or at
once when `FAST_RETRANSMIT` later ones were acknowledged. What arrives early waits in a buffer of `RECEIVE_WINDOW`;
what arrives twice is acknowledged again. Old acknowledgements are repeated in the room that is left, so that a lost
one costs nothing. Source: wire-protocol draft, "Reliability layer"; OpenVPN reliable.c.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.protocol.wire.packet import MAX_ACKS, Opcode

SEND_WINDOW = 6
RECEIVE_WINDOW = 12
ACKS_ON_CONTROL = 4  # piggy-backed; OpenVPN's CONTROL_SEND_ACK_MAX
MAX_RETRY = 16.0  # seconds; four attempts after the first within a hand-window of 60 s at the very least
FAST_RETRANSMIT = 3
MAX_QUEUED = 80_000
"""Bytes waiting for the window, `PACKET_COST` included: several times the longest certificate chain that is allowed."""
PACKET_COST = 16  # what an empty packet counts for


@dataclass
class Outgoing:
    """A packet that was sent and not acknowledged yet."""

    message_id: int
    opcode: Opcode
    payload: bytes
    due: float
    timeout: float
    passed: int = 0  # later packets that were acknowledged


@dataclass(frozen=True)
class Incoming:
    """A packet that arrived in order."""

    opcode: Opcode
    payload: bytes


@dataclass
class Reliability:
    """Send and receive side of one key slot. `retry` is the first retransmission time, 0 on a reliable transport."""

    retry: float
    first_send_id: int = 0
    first_receive_id: int = 0
    _waiting: deque[tuple[Opcode, bytes]] = field(default_factory=deque)
    _flying: dict[int, Outgoing] = field(default_factory=dict)
    _early: dict[int, Incoming] = field(default_factory=dict)
    _to_ack: deque[int] = field(default_factory=deque)
    _acked: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_ACKS))

    def __post_init__(self) -> None:
        self._next_send = self.first_send_id
        self._queued = 0
        self._next_receive = self.first_receive_id

    # --- sending

    def queue(self, opcode: Opcode, payload: bytes) -> None:
        """Have `payload` sent as soon as the window allows; raises `PeerError` when the peer never acknowledges."""
        self._queued += len(payload) + PACKET_COST
        if self._queued > MAX_QUEUED:
            raise PeerError("too many control packets wait for an acknowledgement", Consequence.END_SESSION)
        self._waiting.append((opcode, payload))

    def due(self, now: float) -> list[Outgoing]:
        """Return the packets to transmit now, new ones and again, and schedule their next time."""
        while self._waiting and len(self._flying) < SEND_WINDOW:
            opcode, payload = self._waiting.popleft()
            self._queued -= len(payload) + PACKET_COST
            self._flying[self._next_send] = Outgoing(self._next_send, opcode, payload, now, self.retry)
            self._next_send += 1
        ready = [packet for packet in self._flying.values() if packet.due <= now]
        for packet in ready:
            packet.due = now + packet.timeout if self.retry else float("inf")
            packet.timeout = min(packet.timeout * 2, MAX_RETRY)
            packet.passed = 0
        return ready

    def send_again(self, now: float) -> None:
        """Have everything that is not acknowledged sent now, because the peer shows that it heard nothing."""
        for packet in self._flying.values():
            packet.due = now

    def next_deadline(self) -> float | None:
        """When `due` has something next, or None."""
        if self._waiting and len(self._flying) < SEND_WINDOW:
            return 0.0
        times = [packet.due for packet in self._flying.values() if packet.due != float("inf")]
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent or acknowledged."""
        return not self._waiting and not self._flying

    # --- receiving

    def acknowledge(self, acks: tuple[int, ...], now: float) -> None:
        """Take the peer's acknowledgements; ids that were never sent, or are done, change nothing."""
        for ack in acks:
            if self._flying.pop(ack, None) is None:
                continue
            for packet in self._flying.values():
                if packet.message_id < ack:
                    packet.passed += 1
                    if packet.passed >= FAST_RETRANSMIT and self.retry:
                        packet.due = now

    def receive(self, message_id: int, packet: Incoming) -> list[Incoming]:
        """Take one packet and return all that are in order now.

        A packet beyond the window is dropped unacknowledged (`PeerError`); a repeated one is acknowledged again.
        """
        ahead = message_id - self._next_receive
        if ahead >= RECEIVE_WINDOW:
            raise PeerError(f"message id {message_id} is beyond the window from {self._next_receive}")
        if message_id not in self._to_ack:
            self._to_ack.append(message_id)
            if len(self._to_ack) > 4 * RECEIVE_WINDOW:
                self._to_ack.popleft()
        if ahead < 0 or message_id in self._early:
            return []
        self._early[message_id] = packet
        ready = []
        while (following := self._early.pop(self._next_receive, None)) is not None:
            ready.append(following)
            self._next_receive += 1
        return ready

    # --- acknowledgements to send

    @property
    def must_ack(self) -> bool:
        """Something was received that no packet has acknowledged yet."""
        return bool(self._to_ack)

    def take_acks(self, room: int) -> tuple[int, ...]:
        """Return up to `room` acknowledgements: fresh ones first, then the latest old ones again."""
        fresh = [self._to_ack.popleft() for _ in range(min(room, len(self._to_ack)))]
        again = [ack for ack in reversed(self._acked) if ack not in fresh][: room - len(fresh)]
        for ack in fresh:
            if ack in self._acked:
                self._acked.remove(ack)
            self._acked.append(ack)
        return (*fresh, *again)
