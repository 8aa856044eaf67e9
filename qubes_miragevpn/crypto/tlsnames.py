# SPDX-License-Identifier: BSD-2-Clause
"""Names of TLS ciphers, suites and groups: what profiles write, in OpenSSL's language.

Profiles write ``tls-cipher`` in IANA's names with hyphens (``TLS-DHE-RSA-WITH-AES-256-GCM-SHA384``), or in OpenSSL's
(``DHE-RSA-AES256-GCM-SHA384``, ``DEFAULT:!aNULL:@SECLEVEL=1``); openvpn takes both (its manual, "tls-cipher"). The
names follow a rule, so there is no table of them. Whether the TLS library has a cipher is the library's to say.
"""

from __future__ import annotations

import re

from qubes_miragevpn.base.errors import ConfigError

MAX_LIST = 4096  # characters of a list; openvpn's own limit

_IANA = re.compile(r"TLS-([A-Z0-9-]+)-WITH-([A-Z0-9-]+)\Z")
_OPENSSL = re.compile(r"[!+-]?[A-Za-z0-9][A-Za-z0-9+_-]*\Z|@STRENGTH\Z|@SECLEVEL=[0-5]\Z")
_SUITE = re.compile(r"TLS_(AES_(128_GCM|128_CCM|128_CCM_8|256_GCM)|CHACHA20_POLY1305)_SHA(256|384)\Z")
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_LEVEL = re.compile(r"@SECLEVEL=([0-5])\Z")

_BULK = (
    (re.compile(r"(AES|CAMELLIA)-(128|256)-CBC-SHA\Z"), r"\1\2-SHA"),
    (re.compile(r"(AES|CAMELLIA)-(128|256)-CBC-(SHA256|SHA384)\Z"), r"\1\2-\3"),
    (re.compile(r"(AES|CAMELLIA)-(128|256)-GCM-(SHA256|SHA384)\Z"), r"\1\2-GCM-\3"),
    (re.compile(r"AES-(128|256)-CCM(-8)?\Z"), r"AES\1-CCM\2"),
    (re.compile(r"CHACHA20-POLY1305-SHA256\Z"), r"CHACHA20-POLY1305"),
    (re.compile(r"3DES-EDE-CBC-SHA\Z"), r"DES-CBC3-SHA"),
    (re.compile(r"SEED-CBC-SHA\Z"), r"SEED-SHA"),
    (re.compile(r"ARIA-(128|256)-GCM-(SHA256|SHA384)\Z"), r"ARIA\1-GCM-\2"),
)
_EXCHANGES = {
    "RSA": "", "DHE-RSA": "DHE-RSA-", "DHE-DSS": "DHE-DSS-", "ECDHE-RSA": "ECDHE-RSA-", "ECDHE-ECDSA": "ECDHE-ECDSA-",
    "ECDH-RSA": "ECDH-RSA-", "ECDH-ECDSA": "ECDH-ECDSA-", "DH-RSA": "DH-RSA-", "DH-DSS": "DH-DSS-", "SRP-SHA": "SRP-",
    "SRP-SHA-RSA": "SRP-RSA-", "SRP-SHA-DSS": "SRP-DSS-", "PSK": "PSK-", "RSA-PSK": "RSA-PSK-", "DHE-PSK": "DHE-PSK-",
}  # fmt: skip


def cipher_list(text: str) -> tuple[str, tuple[str, ...]]:
    """OpenSSL's form of a ``tls-cipher`` list, and the words that mean nothing. Raises `ConfigError` if none does."""
    known, unknown = [], []
    for word in _words(text):
        name = _cipher(word)
        if name is None:
            unknown.append(word)
        else:
            known.append(name)
    if not any(name[0] not in "!-@" for name in known):
        raise ConfigError(
            "it names no TLS cipher that is known", fix="write OpenSSL's names, as `openssl ciphers` does"
        )
    return ":".join(known), tuple(unknown)


def _cipher(word: str) -> str | None:
    found = _IANA.match(word)
    if found is None:
        return word if _OPENSSL.match(word) and not word.startswith("TLS") else None
    exchange = _EXCHANGES.get(found[1])
    for pattern, form in _BULK:
        if exchange is not None and pattern.match(found[2]):
            return exchange + pattern.sub(form, found[2]).replace("-CCM-8", "-CCM8")
    return None


def suite_list(text: str) -> tuple[str, tuple[str, ...]]:
    """The same for ``tls-ciphersuites``."""
    words = [word.replace("-", "_") for word in _words(text)]
    known = [word for word in words if _SUITE.match(word)]
    if not known:
        raise ConfigError("it names no TLS 1.3 suite", fix="write 'tls-ciphersuites TLS_AES_256_GCM_SHA384'")
    return ":".join(known), tuple(word for word in words if word not in known)


def group_list(text: str) -> str:
    """OpenSSL's form of ``tls-groups``; raises `ConfigError`."""
    words = list(_words(text))
    if not words or not all(_GROUP.match(word) for word in words):
        raise ConfigError("it is no list of groups", fix="write 'tls-groups X25519:P-256'")
    return ":".join(words)


def lowest_level(ciphers: str) -> int | None:
    """The security level that a list of ciphers sets (its last ``@SECLEVEL=``)."""
    found = [int(match[1]) for word in ciphers.split(":") if (match := _LEVEL.match(word))]
    return found[-1] if found else None


def _words(text: str) -> list[str]:
    if len(text) > MAX_LIST:
        raise ConfigError(f"it has more than {MAX_LIST} characters")
    return [word for word in text.split(":") if word]
