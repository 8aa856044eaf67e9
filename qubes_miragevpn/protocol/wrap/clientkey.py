# SPDX-License-Identifier: BSD-2-Clause
"""tls-crypt-v2: tls-crypt with a key of each client's own, which the client brings along, wrapped for the server.

    CONTROL_HARD_RESET_CLIENT_V3 and CONTROL_WKC_V1:   the packet as tls-crypt makes it | WKc

Three ends of it: the client's (`ClientKeys`), the server's for a session whose key it knows (`SessionKeys`), and the
server's door (`ClientKeyDoor`), which learns a client's key from the first packet. The key is unwrapped once per
session: after that its packets must end in the very same bytes. Source: OpenVPN doc/tls-crypt-v2.txt, tls_crypt.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.config.model import ControlWrap, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server
from qubes_miragevpn.crypto.wrappedkey import issued_at, unwrap_client_key, wrapped_size
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import WITH_WRAPPED_KEY, Head, Opcode, read_head
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp, TlsCryptKeys, WrapKeys, wrap_keys

_DAY = 86400


class ClientKeys(TlsCryptKeys):
    """A client's end: appends the wrapped key where it belongs."""

    reset = Opcode.HARD_RESET_CLIENT_V3
    first_id = earlyneg.FIRST_PACKET_ID

    def __init__(self, config: TlsCryptV2Client) -> None:
        super().__init__(TlsCrypt(config.key), server=False)
        self._wrapped = config.wrapped
        self.wrapped_size = len(config.wrapped)

    def seal(self, head: Head, stamp: Stamp, body: bytes) -> bytes:
        packet = super().seal(head, stamp, body)
        return packet + self._wrapped if head.opcode in WITH_WRAPPED_KEY else packet


class SessionKeys(TlsCryptKeys):
    """A server's end, for the session of one client: takes off the wrapped key that it knows already."""

    _takes_client_key = True

    def __init__(self, config: TlsCrypt, wrapped: bytes) -> None:
        super().__init__(config, server=True)
        self._wrapped = wrapped

    def open(self, packet: bytes) -> Opened:
        if read_head(packet).opcode in WITH_WRAPPED_KEY:
            if not packet.endswith(self._wrapped):
                raise PeerError("tls-crypt-v2: the wrapped client key is another one")
            packet = packet.removesuffix(self._wrapped)
        return super().open(packet)


class Door(Protocol):
    """What a server opens the packets of clients with that it does not know yet."""

    def open(self, packet: bytes) -> Opened:
        """Verify and take apart; raises `PeerError`. The session goes on with `Opened.keys`."""


class ClientKeyDoor:
    """The door for clients that bring a key, and, where there is a static key beside it, for those that do not."""

    def __init__(self, config: TlsCryptV2Server, unix_time: Callable[[], int]) -> None:
        self._config = config
        self._beside = None if config.beside is None else wrap_keys(config.beside, server=True)
        self._unix_time = unix_time

    def open(self, packet: bytes) -> Opened:
        if read_head(packet).opcode in WITH_WRAPPED_KEY:
            wrapped = packet[-wrapped_size(packet) :]
            key, metadata = unwrap_client_key(self._config.key, wrapped)
            self._judge(metadata)
            return replace(SessionKeys(TlsCrypt(key), wrapped).open(packet), metadata=metadata)
        if self._beside is None:
            raise PeerError("tls-crypt-v2: a packet without a client key, of no session")
        return self._beside.open(packet)

    def _judge(self, metadata: bytes) -> None:
        """``tls-crypt-v2-max-age``; raises `PeerError` (drop)."""
        if not self._config.max_age_days:
            return
        issued = issued_at(metadata)
        if issued is None:
            raise PeerError("tls-crypt-v2: the client key does not tell when it was issued")
        if self._unix_time() - issued > self._config.max_age_days * _DAY:
            raise PeerError("tls-crypt-v2: the client key is too old")


def client_keys(config: ControlWrap) -> WrapKeys:
    """The protection of a client's packets."""
    match config:
        case TlsCryptV2Client():
            return ClientKeys(config)
        case TlsCryptV2Server():
            raise MisuseError("a server's tls-crypt-v2 key for a client")
        case static:
            return wrap_keys(static, server=False)


def server_door(config: ControlWrap, unix_time: Callable[[], int]) -> Door:
    """What a server hears newcomers through; `unix_time` is asked for the age of client keys."""
    match config:
        case TlsCryptV2Server():
            return ClientKeyDoor(config, unix_time)
        case TlsCryptV2Client():
            raise MisuseError("a client's tls-crypt-v2 key for a server")
        case static:
            return wrap_keys(static, server=True)
