# SPDX-License-Identifier: BSD-2-Clause
"""Throw-away certificates and static keys, made anew for every session; nothing of them is kept in the repository."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto import keyfiles
from qubes_miragevpn.crypto.wrappedkey import timestamp_metadata, wrap_client_key

SERVER_NAME = "vpn.example"
CLIENT_NAME = "qube-one"


@dataclass(frozen=True)
class Pem:
    """A certificate and its private key, as PEM text."""

    certificate: str
    key: str


class Authority:
    """A certificate authority with an EC key."""

    def __init__(self, name: str, above: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (above or self)._builder(self._name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(certificate_signing=True), critical=True)
        self.certificate = _pem(builder.sign((above or self).key, hashes.SHA256()))

    def subordinate(self, name: str) -> Authority:
        """An authority that this one has issued."""
        return Authority(name, self)

    def issue(self, name: str, purpose: str, *, age: timedelta = timedelta(hours=1)) -> Pem:
        """A leaf for `purpose` "server" or "client"; with a negative `age` it is not valid yet."""
        key = ec.generate_private_key(ec.SECP256R1())
        use = ExtendedKeyUsageOID.SERVER_AUTH if purpose == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), age)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(certificate_signing=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pem(_pem(certificate), pem.decode("ascii"))

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, age: timedelta = timedelta(hours=1)
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - age)
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )


def _usage(*, certificate_signing: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificate_signing, key_cert_sign=certificate_signing, crl_sign=certificate_signing,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def static_key() -> str:
    """A 2048-bit static key file in OpenVPN's format."""
    digits = secrets.token_hex(256)
    lines = "\n".join(digits[at : at + 32] for at in range(0, len(digits), 32))
    return f"-----BEGIN OpenVPN Static key V1-----\n{lines}\n-----END OpenVPN Static key V1-----\n"


@dataclass(frozen=True)
class Pki:
    """Everything the tests need: the right material, and wrong material of each kind."""

    ca: str
    server: Pem
    client: Pem
    second_client: Pem
    static: str
    v2_server: str
    v2_client: str
    foreign_ca: str
    foreign_server: Pem
    foreign_client: Pem
    foreign_static: str


def make() -> Pki:
    """New keys and certificates (some tens of milliseconds)."""
    ours, foreign = Authority("Interop CA"), Authority("Foreign CA")
    server_key, client_key = Secret(secrets.token_bytes(128)), Secret(secrets.token_bytes(256))
    wrapped = wrap_client_key(server_key, client_key, timestamp_metadata(int(time.time())))
    return Pki(
        ca=ours.certificate,
        server=ours.issue(SERVER_NAME, "server"),
        client=ours.issue(CLIENT_NAME, "client"),
        second_client=ours.issue("qube-two", "client"),
        static=static_key(),
        v2_server=keyfiles.render_server_key(server_key),
        v2_client=keyfiles.render_client_key(keyfiles.ClientKey(client_key, wrapped)),
        foreign_ca=foreign.certificate,
        foreign_server=foreign.issue(SERVER_NAME, "server"),
        foreign_client=foreign.issue(CLIENT_NAME, "client"),
        foreign_static=static_key(),
    )
