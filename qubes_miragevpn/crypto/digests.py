# SPDX-License-Identifier: BSD-2-Clause
"""Message digests and HMAC by the names that OpenVPN's ``auth`` accepts.

The primitives are hashlib's and hmac's (OpenSSL underneath); this module only names and bounds them. The extendable
ones (SHAKE, KMAC) and MD5-SHA1 are not here: nobody protects packets with them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType

from qubes_miragevpn.base.errors import MisuseError

_DIGESTS: Mapping[str, str] = MappingProxyType(
    {
        "SHA1": "sha1",
        "SHA224": "sha224",
        "SHA256": "sha256",
        "SHA384": "sha384",
        "SHA512": "sha512",
        "SHA512-224": "sha512_224",
        "SHA512-256": "sha512_256",
        "SHA3-224": "sha3_224",
        "SHA3-256": "sha3_256",
        "SHA3-384": "sha3_384",
        "SHA3-512": "sha3_512",
        "BLAKE2b512": "blake2b",
        "BLAKE2s256": "blake2s",
        "SM3": "sm3",
        "MD5": "md5",
        "RIPEMD160": "ripemd160",
    }
)

INSECURE_DIGESTS: Mapping[str, str] = MappingProxyType(
    {
        "MD5": "it has been broken for long, though no forgery under HMAC is known",
        "RIPEMD160": "it is of an age and a size that nobody examines any more",
    }
)
"""Digests that are taken only where the operator names them in ``allow-insecure-crypto``, and why."""

_BY_PLAIN = {name.replace("-", "").upper(): name for name in _DIGESTS} | {"RMD160": "RIPEMD160", "RIPEMD": "RIPEMD160"}


def canonical_digest(name: str) -> str | None:
    """Return the canonical name of a digest ("SHA256" for "sha-256", "RSA-SHA256", ...), or None if we have none."""
    plain = name.upper().removeprefix("RSA-").replace("-", "").replace("/", "")
    found = _BY_PLAIN.get(plain)
    return found if found is not None and _DIGESTS[found] in hashlib.algorithms_available else None


def digest_size(name: str) -> int:
    """Size in bytes of the digest with the canonical `name`."""
    return hashlib.new(hashlib_name(name)).digest_size


def hmac_digest(name: str, key: bytes, message: bytes) -> bytes:
    """HMAC (RFC 2104) of `message` under `key` with the digest of canonical `name`."""
    return hmac.digest(key, message, hashlib_name(name))


def same(left: bytes, right: bytes) -> bool:
    """Compare two tags in constant time."""
    return hmac.compare_digest(left, right)


def hashlib_name(name: str) -> str:
    """What hashlib calls the digest with the canonical `name`."""
    try:
        return _DIGESTS[name]
    except KeyError:
        raise MisuseError(f"no digest {name!r}") from None
