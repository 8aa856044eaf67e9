# SPDX-License-Identifier: BSD-2-Clause
"""Stateless admission of UDP clients: a reset is answered once, and nothing is kept until the address is proved.

The server's session id is a MAC over time slot, place, client address and client session id, so the client's next
packet, which must acknowledge it, proves that the answer reached that address. One answer per reset, 26 to 14 bytes
without protection, 72 to 344 or more with tls-crypt-v2; as many as ``connect-freq-initial`` lets at most, a fifth of
them to one source. Source: OpenVPN ssl_pkt.c calculate_session_id_hmac, mudp.c do_pre_decrypt_check (only the MAC
differs, which no client sees), reflect_filter.c.
"""

from __future__ import annotations

from collections import Counter

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Frequency
from qubes_miragevpn.crypto.digests import hmac_digest, same
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.serving.registry import Source, source_of
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import CLIENT_RESETS, SID_SIZE, Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp

Place = tuple[Link, SockAddr]
"""Somebody's address, and ours that it came to."""

_CONFIRMING = (Opcode.CONTROL, Opcode.CONTROL_WKC, Opcode.ACK)
_LEFT_FOR_OTHERS = 4  # times what a source had
_OLD_SLOTS = 2  # a cookie of the two slots before is still good: half a hand-window each


def needs_state(opened: Opened) -> bool:
    """Whether a first packet cannot be answered without keeping its client key (OpenVPN before 2.6)."""
    if opened.head.opcode is not Opcode.HARD_RESET_CLIENT_V3 or opened.stamp is None:
        return False
    return not earlyneg.announced(opened.stamp.packet_id)


def require_first_packet(opened: Opened) -> None:
    """Raise `PeerError` (drop) unless `opened` is the hard reset with which a client begins."""
    head = opened.head
    body = read_body(head.opcode, opened.body)
    if head.opcode not in CLIENT_RESETS or head.key_id or body.message_id or body.acks or body.payload:
        raise PeerError("not a first packet")


class Rate:
    """A number of times in each period, counted with one number."""

    def __init__(self, frequency: Frequency) -> None:
        self._frequency = frequency
        self._began = float("-inf")
        self._taken = 0

    def take(self, now: float) -> bool:
        """Take one if there is one left; tell whether there was."""
        if now >= self._began + self._frequency.seconds:
            self._began, self._taken = now, 0
        if self._taken >= self._frequency.most:
            return False
        self._taken += 1
        return True


class Shares:
    """A number of times in each period, of which nobody has so many that others starve.

    A source is given another one only while four times as many are left as it had: alone it has a fifth of all, and
    however many come again and again, a few are left for who comes first. (So do switches share the memory of their
    queues: Choudhury and Hahne, "Dynamic Queue Length Thresholds".) It remembers whoever was given one in this period,
    and so no more sources than that number. What is given back may be taken again.
    """

    def __init__(self, frequency: Frequency) -> None:
        self._frequency = frequency
        self._began = float("-inf")
        self._left = frequency.most
        self._taken: Counter[Source] = Counter()

    def take(self, source: Source, now: float) -> None:
        """Take one; raises `PeerError` (drop) if none is left, or none for this source."""
        if now >= self._began + self._frequency.seconds:
            self._began, self._left = now, self._frequency.most
            self._taken.clear()
        if not self._left:
            raise PeerError(f"more than {self._frequency.most} first packets in {self._frequency.seconds:g} s")
        if _LEFT_FOR_OTHERS * self._taken[source] >= self._left:
            raise PeerError("too many first packets from one address")
        self._left -= 1
        self._taken[source] += 1

    def give_back(self, source: Source) -> None:
        """One was well spent; nothing if it was in another period."""
        if not self._taken[source]:
            return
        self._left += 1
        self._taken[source] -= 1
        if not self._taken[source]:
            del self._taken[source]


class Admission:
    """Answers first packets and recognises third ones. Holds a key and how many were answered, nothing per client."""

    def __init__(self, key: bytes, hand_window: float, frequency: Frequency) -> None:
        self._key = key
        self._slot_length = (hand_window + 1) / 2
        self._shares = Shares(frequency)

    def answer_reset(self, opened: Opened, place: Place, now: float, unix_time: int) -> bytes:
        """Return the server's reset for a client's; raises `PeerError` (drop) if it is none or too many came."""
        self.require_ration(opened, place[1], now)
        head = opened.head
        sid = self._cookie(self._slot(now), place, head.sid)
        # Whoever brought a key must bring it once more: it is forgotten as soon as this answer is made.
        ask = earlyneg.ask_wrapped_key() if head.opcode is Opcode.HARD_RESET_CLIENT_V3 else b""
        reply = Body((0,), head.sid, 0, ask).encode()
        return opened.keys.seal(Head(Opcode.HARD_RESET_SERVER, 0, sid), Stamp(1, unix_time & 0xFFFFFFFF), reply)

    def require_ration(self, opened: Opened, endpoint: SockAddr, now: float) -> None:
        """Raise `PeerError` (drop) unless `opened` is a first packet, and few enough came of late."""
        require_first_packet(opened)
        self._shares.take(source_of(endpoint), now)

    def welcomed(self, endpoint: SockAddr) -> None:
        """An answer led to somebody who is authenticated: it does not count, so that many may come at once.

        OpenVPN takes a cookie that came back for enough; those can be sent again and again.
        """
        self._shares.give_back(source_of(endpoint))

    def confirm(self, opened: Opened, place: Place, now: float) -> bytes:
        """Return our session id if `opened` proves that it received our answer; raises `PeerError` (drop)."""
        head = opened.head
        body = read_body(head.opcode, opened.body)
        if head.opcode not in _CONFIRMING or head.key_id or body.remote_sid is None:
            raise PeerError("not a packet that may begin a session")
        if any(body.acks) or body.message_id not in (None, 1):
            raise PeerError("a session begins with message 1 and acknowledges message 0")
        good = False
        for slot in range(self._slot(now) - _OLD_SLOTS, self._slot(now) + 1):
            good |= same(self._cookie(slot, place, head.sid), body.remote_sid)
        if not good:
            raise PeerError("session id was not given to this address")
        return body.remote_sid

    def _slot(self, now: float) -> int:
        return int(now // self._slot_length)

    def _cookie(self, slot: int, place: Place, client_sid: bytes) -> bytes:
        link, endpoint = place
        text = f"{slot} {link} {endpoint[0]} {endpoint[1]} ".encode() + client_sid
        return hmac_digest("SHA256", self._key, text)[:SID_SIZE]
