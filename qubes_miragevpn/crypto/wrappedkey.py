# SPDX-License-Identifier: BSD-2-Clause
"""The wrapped client key (WKc) of tls-crypt-v2: a client's key, sealed so that only the server can read it.

    WKc = T 32 | AES-256-CTR(Ke, IV = T[:16], Kc 256 | metadata) | length of WKc 2 (big endian, includes itself)
    T   = HMAC-SHA256(Ka, length | Kc | metadata)

The server's key is one ``struct key``: Ke its first 32 bytes, Ka the first 32 bytes of its second half. The first byte
of the metadata is its type: 0 what the operator chose, 1 the time of issue (u64, Unix seconds). Source: OpenVPN
doc/tls-crypt-v2.txt, tls_crypt.c. Every way of being wrong is one error, so that a prober learns nothing.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.ctr import aes256_ctr
from qubes_miragevpn.crypto.digests import hmac_digest, same
from qubes_miragevpn.crypto.statickey import KEY2_SIZE

SERVER_KEY_SIZE = 128
TAG_SIZE = 32
LENGTH_SIZE = 2
MIN_WRAPPED = TAG_SIZE + KEY2_SIZE + LENGTH_SIZE
MAX_WRAPPED = 1024
MAX_METADATA = MAX_WRAPPED - MIN_WRAPPED  # with its type; 734
TYPE_USER, TYPE_TIMESTAMP = 0, 1
_TIMESTAMP_SIZE = 8
_HALF = 64
_KEY_SIZE = 32


def timestamp_metadata(issued: int) -> bytes:
    """The metadata that tell when a key was issued (Unix seconds)."""
    return bytes((TYPE_TIMESTAMP,)) + issued.to_bytes(_TIMESTAMP_SIZE, "big")


def user_metadata(content: bytes) -> bytes:
    """Metadata of the operator's own; raises `MisuseError` if they are longer than `MAX_METADATA` - 1."""
    if len(content) >= MAX_METADATA:
        raise MisuseError(f"metadata of {len(content)} bytes")
    return bytes((TYPE_USER,)) + content


def issued_at(metadata: bytes) -> int | None:
    """When the key was issued, if its metadata tell."""
    if len(metadata) != 1 + _TIMESTAMP_SIZE or metadata[0] != TYPE_TIMESTAMP:
        return None
    return int.from_bytes(metadata[1:], "big")


def wrap_client_key(server_key: Secret, client_key: Secret, metadata: bytes) -> bytes:
    """Return the WKc of the 256-byte `client_key`."""
    size = MIN_WRAPPED + len(metadata)
    if len(client_key) != KEY2_SIZE or size > MAX_WRAPPED:
        raise MisuseError("a client key has 256 bytes and its metadata must fit")
    length = size.to_bytes(LENGTH_SIZE, "big")
    cipher_key, hmac_key = _halves(server_key)
    plain = client_key.reveal() + metadata
    tag = hmac_digest("SHA256", hmac_key, length + plain)
    return tag + aes256_ctr(cipher_key, tag[:16], plain) + length


def unwrap_client_key(server_key: Secret, wrapped: bytes) -> tuple[Secret, bytes]:
    """Return the client key and its metadata; raises `PeerError` (drop)."""
    size, length = len(wrapped), wrapped[-LENGTH_SIZE:]
    if not MIN_WRAPPED <= size <= MAX_WRAPPED or int.from_bytes(length, "big") != size:
        raise PeerError("tls-crypt-v2: wrapped client key is not authentic")
    cipher_key, hmac_key = _halves(server_key)
    tag = wrapped[:TAG_SIZE]
    plain = aes256_ctr(cipher_key, tag[:16], wrapped[TAG_SIZE:-LENGTH_SIZE])
    if not same(tag, hmac_digest("SHA256", hmac_key, length + plain)):
        raise PeerError("tls-crypt-v2: wrapped client key is not authentic")
    return Secret(plain[:KEY2_SIZE]), plain[KEY2_SIZE:]


def wrapped_size(packet: bytes) -> int:
    """The length of the WKc at the end of `packet`, as it says itself; raises `PeerError` if that cannot be."""
    size = int.from_bytes(packet[-LENGTH_SIZE:], "big")
    if not MIN_WRAPPED <= size <= min(MAX_WRAPPED, len(packet)):
        raise PeerError("tls-crypt-v2: wrapped client key is not authentic")
    return size


def _halves(server_key: Secret) -> tuple[bytes, bytes]:
    key = server_key.reveal()
    if len(key) != SERVER_KEY_SIZE:
        raise MisuseError(f"a tls-crypt-v2 server key has {SERVER_KEY_SIZE} bytes, not {len(key)}")
    return key[:_KEY_SIZE], key[_HALF : _HALF + _KEY_SIZE]
