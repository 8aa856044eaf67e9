# SPDX-License-Identifier: BSD-2-Clause
"""Certificates: what peer verification needs to know of one (from its DER form), and reading our own from PEM.

Chain building and signatures are the TLS library's; here is only the leaf's own content.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import cryptography
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qubes_miragevpn.base.errors import ConfigError, Consequence, PeerError
from qubes_miragevpn.base.text import printable

_SHORT_NAMES = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.TITLE: "title",
}
_USAGE_BITS = {
    "digital_signature": 0x80,
    "content_commitment": 0x40,
    "key_encipherment": 0x20,
    "data_encipherment": 0x10,
    "key_agreement": 0x08,
    "key_cert_sign": 0x04,
    "crl_sign": 0x02,
}
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_MAX_DER = 64 * 1024
_AS_IT_IS: dict[str, Any] = (
    {"unsafe_skip_rsa_key_validation": True} if int(cryptography.__version__.partition(".")[0]) >= 39 else {}
)
"""Not to examine an RSA key once more, which takes tens of milliseconds: our own were when their file was read
(`crypto.identity.decrypt_key`), and whether it fits the certificate OpenSSL looks at again."""


@dataclass(frozen=True)
class CertificateFacts:
    """The leaf's content that policies are about."""

    fingerprint: bytes  # SHA-256 of the DER, 32 bytes
    subject: str  # "C=AA, O=Org, CN=name" as OpenVPN prints it
    common_name: str  # the last CN, "" if there is none
    key_usage: frozenset[str] | None  # None: no such extension
    server_auth: bool  # extendedKeyUsage holds serverAuth
    client_auth: bool
    serial: int = 0
    names: tuple[tuple[str, str], ...] = ()  # the subject's parts in order: ("C", "AA"), ("CN", "name")
    emails: tuple[str, ...] = ()  # rfc822Name entries of subjectAltName
    usage_bits: int = 0  # key usage as the first byte of its bit string, as ``remote-cert-ku`` counts them
    extended_usage: frozenset[str] = frozenset()  # object identifiers, dotted
    sha1: bytes = b""  # 20 bytes; for old ``verify-hash`` lines only


def inspect_certificate(der: bytes) -> CertificateFacts:
    """Read `der`; raises `PeerError` (end of session) if it is not a certificate that can be judged."""
    if len(der) > _MAX_DER:
        raise PeerError(f"the peer's certificate has {len(der)} bytes, over {_MAX_DER}", Consequence.END_SESSION)
    try:
        certificate = x509.load_der_x509_certificate(der)
        parts = [(_SHORT_NAMES.get(a.oid, a.oid.dotted_string), str(a.value)) for a in certificate.subject]
        usage = _key_usage(certificate)
        emails = _emails(certificate)
        extended = _extended_usage(certificate)
    except Exception as error:
        # For odd DER the library raises more than it documents (38.0: KeyError); none of it may reach the loop.
        why = printable(str(error), 80)
        raise PeerError(f"the peer's certificate cannot be read: {why}", Consequence.END_SESSION) from None
    names = [value for key, value in parts if key == "CN"]
    if any(ord(c) < 0x20 or ord(c) == 0x7F for _, value in parts for c in value):
        # A NUL or a line break in a name has no honest use and several known attacks (CVE-2026-84790).
        raise PeerError("the peer's certificate has control characters in its subject", Consequence.END_SESSION)
    return CertificateFacts(
        fingerprint=hashlib.sha256(der).digest(),
        subject=", ".join(f"{key}={value}" for key, value in parts),
        common_name=names[-1] if names else "",
        key_usage=usage,
        server_auth=ExtendedKeyUsageOID.SERVER_AUTH in extended,
        client_auth=ExtendedKeyUsageOID.CLIENT_AUTH in extended,
        serial=certificate.serial_number,
        names=tuple(parts),
        emails=emails,
        usage_bits=sum(_USAGE_BITS[name] for name in usage or ()),
        extended_usage=frozenset(oid.dotted_string for oid in extended),
        sha1=hashlib.sha1(der, usedforsecurity=False).digest(),
    )


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Read our own chain, leaf first; raises `ConfigError`."""
    blocks = _PEM_CERTIFICATE.findall(pem)
    if not blocks:
        raise ConfigError("cert: no PEM certificate in it")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except Exception:  # as above
        raise ConfigError("cert: a certificate in it cannot be read") from None


def load_revocations(pem: bytes) -> x509.CertificateRevocationList:
    """Read one list of revoked certificates; raises ValueError."""
    return x509.load_pem_x509_crl(pem)


def load_private_key(pem: bytes) -> object:
    """Read our own unencrypted key; raises `ConfigError`, which never shows any of it."""
    try:
        return load_pem_private_key(pem, password=None, **_AS_IT_IS)
    except TypeError:
        raise ConfigError("key: it is encrypted", fix="give an unencrypted PEM key") from None
    except Exception:
        raise ConfigError("key: it cannot be read", fix="give an unencrypted PEM key") from None


def _key_usage(certificate: x509.Certificate) -> frozenset[str] | None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return frozenset(name for name in _USAGE_BITS if getattr(usage, name))


def _emails(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.RFC822Name))


def _extended_usage(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()
