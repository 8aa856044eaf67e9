# SPDX-License-Identifier: BSD-2-Clause
"""OCC messages on the data channel: what a peer asks about our settings and about packet sizes, and our answers.

A message is a magic number, an operation, and what belongs to it (OpenVPN's occ.c, occ.h)::

    0 REQUEST           1 REPLY         options string, NUL
    2 MTU_LOAD_REQUEST  size u16        3 MTU_LOAD    size u16, filling: a packet of that size
    4 MTU_REQUEST       5 MTU_REPLY     largest received u16, largest sent u16

Pure policy. The largest packets are those of this dialogue: a size test sends larger ones than any others. Answers are
rationed, for nobody needs many.
"""

from __future__ import annotations

from qubes_miragevpn.config.model import Common, Family, Proto
from qubes_miragevpn.dataplane.inband import OCC_MAGIC
from qubes_miragevpn.protocol.sizes import Carrier
from qubes_miragevpn.protocol.wire import occ

REQUEST, REPLY, LOAD_REQUEST, LOAD, SIZES_REQUEST, SIZES_REPLY = range(6)
ASK = OCC_MAGIC + bytes([REQUEST])
"""The question for the peer's options string."""

ASK_EVERY = 10.0  # seconds between two questions that are not answered (OCC_INTERVAL_SECONDS)
ASK_TIMES = 12  # questions (OCC_N_TRIES)
_NEGOTIATED = frozenset({"link-mtu", "auth", "keysize", "ifconfig"})
"""What of the options strings means nothing where the cipher is negotiated; two equals know their own addresses."""
ANSWER_EVERY = 0.1  # seconds from one answer to the next
LARGEST_LOAD = 1500  # bytes of a packet that is sent for its size alone


class Inquiries:
    """What is said about settings with one peer over one tunnel."""

    def __init__(self, ours: str, carrier: Carrier) -> None:
        """`ours` is our options string."""
        self._ours = ours
        self._carrier = carrier
        self._answered = float("-inf")
        self._received = self._sent = 0
        self._questions = 0  # left to ask
        self.ask_at = float("inf")

    def begin(self, now: float) -> None:
        """Ask for the peer's options string from now on, until it answers or for long enough."""
        self._questions, self.ask_at = ASK_TIMES, now

    @property
    def deadline(self) -> float | None:
        """When to ask for `question`."""
        return self.ask_at if self.ask_at < float("inf") else None

    def question(self, now: float) -> bytes:
        """What to ask now, or b""."""
        if now < self.ask_at:
            return b""
        self._questions -= 1
        self.ask_at = now + ASK_EVERY if self._questions else float("inf")
        return ASK

    def replied(self) -> bool:
        """The peer's answer is there; False if there was one before, or nobody asked."""
        wanted = self.ask_at < float("inf")
        self.ask_at = float("inf")
        return wanted

    def answer(self, message: bytes, size: int, now: float) -> bytes:
        """What to send in answer to `message`, which came in a packet of `size` bytes; b"": nothing."""
        self._received = max(self._received, min(size, 0xFFFF))
        reply = self._reply(message)
        if not reply or now < self._answered + ANSWER_EVERY:
            return b""
        self._answered = now
        self._sent = max(self._sent, self._carrier.packet_size(len(reply)))
        return reply

    def _reply(self, message: bytes) -> bytes:
        match message[0] if message else None:
            case 0:
                return OCC_MAGIC + bytes([REPLY]) + self._ours.encode() + b"\0"
            case 2 if len(message) >= 3:
                said = OCC_MAGIC + bytes([LOAD]) + message[1:3]
                room = min(int.from_bytes(message[1:3], "big"), LARGEST_LOAD) - self._carrier.packet_size(len(said))
                return said + bytes(max(room, 0))
            case 4:
                sizes = self._received.to_bytes(2, "big") + self._sent.to_bytes(2, "big")
                return OCC_MAGIC + bytes([SIZES_REPLY]) + sizes
        return b""


def differences(
    common: Common, proto: Proto, family: Family, theirs: str, *, server: bool, settled: frozenset[str] = frozenset()
) -> list[str]:
    """How the settings of a peer of a TLS session, which said `theirs`, differ from what ours need.

    `server`: that is what we are. `settled`: the names of what was agreed on otherwise. Nothing with ``disable-occ``.
    """
    if common.disable_occ:
        return []
    expected = occ.build(common, proto, family, server=not server)
    return occ.mismatches(expected, theirs, settled=_NEGOTIATED | settled)


def options_in(message: bytes) -> str:
    """The options string of a REPLY, untrusted; "" for any other message."""
    if message[:1] != bytes([REPLY]):
        return ""
    return message[1:].split(b"\0")[0].decode("ascii", "replace")
