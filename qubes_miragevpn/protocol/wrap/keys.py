# SPDX-License-Identifier: BSD-2-Clause
"""Control-channel protection without state: none, tls-auth and tls-crypt behind one interface.

On the wire, around ``head | body`` of `protocol.wire.packet`:

    none        head | body
    tls-auth    head | HMAC | packet id 4 | time 4 | body
                HMAC over packet id | time | head | body
    tls-crypt   head | packet id 4 | time 4 | tag 32 | AES-256-CTR(body)
                tag = HMAC-SHA256(head | packet id | time | body), IV = tag[:16]

Source: wire-protocol draft, "Control channel protection"; OpenVPN ssl_pkt.c swap_hmac, tls_crypt.c. These
objects only check and seal; replay is judged by `protocol.wrap.state`, after the tag. A bad tag and a short
packet are the same error, so that a prober learns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import NoWrap, TlsAuth, TlsCrypt
from qubes_miragevpn.crypto.ctr import aes256_ctr
from qubes_miragevpn.crypto.digests import digest_size, hmac_digest, same
from qubes_miragevpn.crypto.statickey import split_key2
from qubes_miragevpn.protocol.wire.packet import HEAD_SIZE, WITH_WRAPPED_KEY, Head, Opcode, read_head

_STAMP_SIZE = 8  # packet id and time
_TAG_SIZE = 32
_CTR_KEY_SIZE = 32


@dataclass(frozen=True)
class Stamp:
    """The long packet id of a protected packet: `packet_id` counts from 1 within `time` (Unix seconds)."""

    packet_id: int
    time: int

    def encode(self) -> bytes:
        return self.packet_id.to_bytes(4, "big") + self.time.to_bytes(4, "big")


@dataclass(frozen=True)
class Opened:
    """A packet whose protection was verified; `stamp` is None without protection.

    `keys` opened it and seal the answer: with tls-crypt-v2 a server learns them from the packet itself, and the
    `metadata` (with their type) that go with them; None if it brought none.
    """

    head: Head
    stamp: Stamp | None
    body: bytes
    keys: WrapKeys
    metadata: bytes | None = None


class WrapKeys(Protocol):
    """One kind of protection with its keys."""

    overhead: int
    """Bytes added to head and body."""
    stamped: bool
    """Whether packets bear a `Stamp`, and so can be judged for replay."""
    reset: Opcode
    """What a client's hard reset is."""
    first_id: int
    """The packet id of a client's first packet."""
    base: Secret | None
    """The 256 bytes of the static or client key."""
    wrapped_size: int
    """Bytes that the opcodes `WITH_WRAPPED_KEY` are longer by; 0 if there is no key to send along."""

    def seal(self, head: Head, stamp: Stamp, body: bytes) -> bytes:
        """Return the packet for the wire."""

    def open(self, packet: bytes) -> Opened:
        """Verify and take apart; raises `PeerError`."""


class _WithoutClientKey:
    """What is alike where no client key is sent along."""

    reset = Opcode.HARD_RESET_CLIENT
    first_id = 1
    wrapped_size = 0
    base: Secret | None = None
    _takes_client_key = False

    def _head(self, packet: bytes) -> Head:
        head = read_head(packet)
        if head.opcode in WITH_WRAPPED_KEY and not self._takes_client_key:
            raise PeerError(f"{head.opcode.name} without tls-crypt-v2")
        return head


class PlainKeys(_WithoutClientKey):
    """No protection."""

    overhead = 0
    stamped = False

    def seal(self, head: Head, stamp: Stamp, body: bytes) -> bytes:
        return head.encode() + body

    def open(self, packet: bytes) -> Opened:
        return Opened(self._head(packet), None, packet[HEAD_SIZE:], self)


class TlsAuthKeys(_WithoutClientKey):
    """tls-auth: HMAC with the key of each direction."""

    stamped = True

    def __init__(self, config: TlsAuth) -> None:
        first, second = split_key2(config.key.reveal())
        size = digest_size(config.digest)
        self.base = config.key
        outgoing, incoming = {None: (first, first), 0: (first, second), 1: (second, first)}[config.direction]
        self._digest = config.digest
        self._size = size
        self._send_key = outgoing.hmac.reveal()[:size]
        self._receive_key = incoming.hmac.reveal()[:size]
        self.overhead = size + _STAMP_SIZE

    def seal(self, head: Head, stamp: Stamp, body: bytes) -> bytes:
        first, mark = head.encode(), stamp.encode()
        return first + hmac_digest(self._digest, self._send_key, mark + first + body) + mark + body

    def open(self, packet: bytes) -> Opened:
        head = self._head(packet)
        tag = packet[HEAD_SIZE : HEAD_SIZE + self._size]
        mark = packet[HEAD_SIZE + self._size : HEAD_SIZE + self.overhead]
        body = packet[HEAD_SIZE + self.overhead :]
        if not body or not same(tag, hmac_digest(self._digest, self._receive_key, mark + packet[:HEAD_SIZE] + body)):
            raise PeerError("tls-auth: packet authentication failed")
        return Opened(head, _read_stamp(mark), body, self)


class TlsCryptKeys(_WithoutClientKey):
    """tls-crypt: the server sends with the first key of the static key, the client with the second."""

    overhead = _STAMP_SIZE + _TAG_SIZE
    stamped = True

    def __init__(self, config: TlsCrypt, *, server: bool) -> None:
        self.base = config.key
        first, second = split_key2(config.key.reveal())
        outgoing, incoming = (first, second) if server else (second, first)
        self._send_cipher = outgoing.cipher.reveal()[:_CTR_KEY_SIZE]
        self._send_hmac = outgoing.hmac.reveal()[:_TAG_SIZE]
        self._receive_cipher = incoming.cipher.reveal()[:_CTR_KEY_SIZE]
        self._receive_hmac = incoming.hmac.reveal()[:_TAG_SIZE]

    def seal(self, head: Head, stamp: Stamp, body: bytes) -> bytes:
        clear = head.encode() + stamp.encode()
        tag = hmac_digest("SHA256", self._send_hmac, clear + body)
        return clear + tag + aes256_ctr(self._send_cipher, tag[:16], body)

    def open(self, packet: bytes) -> Opened:
        head = self._head(packet)
        clear = packet[: HEAD_SIZE + _STAMP_SIZE]
        tag = packet[HEAD_SIZE + _STAMP_SIZE : HEAD_SIZE + self.overhead]
        sealed = packet[HEAD_SIZE + self.overhead :]
        if not sealed or len(tag) != _TAG_SIZE:
            raise PeerError("tls-crypt: packet authentication failed")
        body = aes256_ctr(self._receive_cipher, tag[:16], sealed)
        if not same(tag, hmac_digest("SHA256", self._receive_hmac, clear + body)):
            raise PeerError("tls-crypt: packet authentication failed")
        return Opened(head, _read_stamp(clear[HEAD_SIZE:]), body, self)


def _read_stamp(mark: bytes) -> Stamp:
    return Stamp(int.from_bytes(mark[:4], "big"), int.from_bytes(mark[4:], "big"))


def wrap_keys(config: NoWrap | TlsAuth | TlsCrypt, *, server: bool) -> WrapKeys:
    """The protection that `config` asks for, in the role given; `wrap.clientkey` knows the others."""
    match config:
        case NoWrap():
            return PlainKeys()
        case TlsAuth():
            return TlsAuthKeys(config)
        case TlsCrypt():
            return TlsCryptKeys(config, server=server)
