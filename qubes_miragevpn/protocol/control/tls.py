# SPDX-License-Identifier: BSD-2-Clause
"""TLS over memory BIOs: bytes in, bytes out, no socket.

OpenSSL (through pyOpenSSL) is the one place of the core that draws randomness and reads the clock by itself: for
the handshake and for the validity of certificates. Chains are verified by OpenSSL, the leaf's own content by
`protocol.control.verify`; a profile that trusts pinned fingerprints only lets OpenSSL accept any chain and relies
on that second look, which `TlsEndpoint` performs itself before it hands out or takes any data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import OpenSSL
from OpenSSL import SSL, crypto

from qubes_miragevpn.base.errors import ConfigError, Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Identity, PeerPolicy, TlsChoices, TlsVersions
from qubes_miragevpn.crypto.x509 import (
    CertificateFacts,
    inspect_certificate,
    load_certificates,
    load_private_key,
    load_revocations,
)
from qubes_miragevpn.protocol.control.alerts import own_certificate_refused
from qubes_miragevpn.protocol.control.verify import peer_name, verify_chain, verify_leaf

_VERSIONS = {
    (1, 0): SSL.TLS1_VERSION,
    (1, 1): SSL.TLS1_1_VERSION,
    (1, 2): SSL.TLS1_2_VERSION,
    (1, 3): SSL.TLS1_3_VERSION,
}
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_PEM_REVOCATIONS = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.S)
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION
_OLD_NAMES = {"P-256": "prime256v1", "secp256r1": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}
_TAKES_KEYS = tuple(map(int, OpenSSL.__version__.split(".")[:2])) >= (24, 3)  # keys as `cryptography` has them
_RECORD = 16 * 1024
_NO_LIST = 3  # X509_V_ERR_UNABLE_TO_GET_CRL
_BY_THE_CLOCK = frozenset((9, 10, 11, 12))
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED and their like for lists: refusals that may pass by
themselves. The clock of a machine that just woke up is set right sooner or later, and servers and lists are renewed,
so the server is tried again as if it had not answered."""
_REMOVE = "remove the line: the library's own choice is a good one"
LIBRARY_CHOICES = TlsChoices()
MAX_CHAIN = 16  # certificates in a chain; OpenSSL's own default depth is 100
MAX_TLS_INPUT = 256 * 1024
"""Bytes that a peer may feed into one TLS session: handshake with the longest allowed chain, plus hours of messages."""

# What OpenSSL calls X509_V_ERR_*: the ones that an operator meets.
_VERIFY_ERRORS = {
    3: "there is no list of revoked certificates by its issuer in crl-verify",
    8: "the signature of the list of revoked certificates is wrong",
    7: "its signature is wrong",
    9: "it is not valid yet (is the clock right?)",
    10: "it has expired (is the clock right?)",
    11: "the list of revoked certificates is not valid yet (is the clock right?)",
    12: "the list of revoked certificates has expired: a new one is needed",
    18: "it is self-signed and not in ca",
    19: "its chain ends in a self-signed certificate that is not in ca",
    20: "its issuer is not in ca",
    21: "its chain cannot be verified with ca",
    22: "its chain is too long",
    23: "it is revoked",
    24: "its chain holds an invalid CA certificate",
    26: "its extended key usage does not allow this role",
    66: "its key is too weak",
    67: "its chain holds a key that is too weak",
    68: "its signature algorithm is too weak",
}


def make_context(
    identity: Identity | None,
    policy: PeerPolicy,
    versions: TlsVersions,
    choices: TlsChoices = LIBRARY_CHOICES,
    *,
    server: bool,
) -> SSL.Context:
    """Build the OpenSSL context of a role once; raises `ConfigError` when a certificate or key is unusable."""
    context = SSL.Context(SSL.TLS_METHOD)
    _choose(context, choices)  # first: the security level decides which certificates may be loaded
    context.set_options(_OPTIONS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_min_proto_version(_VERSIONS[versions.minimum])
    if versions.maximum is not None:
        context.set_max_proto_version(_VERSIONS[versions.maximum])
    context.set_verify_depth(MAX_CHAIN)
    if policy.ca_pem:
        store = context.get_cert_store()
        if store is None:
            raise ConfigError("OpenSSL offers no certificate store")
        for certificate in _certificates(policy.ca_pem, "ca"):
            store.add_cert(certificate)
        if policy.crl_pem:
            _load_revocations(store, policy.crl_pem)
    if identity is not None:
        _load_identity(context, identity)
    return context


def _choose(context: SSL.Context, choices: TlsChoices) -> None:
    """Set ciphers, suites and groups; an empty choice leaves the library's."""
    level = "" if choices.security_level is None else f"@SECLEVEL={choices.security_level}"
    ciphers = ":".join(filter(None, (choices.ciphers or ("DEFAULT" if level else ""), level)))
    try:
        if ciphers:
            context.set_cipher_list(ciphers.encode("ascii"))
    except SSL.Error:
        raise ConfigError("tls-cipher: the TLS library has none of these ciphers", fix=_REMOVE) from None
    if choices.suites:
        _set_suites(context, choices.suites.encode("ascii"))
    if choices.groups:
        _set_groups(context, choices.groups)


def _set_groups(context: SSL.Context, groups: str) -> None:
    set_list = getattr(_library(), "SSL_CTX_set1_curves_list", None)  # cryptography 40
    if set_list is not None:
        if set_list(_pointer(context), groups.encode("ascii")) == 1:
            return
        _forget_errors()
        raise ConfigError("tls-groups: the TLS library does not have all of these groups", fix="write 'X25519:P-256'")
    try:
        context.set_tmp_ecdh(crypto.get_elliptic_curve(_OLD_NAMES.get(groups, groups)))
    except ValueError:
        raise ConfigError(
            "tls-groups: this version of python-cryptography can set one NIST curve only",
            fix="write 'P-256' or 'P-384'",
        ) from None


def _set_suites(context: SSL.Context, suites: bytes) -> None:
    if _library().SSL_CTX_set_ciphersuites(_pointer(context), suites) != 1:
        _forget_errors()
        raise ConfigError("tls-ciphersuites: the TLS library does not have all of these suites", fix=_REMOVE)


def _library() -> Any:
    """OpenSSL itself, for two calls that pyOpenSSL (the second one: some versions of it) has no method for."""
    return vars(SSL)["_lib"]


def _pointer(context: SSL.Context) -> Any:
    return context._context


def _forget_errors() -> None:
    """Empty OpenSSL's queue of errors, which the next call would report otherwise."""
    while _library().ERR_get_error():
        pass


def _load_revocations(store: crypto.X509Store, pem: bytes) -> None:
    for block in _PEM_REVOCATIONS.findall(pem):
        try:
            _give(store.add_crl, load_revocations(block), partial(_older_revocations, block))
        except (crypto.Error, ValueError):
            raise ConfigError("crl-verify: a list in it cannot be read") from None
    store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)


def _older_revocations(block: bytes, _: object) -> object:
    return crypto.load_crl(crypto.FILETYPE_PEM, block)  # type: ignore[attr-defined]


def library_version() -> str:
    """What the TLS library calls itself, printable."""
    return printable(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace"), 60)


def _certificates(pem: bytes, what: str) -> list[crypto.X509]:
    blocks = _PEM_CERTIFICATE.findall(pem)
    if not blocks:
        raise ConfigError(f"{what}: no PEM certificate in it")
    try:
        return [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except (crypto.Error, ValueError):
        raise ConfigError(f"{what}: a certificate in it cannot be read") from None


def _load_identity(context: SSL.Context, identity: Identity) -> None:
    leaf, *others = load_certificates(identity.chain_pem)
    try:
        _give(context.use_certificate, leaf, crypto.X509.from_cryptography)
    except SSL.Error:
        raise ConfigError("cert: OpenSSL does not accept it", fix="its key or signature may be too weak") from None
    for other in others:
        _give(context.add_extra_chain_cert, other, crypto.X509.from_cryptography)
    pem = identity.key_pem.reveal()
    try:
        # not by `_give`: an older library would examine the key for tens of milliseconds, for nothing
        own: Any = load_private_key(pem) if _TAKES_KEYS else crypto.load_privatekey(crypto.FILETYPE_PEM, pem, b"")
        context.use_privatekey(own)
        context.check_privatekey()
    except (SSL.Error, crypto.Error):
        raise ConfigError("key: it does not belong to cert") from None


def _give(method: Callable[[Any], None], value: object, older: Callable[[Any], object]) -> None:
    """Hand a `cryptography` object to pyOpenSSL; versions before 24.3 want it as one of their own."""
    try:
        method(value)
    except (TypeError, AttributeError):
        method(older(value))


_VERIFY = {
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    "optional": SSL.VERIFY_PEER,
    "none": SSL.VERIFY_NONE,
}
"""What a server wants of a client, by ``verify-client-cert``; a client always wants the server's certificate."""

WITHOUT_CERTIFICATE = CertificateFacts(b"", "", "", None, server_auth=False, client_auth=False)


class CertificateUnwanted(PeerError):
    """The server refuses our certificate, and said so."""


class TlsEndpoint:
    """One TLS session. After any `PeerError` it is dead, but `take_output` may still hold the alert to send."""

    def __init__(self, context: SSL.Context, policy: PeerPolicy, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self._policy = policy
        self._verify_error = ""
        self._by_the_clock = False
        self._server = server
        self._peer: CertificateFacts | None = None
        self._fed = 0
        self._connection.set_verify(_VERIFY[policy.certificate if server else "require"], self._verify_callback())
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def _verify_callback(self) -> Callable[[SSL.Connection, crypto.X509, int, int, int], bool]:
        pinned_only = not self._policy.ca_pem

        def judge(_: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
            if number == _NO_LIST and depth > 0:
                return True  # as openvpn: authorities that publish no list of their own are common
            if not ok and not pinned_only:
                cause = _VERIFY_ERRORS.get(number, f"OpenSSL verification error {number}")
                self._verify_error = f"{_subject(certificate)} at depth {depth}: {cause}"
                self._by_the_clock = number in _BY_THE_CLOCK
            return bool(ok) or pinned_only

        return judge

    @property
    def established(self) -> bool:
        """The handshake is done and the peer's certificate was accepted."""
        return self._peer is not None

    @property
    def peer(self) -> CertificateFacts:
        """The verified certificate of the peer; only after `established`."""
        assert self._peer is not None
        return self._peer

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer, go as far as possible, return the application records that came.

        Raises `PeerError`; FATAL where one side refuses the other's certificate, for a reason that stays.
        """
        self._fed += len(data)
        if self._fed > MAX_TLS_INPUT:
            raise PeerError(f"more than {MAX_TLS_INPUT} bytes in one TLS session", Consequence.END_SESSION)
        if data:
            self._connection.bio_write(data)
        try:
            if not self.established and not self._handshake():
                return []
            return self._records()
        except SSL.WantReadError:
            return []
        except SSL.ZeroReturnError:
            raise PeerError("the peer closed the TLS session", Consequence.END_SESSION) from None
        except SSL.Error as error:
            if self._verify_error:
                end = Consequence.END_SESSION if self._by_the_clock else Consequence.FATAL
                raise PeerError(f"certificate refused: {self._verify_error}", end) from None
            raise self._failure(_reason(error)) from None

    def _failure(self, reason: str) -> PeerError:
        """What a fatal error of OpenSSL's means; a server that refuses our certificate will go on doing so."""
        if not (why := own_certificate_refused(reason)):
            return PeerError(f"TLS failed: {reason}", Consequence.END_SESSION)
        if self._server:
            return PeerError(f"the client refuses our certificate: {why}", Consequence.END_SESSION)
        return CertificateUnwanted(f"the server refuses our certificate: {why}", Consequence.FATAL)

    def _handshake(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        certificate = self._connection.get_peer_certificate()
        if certificate is None:
            if not self._server or self._policy.certificate == "require":
                raise PeerError("certificate refused: the peer sent none", Consequence.FATAL)
            self._peer = WITHOUT_CERTIFICATE
            return True
        facts = inspect_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
        facts = replace(facts, common_name=peer_name(facts, self._policy))
        verify_leaf(facts, self._policy)
        if self._policy.issuer_hashes or self._policy.revoked_serials is not None:
            verify_chain([facts, *self._issuers()], self._policy)
        self._peer = facts
        return True

    def _issuers(self) -> list[CertificateFacts]:
        """The verified chain above the peer's own certificate."""
        chain = self._connection.get_verified_chain() or []
        return [inspect_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, one)) for one in chain[1:]]

    def _records(self) -> list[bytes]:
        records: list[bytes] = []
        while True:
            try:
                records.append(self._connection.recv(_RECORD))
            except SSL.WantReadError:
                return records
            except SSL.ZeroReturnError:
                if records:
                    return records  # the next call reports the close
                raise

    def write(self, record: bytes) -> None:
        """Send one application record; raises `PeerError` if the session is dead."""
        try:
            self._connection.send(record)
        except SSL.Error as error:
            raise PeerError(f"TLS failed: {_reason(error)}", Consequence.END_SESSION) from None

    def take_output(self) -> bytes:
        """Return what is to be carried to the peer."""
        chunks = []
        while True:
            try:
                chunks.append(self._connection.bio_read(_RECORD))
            except SSL.WantReadError:
                return b"".join(chunks)
            except SSL.Error:  # nothing more after a fatal error
                return b"".join(chunks)

    def export(self, label: bytes, size: int) -> Secret:
        """RFC 5705 exporter without context."""
        return Secret(self._connection.export_keying_material(label, size))

    def describe(self) -> str:
        """TLS version and cipher, for the log."""
        return f"{self._connection.get_protocol_version_name()} {self._connection.get_cipher_name() or '?'}"


def _subject(certificate: crypto.X509) -> str:
    try:
        return repr(printable(inspect_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)).subject))
    except PeerError:
        return "a certificate that cannot be read"


def _reason(error: SSL.Error) -> str:
    details = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = [str(entry[2]) for entry in details if isinstance(entry, tuple) and len(entry) > 2 and entry[2]]
    return printable("; ".join(texts)) or type(error).__name__
