# SPDX-License-Identifier: BSD-2-Clause
"""Who may talk to us, and how the control channel is protected: keys and certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from qubes_miragevpn.base.secret import Secret


@dataclass(frozen=True)
class NoWrap:
    """Control channel in clear TLS records."""


@dataclass(frozen=True)
class TlsAuth:
    """``tls-auth``: HMAC over control packets with the 256-byte static `key`; `direction` None: both ways alike."""

    key: Secret
    direction: int | None  # 0, 1, or None
    digest: str  # canonical name, e.g. "SHA1" (OpenVPN's default), "SHA256", "SHA512"


@dataclass(frozen=True)
class TlsCrypt:
    """``tls-crypt``: control packets encrypted and authenticated with the 256-byte static key."""

    key: Secret


@dataclass(frozen=True)
class TlsCryptV2Client:
    """``tls-crypt-v2`` of a client: its own 256-byte `key`, and that key `wrapped` for the server (WKc)."""

    key: Secret
    wrapped: bytes


@dataclass(frozen=True)
class TlsCryptV2Server:
    """``tls-crypt-v2`` of a server: the 128-byte `key` that opens wrapped client keys.

    `beside` is for clients that have no key of their own. `force_cookie`: clients too old for a stateless first
    answer are refused. `max_age_days`: client keys issued longer ago are refused; 0 any age. `verify`: a program with
    its arguments that judges what is written into a client key; () none.
    """

    key: Secret
    beside: TlsAuth | TlsCrypt | None = None
    force_cookie: bool = False
    max_age_days: int = 0
    verify: tuple[str, ...] = ()


ControlWrap = NoWrap | TlsAuth | TlsCrypt | TlsCryptV2Client | TlsCryptV2Server


@dataclass(frozen=True)
class Identity:
    """Our own certificate chain (PEM, leaf first) and its unencrypted private key (PEM)."""

    chain_pem: bytes
    key_pem: Secret


class NameType(Enum):
    """How ``verify-x509-name`` compares (OpenVPN's meaning of its three types)."""

    SUBJECT = "subject"  # whole subject, "C=AA, O=Org, CN=name"
    NAME = "name"  # common name, exactly
    NAME_PREFIX = "name-prefix"  # beginning of the common name


@dataclass(frozen=True)
class NameCheck:
    """The name that a peer's certificate must bear."""

    expected: str
    type: NameType = NameType.SUBJECT


Revoked = tuple[bytes, frozenset[int] | None]
"""Lists of revoked certificates, and serial numbers that are revoked."""


@dataclass(frozen=True)
class PeerPolicy:
    """What a peer's certificate must fulfil.

    At least one of `ca_pem` and `fingerprints` is given; the loader refuses a profile with neither, and
    the verifier raises `MisuseError` if it is handed such a value all the same.
    """

    ca_pem: bytes = b""
    fingerprints: frozenset[bytes] = frozenset()  # SHA-256 of the leaf's DER, 32 bytes each
    remote_cert_tls: str | None = None  # "server" or "client": key usage and extended key usage demanded
    name: NameCheck | None = None
    issuer_hashes: frozenset[bytes] = frozenset()  # ``verify-hash``: SHA-256 or SHA-1 of the leaf issuer's DER
    key_usages: tuple[int, ...] | None = None  # ``remote-cert-ku``: one of these sets of bits; () any; None not asked
    extended_usage: str = ""  # ``remote-cert-eku``: a dotted object identifier
    username_fields: tuple[str, ...] = ("CN",)  # ``x509-username-field``: what the peer's name is made of
    crl_pem: bytes = b""  # ``crl-verify``: lists of revoked certificates
    certificate: str = "require"  # ``verify-client-cert``: require, optional (judged if there is one), none
    revoked_serials: frozenset[int] | None = None  # ``crl-verify DIRECTORY dir``; None: no such directory
    reread: Callable[[], Revoked] | None = field(default=None, compare=False, repr=False)
    """What `crl_pem` and `revoked_serials` are by now, from the files themselves; raises `ConfigError`."""
