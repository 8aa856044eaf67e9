# SPDX-License-Identifier: BSD-2-Clause
"""Does the peer's own certificate fulfil our policy? Verification raises; it returns nothing that could be forgotten.

Source: OpenVPN ssl_verify.c: ``remote-cert-tls`` (key usage and extended key usage), ``verify-x509-name`` (its three
types), ``peer-fingerprint``, ``verify-hash``, ``remote-cert-ku``, ``remote-cert-eku``, ``x509-username-field``,
``crl-verify`` with a directory. Lists of revoked certificates are the TLS library's (`protocol.control.tls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

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
    if policy.key_usages is not None:
        _verify_key_usages(facts, policy.key_usages)
    if policy.extended_usage and policy.extended_usage not in facts.extended_usage:
        _refuse(facts, f"remote-cert-eku wants the extended key usage {policy.extended_usage}")
    if policy.name is not None:
        _verify_name(facts, policy.name)


def verify_chain(chain: Sequence[CertificateFacts], policy: PeerPolicy) -> None:
    """The same for what concerns the certificates above the peer's own, `chain[0]`."""
    leaf = chain[0]
    if policy.issuer_hashes:
        # openvpn looks at the certificate at depth 1; a certificate that nobody else issued has none
        hashes = {chain[1].fingerprint, chain[1].sha1} if len(chain) > 1 else set()
        if not hashes & policy.issuer_hashes:
            _refuse(leaf, "the hash of its issuer's certificate is not in verify-hash")
    if policy.revoked_serials is not None:
        for certificate in chain:
            if certificate.serial in policy.revoked_serials:
                _refuse(certificate, f"its serial number {certificate.serial} is in the directory of crl-verify")


def peer_name(facts: CertificateFacts, policy: PeerPolicy) -> str:
    """What the peer is called: its common name, or what ``x509-username-field`` makes its name. Raises `PeerError`."""
    if policy.username_fields == PeerPolicy.username_fields:
        return facts.common_name
    return "_".join(_field(facts, field) for field in policy.username_fields)


def _field(facts: CertificateFacts, field: str) -> str:
    if field == "serialNumber":
        return f"0x{facts.serial:X}"
    if field == "ext:subjectAltName":
        values = list(facts.emails)
    else:
        values = [value for name, value in facts.names if name == field]
    if not values or not values[-1] or not values[-1].isprintable():
        _refuse(facts, f"x509-username-field wants a {field}, which it does not have")
    return values[-1]


def _verify_key_usages(facts: CertificateFacts, wanted: tuple[int, ...]) -> None:
    if facts.key_usage is None:
        _refuse(facts, "remote-cert-ku wants a key usage extension")
    if wanted and not any(facts.usage_bits & bits == bits for bits in wanted):
        shown = " or ".join(f"{bits:02x}" for bits in wanted)
        _refuse(facts, f"remote-cert-ku wants the key usages {shown}, it has {facts.usage_bits:02x}")


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


def _refuse(facts: CertificateFacts, why: str) -> NoReturn:
    raise PeerError(f"certificate refused: {printable(facts.subject)!r}: {why}", Consequence.FATAL)
