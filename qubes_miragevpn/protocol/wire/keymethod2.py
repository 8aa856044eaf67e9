# SPDX-License-Identifier: BSD-2-Clause
"""The key method 2 message: the first thing each side says inside TLS.

    u32 0 | u8 2 | pre_master 48 (client only) | random1 32 | random2 32 | options | username | password | peer info

Each string is ``u16 length including NUL | bytes | NUL``; an absent one has length 0, and a side may leave
trailing strings out. Source: wire-protocol draft, "Key method 2"; OpenVPN ssl.c key_method_2_write and _read.
"""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.kdf import KeySource
from qubes_miragevpn.protocol.wire.reader import Reader

PRE_MASTER_SIZE = 48
RANDOM_SIZE = 32
MAX_OPTIONS = 512
MAX_CREDENTIAL = 128  # including NUL; what a stock OpenVPN server accepts
MAX_LONG_CREDENTIAL = 4096  # including NUL; tokens and answers that the server itself made this long
MAX_PEER_INFO = 8192


@dataclass(frozen=True)
class KeyMethod2:
    """One side's message, strings without their NUL."""

    source: KeySource
    options: str
    username: str
    password: Secret
    peer_info: str


def _string(raw: bytes) -> bytes:
    return (len(raw) + 1).to_bytes(2, "big") + raw + b"\0" if raw else b"\0\0"


def credential_fits(text: str | bytes, limit: int = MAX_CREDENTIAL) -> bool:
    """Whether a user name or password can be said in key method 2, and will be taken by a stock server."""
    raw = _bytes(text) if isinstance(text, str) else text
    return len(raw) < limit and 0 not in raw


def _bytes(text: str) -> bytes:
    # Whoever typed bytes that are no UTF-8 means these bytes.
    return text.encode("utf-8", "surrogateescape")


def encode(message: KeyMethod2) -> bytes:
    """Return the bytes of `message`; whether it is a client's shows in its pre-master secret."""
    source = message.source
    head = b"\0\0\0\0\2" + source.pre_master.reveal() + source.random1 + source.random2
    username, password = _bytes(message.username), message.password.reveal()
    strings = (message.options.encode(), username, password, message.peer_info.encode())
    return head + b"".join(map(_string, strings))


def read(record: bytes, *, from_client: bool) -> KeyMethod2:
    """Read one whole message; raises `PeerError` (end of session) for anything malformed."""
    try:
        return _read(Reader(record, "key method 2"), from_client)
    except PeerError as error:
        raise PeerError(error.reason, Consequence.END_SESSION) from None


def _read(reader: Reader, from_client: bool) -> KeyMethod2:
    if reader.u32() != 0:
        raise PeerError("key method 2: the leading zero word is not zero")
    if (method := reader.u8()) & 0x0F != 2:
        raise PeerError(f"key method {method & 0x0F} instead of 2")
    pre_master = reader.take(PRE_MASTER_SIZE) if from_client else b""
    source = KeySource(Secret(pre_master), reader.take(RANDOM_SIZE), reader.take(RANDOM_SIZE))
    options = _take_string(reader, MAX_OPTIONS, "options")
    username = _take_string(reader, MAX_CREDENTIAL, "username")
    password = _take_string(reader, MAX_CREDENTIAL, "password")
    peer_info = _take_string(reader, MAX_PEER_INFO, "peer info")
    return KeyMethod2(source, _text(options), _text(username), Secret(password), _text(peer_info))


def _take_string(reader: Reader, limit: int, what: str) -> bytes:
    if not reader.left:
        return b""
    size = reader.u16()
    if size > limit:
        raise PeerError(f"key method 2: {what} of {size} bytes, over {limit}")
    raw = reader.take(size)
    if not size:
        return b""
    if raw[-1] != 0 or 0 in raw[:-1]:
        raise PeerError(f"key method 2: {what} is not a NUL-terminated string")
    return raw[:-1]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
