# SPDX-License-Identifier: BSD-2-Clause
"""Certificates of any content, for tests of what verification makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CN = NameOID.COMMON_NAME
SERVER_AUTH, CLIENT_AUTH = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@cache
def key() -> ec.EllipticCurvePrivateKey:
    """One key for all certificates of a run."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem() -> bytes:
    return key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def name_of(parts: Iterable[tuple[x509.ObjectIdentifier, str]]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def certificate(
    subject: Iterable[tuple[x509.ObjectIdentifier, str]] = ((CN, "somebody"),),
    *,
    issuer: Iterable[tuple[x509.ObjectIdentifier, str]] | None = None,
    usages: Iterable[str] | None = ("digital_signature",),
    extended: Iterable[x509.ObjectIdentifier] | None = (SERVER_AUTH, CLIENT_AUTH),
    ca: bool = False,
    age: timedelta = timedelta(hours=1),
    life: timedelta = timedelta(days=2),
) -> x509.Certificate:
    """A certificate signed with `key`, by itself unless `issuer` says otherwise."""
    subject = tuple(subject)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer if issuer is not None else subject))
        .public_key(key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now - age + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usages is not None:
        builder = builder.add_extension(key_usage(usages), critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(extended)), critical=False)
    return builder.sign(key(), hashes.SHA256())


def key_usage(allowed: Iterable[str]) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in tuple(allowed) for name in names})


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


def of_version(encoded: bytes, version: int) -> bytes:
    """The DER `encoded` with its X.509 version field replaced (which breaks the signature, nothing else)."""
    at = encoded.index(b"\xa0\x03\x02\x01\x02")
    return encoded[: at + 4] + bytes([version]) + encoded[at + 5 :]
