# SPDX-License-Identifier: BSD-2-Clause
"""Message digests and HMAC by the names that OpenVPN's ``auth`` accepts.

The primitives are hashlib's and hmac's (OpenSSL underneath); this module only names and bounds them.
"""

from __future__ import annotations

import hashlib
import hmac

from qubes_miragevpn.base.errors import MisuseError

_DIGESTS = {"SHA1": "sha1", "SHA224": "sha224", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


def canonical_digest(name: str) -> str | None:
    """Return the canonical name of a digest ("SHA256" for "sha-256", "RSA-SHA256", ...), or None if we have none."""
    plain = name.upper().removeprefix("RSA-").replace("-", "")
    return plain if plain in _DIGESTS else None


def digest_size(name: str) -> int:
    """Size in bytes of the digest with the canonical `name`."""
    return hashlib.new(_hashlib_name(name)).digest_size


def hmac_digest(name: str, key: bytes, message: bytes) -> bytes:
    """HMAC (RFC 2104) of `message` under `key` with the digest of canonical `name`."""
    return hmac.digest(key, message, _hashlib_name(name))


def same(left: bytes, right: bytes) -> bool:
    """Compare two tags in constant time."""
    return hmac.compare_digest(left, right)


def _hashlib_name(name: str) -> str:
    try:
        return _DIGESTS[name]
    except KeyError:
        raise MisuseError(f"no digest {name!r}") from None
