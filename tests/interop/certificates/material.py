# SPDX-License-Identifier: BSD-2-Clause
"""An authority whose lists, chains and PKCS#12 files the tests can make as they need them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from tests.interop.pki import CLIENT_NAME, SERVER_NAME, Authority, Pem, Pki

PASSWORD = b"open sesame"
SCRAPS = re.compile(r"<(cert|key|ca)>\n.*?</\1>\n", re.S)


@dataclass(frozen=True)
class Place:
    """An authority with a server and a client of its own."""

    authority: Authority
    pki: Pki

    def revoke(self, *ones: Pem) -> str:
        """The authority's list of revoked certificates."""
        now = datetime.now(UTC)
        issuer = x509.load_pem_x509_certificate(self.pki.ca.encode()).subject
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
        builder = builder.last_update(now - timedelta(hours=1)).next_update(now + timedelta(days=1))
        for one in ones:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial(one)).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.authority.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def make(pki: Pki) -> Place:
    """A new authority; what is foreign stays that of `pki`."""
    authority = Authority("Certificates CA")
    server, client = authority.issue(SERVER_NAME, "server"), authority.issue(CLIENT_NAME, "client")
    return Place(authority, replace(pki, ca=authority.certificate, server=server, client=client))


def serial(one: Pem) -> int:
    """The serial number of a certificate."""
    return x509.load_pem_x509_certificate(one.certificate.encode()).serial_number


def fingerprint(pem: str, algorithm: hashes.HashAlgorithm) -> str:
    """The hash of a certificate as openvpn writes it."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(algorithm).hex(":")


def encrypted_key(one: Pem) -> str:
    """The key of `one` under `PASSWORD`."""
    key = load_pem_private_key(one.key.encode(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD)).decode()


def bundle(one: Pem, *others: str) -> bytes:
    """A PKCS#12 file of `one` under `PASSWORD`."""
    certificate = x509.load_pem_x509_certificate(one.certificate.encode())
    rest = [x509.load_pem_x509_certificate(other.encode()) for other in others]
    key = load_pem_private_key(one.key.encode(), None)
    how = BestAvailableEncryption(PASSWORD)
    return pkcs12.serialize_key_and_certificates(b"own", key, certificate, rest, how)  # type: ignore[arg-type]


def without(config: str, *names: str) -> str:
    """`config` without these inline blocks."""
    return SCRAPS.sub(lambda found: "" if found[1] in names else found[0], config)
