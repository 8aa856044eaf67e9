# SPDX-License-Identifier: BSD-2-Clause
"""A server that a test scripts packet by packet, against a real client machine: no protection, UDP, a fake clock.

It obeys nothing by itself but the reliability layer and TLS, so that a script reads: answer the reset, shake hands,
say this. Every step may be left out, repeated or done wrong. Whatever is thrown, `require_sound` holds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from OpenSSL import SSL

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Identity, PeerPolicy, TlsChoices, TlsVersions
from qubes_miragevpn.crypto.kdf import KeySource
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.protocol.control.tls import make_context
from qubes_miragevpn.protocol.wire import keymethod2
from qubes_miragevpn.protocol.wire.packet import HEAD_SIZE, Body, Head, Opcode, read_body, read_head
from tests.interop.pki import Pem, Pki
from tests.pair.hostile.means.attacker import MAX_EFFECTS, require_sound
from tests.pair.world import SERVER_AT, client_config

SID = b"rogue-01"
PIECE = 1100  # bytes of TLS in one packet
PUSH = "PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0,topology subnet,route-gateway 10.8.0.1,cipher AES-256-GCM"
HELLO = keymethod2.KeyMethod2(
    KeySource(Secret(b""), bytes(32), bytes(range(32))), "V4,dev-type tun,tls-server", "", Secret(b""), ""
)


def tls_context(pki: Pki, version: tuple[int, int] | None = None, who: Pem | None = None) -> SSL.Context:
    """What an honest server would use; `version` pins TLS, `who` is the certificate."""
    pem = who or pki.server
    versions = TlsVersions(maximum=version, minimum=version or (1, 2))
    identity = Identity(pem.certificate.encode(), Secret(pem.key.encode()))
    return make_context(identity, PeerPolicy(ca_pem=pki.ca.encode()), versions, TlsChoices(), server=True)


class Line:
    """One key id: its TLS session and its message ids."""

    def __init__(self, key_id: int, context: SSL.Context) -> None:
        self.key_id = key_id
        self.tls = SSL.Connection(context, None)
        self.tls.set_accept_state()
        self.sent = 0
        self.expected = 0
        self.to_ack: list[int] = []

    def take(self, body: Body, opcode: Opcode) -> None:
        """What the client sent; in order, since nothing is lost here."""
        if body.message_id is None:
            return
        self.to_ack.append(body.message_id)
        if body.message_id == self.expected:
            self.expected += 1
            if opcode is Opcode.CONTROL and body.payload:
                self.tls.bio_write(body.payload)


class Rogue:
    """See the module's docstring."""

    def __init__(self, pki: Pki, context: SSL.Context | None = None, **config: Any) -> None:
        dice = random.Random(7)
        self.machine = Client(client_config(pki, **config), entropy=dice.randbytes, unix_time=lambda: 1_700_000_000)
        self.context = context or tls_context(pki)
        self.now = 1000.0
        self.seen: list[c.Effect] = []  # every effect but packets
        self.packets: list[bytes] = []  # the client's
        self.thrown = 0  # bytes
        self.last_output = b""  # of our TLS
        self.client_sid = b""
        self.sid = SID
        self._numbers = itertools.count(1)
        self.begin()

    def begin(self) -> None:
        """The client opens its transport and sends its reset."""
        self.key_id = 0
        self.lines: dict[int, Line] = {0: Line(0, self.context)}
        if not self.seen:
            self.event(c.UserCommand(c.Command.CONNECT))
        opened = self.effects(c.OpenTransport)[-1]
        self.link = opened.link
        self.event(c.TransportUp(self.link, SERVER_AT))

    @property
    def line(self) -> Line:
        """The newest."""
        return self.lines[self.key_id]

    def effects(self, kind: type[Any]) -> list[Any]:
        """The effects of one type so far."""
        return [effect for effect in self.seen if isinstance(effect, kind)]

    @property
    def lost(self) -> bool:
        """The client has ended the attempt."""
        return any(effect.link == self.link for effect in self.effects(c.CloseTransport))

    @property
    def up(self) -> bool:
        """The client takes us for its server."""
        return len(self.effects(c.TunnelUp)) > len(self.effects(c.TunnelDown))

    def said(self) -> str:
        """Everything that the client told the log."""
        return "\n".join(str(effect) for effect in self.seen if isinstance(effect, c.Notify | c.Drop | c.Stop))

    def client_stream(self) -> bytes:
        """The TLS bytes of the client's packets so far."""
        packets = [packet for packet in self.packets if read_head(packet).opcode is Opcode.CONTROL]
        return b"".join(read_body(Opcode.CONTROL, packet[HEAD_SIZE:]).payload for packet in packets)

    # --- events

    def event(self, event: c.Event) -> list[c.Effect]:
        """Hand `event` over, read what the client sends; returns the other effects."""
        effects = self.machine.handle(event, self.now)
        assert len(effects) <= MAX_EFFECTS, (event, effects)
        require_sound(self, effects)
        new = [effect for effect in effects if not isinstance(effect, c.Transmit)]
        self.seen += new
        for effect in effects:
            if isinstance(effect, c.Transmit):
                self._read(effect.packet)
        return new

    def _read(self, packet: bytes) -> None:
        self.packets.append(packet)
        head = read_head(packet)
        self.client_sid = head.sid
        line = self.lines.get(head.key_id)
        if line is not None:
            line.take(read_body(head.opcode, packet[HEAD_SIZE:]), head.opcode)

    def wait(self, seconds: float) -> None:
        """Let time pass; every deadline of the client is kept."""
        end = self.now + seconds
        for _ in range(100_000):
            deadline = self.machine.next_deadline()
            if deadline is None or deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.event(c.TimerExpired())
        raise AssertionError("the client never rests")

    # --- packets

    def throw(
        self, opcode: Opcode, message_id: int | None, payload: bytes = b"", *, key_id: int = 0,
        acks: tuple[int, ...] = (), sid: bytes | None = None, to: bytes | None = None,
    ) -> list[c.Effect]:  # fmt: skip
        """One packet, made of these parts as they are."""
        remote = (self.client_sid if to is None else to) if acks else None
        return self.raw(
            Head(opcode, key_id, sid or self.sid).encode() + Body(acks, remote, message_id, payload).encode()
        )

    def raw(self, packet: bytes) -> list[c.Effect]:
        """One packet."""
        self.thrown += len(packet)
        return self.event(c.PacketReceived(self.link, SERVER_AT, packet))

    def reset(self, payload: bytes = b"") -> list[c.Effect]:
        """The answer to the client's reset."""
        self.lines[0].sent = 1
        self.lines[0].to_ack.clear()
        return self.throw(Opcode.HARD_RESET_SERVER, 0, payload, acks=(0,))

    def speak(self, data: bytes, piece: int = PIECE) -> None:
        """TLS bytes, in as many packets as they need, until the client has had enough."""
        line = self.line
        for start in range(0, len(data), piece):
            if self.lost:
                return
            acks, line.to_ack = tuple(line.to_ack[:8]), line.to_ack[8:]
            message_id, line.sent = line.sent, line.sent + 1
            self.throw(Opcode.CONTROL, message_id, data[start : start + piece], key_id=line.key_id, acks=acks)

    def flush(self) -> bool:
        """Send what TLS has to say and acknowledge the rest; tell whether there was anything."""
        output = self.last_output = b"".join(self._output())
        self.speak(output)
        self.acknowledge()
        return bool(output)

    def acknowledge(self) -> None:
        """A bare acknowledgement of all that came."""
        line = self.line
        while line.to_ack and not self.lost:
            acks, line.to_ack = tuple(line.to_ack[:8]), line.to_ack[8:]
            self.throw(Opcode.ACK, None, key_id=line.key_id, acks=acks)

    def _output(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.line.tls.bio_read(65536)
            except SSL.Error:
                return

    # --- the steps of an honest server

    def handshake(self) -> Rogue:
        """Answer the reset and do TLS, as far as it goes."""
        if not self.lines[0].sent:
            self.reset()
        for _ in range(20):
            try:
                self.line.tls.do_handshake()
                self.flush()
                return self
            except SSL.WantReadError:
                pass
            except SSL.Error:
                self.flush()
                return self
            if not self.flush():
                return self
        raise AssertionError("a handshake without end")

    def introduce(self, record: bytes | None = None) -> Rogue:
        """Key method 2, ours or `record`."""
        self.record(keymethod2.encode(HELLO) if record is None else record)
        return self

    def record(self, *records: bytes) -> None:
        """Application data inside TLS, a record each."""
        for record in records:
            if not self.lost:
                self.line.tls.send(record)
                self.flush()

    def say(self, *messages: str | bytes) -> Rogue:
        """Control messages, each in a record of its own."""
        self.record(*((m.encode() if isinstance(m, str) else m) + b"\0" for m in messages))
        return self

    def established(self) -> Rogue:
        """Everything before the push."""
        return self.handshake().introduce()

    def working(self) -> Rogue:
        """A tunnel that works."""
        self.established().say(PUSH)
        assert self.up, self.said()
        return self

    def renegotiate(self, *, both: bool = False) -> Rogue:
        """Begin a renegotiation, with `both` at the same time as the client, and do it as far as TLS."""
        self.key_id = self.key_id % 7 + 1
        self.lines[self.key_id] = line = Line(self.key_id, self.context)
        if both:
            self.event(c.UserCommand(c.Command.RENEGOTIATE))
        self.throw(Opcode.SOFT_RESET, 0, key_id=self.key_id)
        line.sent = 1
        return self.handshake()
