# SPDX-License-Identifier: BSD-2-Clause
"""Certificates, keys, PKCS#12 files and revocation lists of any content, for the tests of what they are judged by."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

BEGIN = datetime(2020, 1, 1)
CENTURY = timedelta(days=36500)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Made:
    """A certificate and its key, signed by `by` or by itself."""

    def __init__(
        self,
        common: str,
        by: Made | None = None,
        *,
        begin: datetime = BEGIN,
        life: timedelta = CENTURY,
        serial: int = 5,
        key: Any = None,
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name(common))
            .issuer_name(by.certificate.subject if by else name(common))
            .public_key(self.key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(begin + life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign((by or self).key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, password: bytes | None = None) -> str:
        how: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        return str(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode())

    def p12(self, password: bytes | None, *others: Made) -> bytes:
        how: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        rest = [other.certificate for other in others]
        return pkcs12.serialize_key_and_certificates(b"own", self.key, self.certificate, rest or None, how)

    def revoke(self, *serials: int, begin: datetime = BEGIN, life: timedelta = CENTURY) -> str:
        """A list of revoked certificates that this one signed."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(begin).next_update(begin + life)
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def self_signed(key: object) -> str:
    """A certificate of `key`, signed by itself."""
    return Made("own", key=key).pem
