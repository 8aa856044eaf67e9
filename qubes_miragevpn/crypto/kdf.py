# SPDX-License-Identifier: BSD-2-Clause
"""Data-channel key derivation: the TLS 1.0 PRF of key method 2 (RFC 2246 section 5).

The other derivation, the TLS exporter (RFC 5705), lives in the TLS library; both give the 256 bytes that
`crypto.statickey.split_key2` takes apart. Source: wire-protocol draft, "Key derivation".
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.statickey import KEY2_SIZE

EXPORTER_LABEL = b"EXPORTER-OpenVPN-datakeys"
"""Label of the TLS exporter that replaces the PRF (no context, 256 bytes)."""

_MASTER_LABEL = b"OpenVPN master secret"
_EXPANSION_LABEL = b"OpenVPN key expansion"
_MASTER_SIZE = 48


@dataclass(frozen=True)
class KeySource:
    """One side's contribution in key method 2; `pre_master` is 48 bytes from the client, empty from the server."""

    pre_master: Secret
    random1: bytes  # 32 bytes
    random2: bytes  # 32 bytes


def _p_hash(digest: str, secret: bytes, seed: bytes, size: int) -> bytes:
    """P_hash of RFC 2246 section 5."""
    out = b""
    a = seed
    while len(out) < size:
        a = hmac.digest(secret, a, digest)
        out += hmac.digest(secret, a + seed, digest)
    return out[:size]


def tls1_prf(secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    """PRF(secret, label, seed) of RFC 2246: P_MD5 of one half XOR P_SHA1 of the other (they share an odd byte)."""
    half = (len(secret) + 1) // 2
    md5 = _p_hash("md5", secret[:half], label + seed, size)
    sha1 = _p_hash("sha1", secret[len(secret) - half :], label + seed, size)
    return bytes(x ^ y for x, y in zip(md5, sha1, strict=True))


def prf_key_material(client: KeySource, server: KeySource, client_sid: bytes, server_sid: bytes) -> Secret:
    """The 256 bytes of data-channel keys that both sides derive without an exporter."""
    master = tls1_prf(client.pre_master.reveal(), _MASTER_LABEL, client.random1 + server.random1, _MASTER_SIZE)
    seed = client.random2 + server.random2 + client_sid + server_sid
    return Secret(tls1_prf(master, _EXPANSION_LABEL, seed, KEY2_SIZE))
