# SPDX-License-Identifier: BSD-2-Clause
"""Rules about who we are and whom we trust: certificates, names, logins; each is named by its row of the table."""

from __future__ import annotations

from qubes_miragevpn.config.building.rules.rule import Breach
from qubes_miragevpn.config.reading.collect import Settings


def anchor(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("ca", "capath", "pkcs12", "peer-fingerprint")):
        return None
    return Breach(
        None,
        "nothing says which peer to trust: neither 'ca' nor 'peer-fingerprint' is there",
        "add the <ca> block, or 'peer-fingerprint' with the SHA-256 fingerprint of the peer's certificate",
    )


def authentication(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("auth-user-pass", "cert", "key", "pkcs12")):
        return None
    return Breach(
        None,
        "there is nothing to log in with: neither 'cert' and 'key' nor 'auth-user-pass' is there",
        "add 'auth-user-pass', or the <cert> and <key> blocks",
    )


_TELLS_ROLES = (
    "remote-cert-tls", "ns-cert-type", "verify-x509-name", "tls-remote", "peer-fingerprint", "remote-cert-eku",
    "verify-hash",
)  # fmt: skip


def server_role_of_peer(settings: Settings) -> Breach | None:
    for name in _TELLS_ROLES:
        if settings.has(name):
            return None
    return Breach(
        None,
        "any certificate of the CA passes for the server's, also another customer's",
        "add 'remote-cert-tls server', or 'verify-x509-name NAME name'",
    )


def own_certificate(settings: Settings) -> Breach | None:
    if settings.has("cert") or settings.has("pkcs12"):
        return None
    return Breach(None, "a server needs a certificate: 'cert' is missing", "add 'cert' and 'key'")


def two_identities(settings: Settings) -> Breach | None:
    for name in ("cert", "key"):
        if settings.has("pkcs12") and settings.has(name):
            problem = f"'{name}' and 'pkcs12', which holds certificate and key, exclude each other"
            return Breach(settings.last(name), problem, "keep one of them")
    return None


def extra_without_own(settings: Settings) -> Breach | None:
    if settings.has("extra-certs") and not (settings.has("cert") or settings.has("pkcs12")):
        return Breach(settings.last("extra-certs"), "'extra-certs' needs 'cert'", "add 'cert' and 'key'")
    return None


def hash_without_authority(settings: Settings) -> Breach | None:
    if settings.has("verify-hash") and not any(settings.has(name) for name in ("ca", "capath", "pkcs12")):
        return Breach(settings.last("verify-hash"), "'verify-hash' needs 'ca'", "add the <ca> block")
    return None


def revocation_without_authority(settings: Settings) -> Breach | None:
    if settings.has("crl-verify") and not any(settings.has(name) for name in ("ca", "capath", "pkcs12")):
        problem = "'crl-verify' needs 'ca': pinned certificates are not looked up in a list"
        return Breach(settings.last("crl-verify"), problem, "remove the pin of a certificate that is revoked")
    return None


def two_cert_types(settings: Settings) -> Breach | None:
    new, old = settings.last("remote-cert-tls"), settings.last("ns-cert-type")
    if new is not None and old is not None and new.args[0] != old.args[0]:
        return Breach(old, "'ns-cert-type' contradicts 'remote-cert-tls'", "remove 'ns-cert-type'")
    return None


def old_cert_type(settings: Settings) -> Breach | None:
    entry = settings.last("ns-cert-type")
    if entry is not None and not settings.has("remote-cert-tls"):
        role = entry.args[0]
        return Breach(entry, f"'ns-cert-type {role}' is taken as 'remote-cert-tls {role}'", "write it that way")
    return None


def old_name(settings: Settings) -> Breach | None:
    entry = settings.last("tls-remote")
    if entry is None:
        return None
    if settings.has("verify-x509-name"):
        return Breach(entry, "'tls-remote' and 'verify-x509-name' exclude each other", "remove 'tls-remote'")
    if "=" in entry.args[0] or entry.args[0].startswith("/"):
        return Breach(entry, "'tls-remote' with a whole subject is not understood", "write 'verify-x509-name'")
    return None


def old_name_taken(settings: Settings) -> Breach | None:
    entry = settings.last("tls-remote")
    if entry is None:
        return None
    taken = "'tls-remote NAME' is taken as 'verify-x509-name NAME name-prefix'"
    return Breach(entry, taken, "write it that way, or better with 'name'")
