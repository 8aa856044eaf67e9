# SPDX-License-Identifier: BSD-2-Clause
"""Does the peer's own certificate fulfil our policy? Verification raises; it returns nothing that could be forgotten.

Source: OpenVPN ssl_verify.c: ``remote-cert-tls`` (key usage and extended key usage), ``verify-x509-name`` (its three
types), ``peer-fingerprint``.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import NameCheck, NameType, PeerPolicy
from qubes_miragevpn.crypto.x509 import CertificateFacts

# remote-cert-tls accepts these key usages (RFC 5280 4.2.1.12; OpenVPN additionally lets any one of them do).
_USAGES = {
    "server": frozenset({"digital_signature", "key_encipherment", "key_agreement"}),
    "client": frozenset({"digital_signature", "key_agreement"}),
}


def verify_leaf(facts: CertificateFacts, policy: PeerPolicy) -> None:
    """Return if `facts` satisfy every part of `policy`; raises `PeerError` (FATAL) naming the first that they do not.

    A policy that trusts neither a CA nor a fingerprint is a bug of the caller: `MisuseError`, never "accept".
    """
    if not policy.ca_pem and not policy.fingerprints:
        raise MisuseError("a peer policy without ca and without fingerprints")
    if policy.fingerprints and facts.fingerprint not in policy.fingerprints:
        _refuse(facts, f"its SHA-256 fingerprint {facts.fingerprint.hex(':')} is not in peer-fingerprint")
    if policy.remote_cert_tls is not None:
        _verify_usage(facts, policy.remote_cert_tls)
    if policy.name is not None:
        _verify_name(facts, policy.name)


def _verify_usage(facts: CertificateFacts, role: str) -> None:
    if facts.key_usage is None or not facts.key_usage & _USAGES[role]:
        _refuse(facts, f"remote-cert-tls {role} wants a key usage extension that allows TLS")
    if not (facts.server_auth if role == "server" else facts.client_auth):
        _refuse(facts, f"remote-cert-tls {role} wants the extended key usage TLS {role} authentication")


def _verify_name(facts: CertificateFacts, check: NameCheck) -> None:
    actual = facts.subject if check.type is NameType.SUBJECT else facts.common_name
    if check.type is NameType.NAME_PREFIX:
        good = bool(actual) and actual.startswith(check.expected)
    else:
        good = bool(actual) and actual == check.expected
    if not good:
        _refuse(facts, f"verify-x509-name wants {check.type.value} {check.expected!r}, it has {printable(actual)!r}")


def _refuse(facts: CertificateFacts, why: str) -> None:
    raise PeerError(f"certificate refused: {printable(facts.subject)!r}: {why}", Consequence.FATAL)
