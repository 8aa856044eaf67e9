# SPDX-License-Identifier: BSD-2-Clause
"""A small certificate authority: its own certificate, those of servers and clients, the list of revoked ones.

Keys are ECDSA on P-256, which every TLS library that OpenVPN was ever built with takes; certificates are what OpenVPN's
`remote-cert-tls` asks for (RFC 5280: keyUsage digitalSignature, extendedKeyUsage serverAuth or clientAuth). There is
one level, and a serial number is 159 random bits. Time and entropy are arguments; only the nonce of a signature is
OpenSSL's own. Everything is PEM. Raises `ConfigError` without file and line: whoever asked knows whose file it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.identity import PasswordNeeded

Entropy = Callable[[int], bytes]

BACKDATED = timedelta(hours=24)
"""How long before its making a certificate is valid, for the clocks of others."""

MAX_NAME = 64
"""Bytes of a common name (RFC 5280, ub-common-name)."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_BYTES = 48  # half as many again as the order has: the remainder is even to 1 in 2^128 (FIPS 186-5, A.2.1)
_SERIAL_BYTES = 20


class Purpose(Enum):
    """What a certificate is for."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key."""

    certificate: bytes
    key: Secret


@dataclass(frozen=True)
class Described:
    """What a certificate says of itself; `purpose` None: of neither kind."""

    name: str
    serial: int
    purpose: Purpose | None
    expires: datetime


class Authority:
    """An authority with its key; `certificate` is what everybody trusts."""

    def __init__(self, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._issuer = _load(certificate)
        self._key = key

    @classmethod
    def make(cls, name: str, now: datetime, lifetime: timedelta, entropy: Entropy) -> Authority:
        """A new authority."""
        key = _new_key(entropy)
        subject = _subject(name)
        builder = _builder(subject, subject, key, key, now, lifetime, entropy)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes, password: Secret | None) -> Authority:
        """An authority made before; raises `PasswordNeeded` if its key cannot be opened with `password`."""
        try:
            loaded = load_pem_private_key(key, None if password is None else password.reveal())
        except TypeError:
            if password is not None:
                return cls.load(certificate, key, None)
            raise PasswordNeeded("the authority's key is encrypted, and there is no password for it") from None
        except ValueError:
            if password is None:
                raise ConfigError("the authority's key cannot be read") from None
            raise PasswordNeeded("the authority's key cannot be opened: is the password right?") from None
        authority = cls(certificate, loaded)  # type: ignore[arg-type]
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or (
            loaded.public_key().public_numbers() != authority._public_numbers()
        ):
            raise ConfigError("the authority's key does not belong to its certificate")
        return authority

    def private_key(self, password: Secret | None) -> Secret:
        """The key, to be kept: encrypted unless `password` is None."""
        protection = NoEncryption() if password is None else BestAvailableEncryption(password.reveal())
        return Secret(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))

    def issue(self, name: str, purpose: Purpose, now: datetime, lifetime: timedelta, entropy: Entropy) -> Issued:
        """A certificate for `name`, which ends no later than the authority's own."""
        ends = min(now + lifetime, _expires(self._issuer))
        if ends <= now:
            raise ConfigError("the authority's own certificate has expired", fix="make a new authority")
        key = _new_key(entropy)
        builder = _builder(_subject(name), self._issuer.subject, key, self._key, now, ends - now, entropy)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        use = ExtendedKeyUsageOID.SERVER_AUTH if purpose is Purpose.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        kept = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Issued(certificate, Secret(kept))

    def revocations(self, revoked: Iterable[tuple[int, datetime]], now: datetime) -> bytes:
        """The list of the revoked serial numbers, with when that was; valid as long as the authority."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._issuer.subject)
        builder = builder.last_update(now - BACKDATED).next_update(_expires(self._issuer))
        for serial, when in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _public_numbers(self) -> object:
        key = self._issuer.public_key()
        return key.public_numbers() if isinstance(key, ec.EllipticCurvePublicKey) else None


def describe(certificate: bytes) -> Described:
    """What `certificate` says."""
    loaded = _load(certificate)
    names = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        uses = set(loaded.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        uses = set()
    purpose = None
    if ExtendedKeyUsageOID.SERVER_AUTH in uses:
        purpose = Purpose.SERVER
    elif ExtendedKeyUsageOID.CLIENT_AUTH in uses:
        purpose = Purpose.CLIENT
    return Described(str(names[0].value) if names else "", loaded.serial_number, purpose, _expires(loaded))


def revoked(revocations: bytes) -> list[tuple[int, datetime]]:
    """The serial numbers in a list, with when they were revoked."""
    try:
        found = x509.load_pem_x509_crl(revocations)
    except ValueError:
        raise ConfigError("the list of revoked certificates cannot be read") from None
    return [(each.serial_number, _aware(each, "revocation_date")) for each in found]


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise ConfigError("the certificate cannot be read") from None


def _expires(certificate: x509.Certificate) -> datetime:
    return _aware(certificate, "not_valid_after")


def _aware(thing: object, attribute: str) -> datetime:
    """A time of `cryptography`'s: since version 42 with its zone, under another name."""
    found = getattr(thing, f"{attribute}_utc", None)
    aware: datetime = found if found is not None else getattr(thing, attribute).replace(tzinfo=UTC)
    return aware


def _subject(name: str) -> x509.Name:
    if not 0 < len(name.encode()) <= MAX_NAME:
        raise ConfigError(f"a common name has 1 to {MAX_NAME} bytes")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _new_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(entropy(_SCALAR_BYTES), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
    entropy: Entropy,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number((int.from_bytes(entropy(_SERIAL_BYTES), "big") >> 1) | 1)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
