# SPDX-License-Identifier: BSD-2-Clause
"""Our own certificates and keys, as files hold them: PKCS#12, encrypted keys, chains; and what is wrong with them.

Everything comes out as PEM without a password, which stays in memory. No key or password gets into a message.
Raises `ConfigError` without file and line: whoever asked knows whose file it is.

For odd DER the library raises more than it documents (38.0: KeyError, among others), so whatever it raises is taken as
"cannot be read".
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable

_MISSING = "the private key is encrypted, and there is no password for it"
_WRONG = "the private key cannot be opened: is the password right?"
_OLD_FORMAT = (
    "write 'askpass FILE'; if it is in the old format of OpenSSL 1, make it anew: "
    "openssl pkcs12 -legacy -in OLD -nodes | openssl pkcs12 -export -out NEW"
)


class PasswordNeeded(ConfigError):
    """The key is encrypted, and no password or not the right one was given."""


@dataclass(frozen=True)
class OwnKey:
    """A private key as PEM without a password, and its public half, by which its certificate is found.

    Both come of one reading: the library examines an RSA key for tens of milliseconds each time that it reads it.
    """

    pem: Secret
    public: bytes  # DER, SubjectPublicKeyInfo


@dataclass(frozen=True)
class Bundle:
    """What a PKCS#12 file holds, as PEM: the certificate and its key, and the other certificates ("" none)."""

    certificate: bytes
    key: OwnKey
    others: bytes


def decrypt_key(pem: bytes, password: Secret | None) -> OwnKey:
    """The private key in `pem` without its password. Raises `PasswordNeeded`, or `ConfigError` if it is damaged."""
    given = _usable(password)
    try:
        key = load_pem_private_key(pem, password=given or None)
    except TypeError:
        if given:
            return decrypt_key(pem, None)  # a password for a key that needs none
        raise PasswordNeeded(_MISSING) from None
    except UnsupportedAlgorithm:
        raise ConfigError("the private key is of a kind that is not supported") from None
    except Exception as error:
        if b"ENCRYPTED" in pem:
            raise PasswordNeeded(_WRONG if given else _MISSING) from None
        raise ConfigError(f"the private key cannot be read ({printable(type(error).__name__)})") from None
    return _own_key(key)


def _own_key(key: Any) -> OwnKey:
    """`key` for use; raises `ConfigError` for one that has no such form."""
    try:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return OwnKey(Secret(pem), _public_bytes(key.public_key()))
    except Exception:
        raise ConfigError("the private key cannot be read") from None


def open_pkcs12(data: bytes, password: Secret | None) -> Bundle:
    """The content of a PKCS#12 file (DER, or base64 of it). An empty password is tried where none is given."""
    der = data if data[:1] == b"\x30" else _decode(data)
    given = _usable(password)
    try:
        found = pkcs12.load_pkcs12(der, given)
    except ValueError:
        if not given:
            raise PasswordNeeded("the PKCS#12 file cannot be opened without a password", fix=_OLD_FORMAT) from None
        raise PasswordNeeded("the PKCS#12 file cannot be opened: is the password right?", fix=_OLD_FORMAT) from None
    except Exception:
        raise ConfigError("the PKCS#12 file is of a kind that is not supported", fix=_OLD_FORMAT) from None
    if found.cert is None or found.key is None:
        raise ConfigError("the PKCS#12 file holds no certificate with its key")
    others = b"".join(other.certificate.public_bytes(Encoding.PEM) for other in found.additional_certs)
    return Bundle(found.cert.certificate.public_bytes(Encoding.PEM), _own_key(found.key), others)


def _usable(password: Secret | None) -> bytes | None:
    """What the library is given; raises `PasswordNeeded` for one with a NUL, at which some versions panic."""
    given = None if password is None else password.reveal()
    if given and b"\0" in given:
        raise PasswordNeeded(_WRONG)
    return given


def _decode(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise ConfigError("the PKCS#12 file is neither DER nor base64") from None


@dataclass(frozen=True)
class CertificateSummary:
    """What a person is told about a certificate."""

    subject: str
    issuer: str
    not_before: int  # seconds since 1970
    not_after: int
    authority: bool  # may sign certificates


class Chain:
    """Certificates in the order of their file; raises `ConfigError` for one that cannot be read."""

    def __init__(self, pems: list[bytes]) -> None:
        try:
            self._certificates = [x509.load_pem_x509_certificate(pem) for pem in pems]
            self.summaries = tuple(_summary(certificate) for certificate in self._certificates)
        except Exception:
            raise ConfigError("a certificate in it cannot be read") from None

    def place_of(self, key: OwnKey) -> int | None:
        """Which certificate the private key belongs to; raises `ConfigError` for one whose key cannot be read."""
        try:
            for number, certificate in enumerate(self._certificates):
                if _public_bytes(certificate.public_key()) == key.public:
                    return number
        except Exception:
            raise ConfigError("the key of a certificate in it cannot be read") from None
        return None

    def first_out_of_order(self) -> int | None:
        """Number of the first certificate that did not issue the one before it; each should."""
        for number in range(1, len(self._certificates)):
            if self._certificates[number].subject != self._certificates[number - 1].issuer:
                return number
        return None


def _public_bytes(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _summary(certificate: x509.Certificate) -> CertificateSummary:
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    return CertificateSummary(
        subject=printable(certificate.subject.rfc4514_string(), 200),
        issuer=printable(certificate.issuer.rfc4514_string(), 200),
        # the naive forms: cryptography before 42 has no others
        not_before=_seconds(certificate, "not_valid_before"),
        not_after=_seconds(certificate, "not_valid_after"),
        authority=authority,
    )


def _seconds(dated: object, name: str) -> int:
    aware = getattr(dated, f"{name}_utc", None)  # cryptography 42 and newer
    moment: datetime = aware if aware is not None else getattr(dated, name).replace(tzinfo=UTC)
    return int(moment.timestamp())


def date_text(moment: int) -> str:
    """A day in UTC for people, from seconds since 1970."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class RevocationSummary:
    """What a person is told about a list of revoked certificates."""

    issuer: str
    next_update: int | None  # seconds since 1970
    revoked: int


def read_revocations(pem: bytes) -> RevocationSummary:
    """Read one list of revoked certificates; raises `ConfigError`."""
    try:
        found = x509.load_pem_x509_crl(pem)
        until = getattr(found, "next_update_utc", None) or found.next_update
        return RevocationSummary(
            issuer=printable(found.issuer.rfc4514_string(), 200),
            next_update=None if until is None else int(until.replace(tzinfo=UTC).timestamp()),
            revoked=len(found),
        )
    except Exception:
        raise ConfigError("a list of revoked certificates in it cannot be read") from None
