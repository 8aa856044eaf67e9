# SPDX-License-Identifier: BSD-2-Clause
"""Whom to trust, who we are, and what TLS may use: settings to `PeerPolicy`, `Identity` and `TlsChoices`.

Certificates, keys, PKCS#12 files and lists of revoked certificates are decoded here and checked against each other: the
key fits the certificate, each certificate of a chain issued the one before. Expiry is a warning, if the caller says
what time it is. Chains and signatures are verified by the TLS library when the peer shows its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from qubes_miragevpn.base.errors import ConfigError, KeyLocked
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.model import Identity, NameCheck, NameType, PeerPolicy, Revoked, TlsChoices
from qubes_miragevpn.config.reading.collect import Entry, Findings, Settings
from qubes_miragevpn.config.reading.sources import NO_COMMAND_LINE, CommandLine
from qubes_miragevpn.crypto import tlsnames
from qubes_miragevpn.crypto.identity import (
    Bundle,
    Chain,
    OwnKey,
    PasswordNeeded,
    date_text,
    decrypt_key,
    open_pkcs12,
    read_revocations,
)

MAX_DIRECTORY = 1024  # files of a directory of certificates or of revoked serial numbers
SOON = 14 * 86400  # seconds before expiry from which on a certificate is warned of

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]{1,3}\Z")
_HASHED_CRL = re.compile(r"[0-9a-f]{8}\.r[0-9]{1,3}\Z")
_SERIAL = re.compile(r"[0-9]{1,50}\Z")
_LEVELS = {"insecure": 0, "legacy": 1, "preferred": 2, "suiteb": 3}
_SUITE_B = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"  # RFC 6460
_WEAKEST_SAFE = 2  # the security level that distributions set


@dataclass(frozen=True)
class Surroundings:
    """What the caller of the loader offers besides reading files; None: not here.

    `list_directory` returns the names in a directory and may raise OSError; `ask_password` is asked with a text that
    names the file and returns None for no answer; `unix_time` is what expiry is judged by; the options of
    `command_line` count as if they stood below the file; `locked_keys`: a private key whose password the user is to
    give later is left out, so that the rest can be judged; `around`: routes may lead around the tunnel, and resolvers
    be asked in ways that a VPN qube cannot offer to the qubes behind it.
    """

    list_directory: Callable[[str], list[str]] | None = None
    ask_password: Callable[[str], Secret | None] | None = None
    unix_time: int | None = None
    command_line: CommandLine = NO_COMMAND_LINE
    locked_keys: bool = False
    around: bool = False


ALONE = Surroundings()
"""Nothing but files is to be had."""


@dataclass
class TrustBuilder:
    """Everything about certificates of one configuration."""

    settings: Settings
    read_file: material.ReadFile
    findings: Findings
    surroundings: Surroundings

    def __post_init__(self) -> None:
        self._bundle: Bundle | None = None
        self._password: Secret | None = None

    # --- who we are ----------------------------------------------------------------------------------

    def identity(self) -> Identity | None:
        """Our chain and key; raises `ConfigError`."""
        try:
            return self._identity()
        except KeyLocked as locked:
            if not self.surroundings.locked_keys:
                raise
            where = f"{locked.file}:{locked.line}"
            self.findings.warn(f"{where}: the private key has a password, which is asked for when the profile is used")
            return None

    def _identity(self) -> Identity | None:
        settings = self.settings
        if (entry := settings.last("pkcs12")) is not None:
            bundle = self._opened(entry)
            others = b"" if self._needs_ca() else bundle.others
            return self._checked(entry, entry, bundle.certificate + others + self._extra(), bundle.key)
        cert, key = settings.last("cert"), settings.last("key")
        if cert is None or key is None:
            return None
        chain = material.certificates(cert, self.read_file) + self._extra()
        return self._checked(cert, key, chain, self._private_key(key))

    def _extra(self) -> bytes:
        entry = self.settings.last("extra-certs")
        return b"" if entry is None else material.certificates(entry, self.read_file)

    def _needs_ca(self) -> bool:
        """Whether the authorities are those of the PKCS#12 file (openvpn: when there is no ``ca``)."""
        return not any(self.settings.has(name) for name in ("ca", "capath", "peer-fingerprint"))

    def _opened(self, entry: Entry) -> Bundle:
        if self._bundle is None:
            data = material.content(entry, self.read_file)
            self._bundle = self._with_password(entry, lambda password: open_pkcs12(data, password))
        return self._bundle

    def _private_key(self, entry: Entry) -> OwnKey:
        pem = material.private_key(entry, self.read_file)
        return self._with_password(entry, lambda password: decrypt_key(pem, password))

    def _with_password(self, entry: Entry, action: Callable[[Secret | None], material.T]) -> material.T:
        """Do `action` without a password, then with that of ``askpass``, then with one that somebody types."""
        found: PasswordNeeded | None = None
        for password in self._passwords(entry):
            try:
                return action(password)
            except PasswordNeeded as error:
                found = error
            except ConfigError as error:
                raise entry.error(f"'{entry.row.name}': {error.problem}", error.fix) from None
        assert found is not None
        fix = found.fix or "write 'askpass FILE' with a file whose first line is the password"
        kind = ConfigError if self._password_in_file() is not None else KeyLocked
        raise kind(f"'{entry.row.name}': {found.problem}", file=entry.file, line=entry.line, fix=fix)

    def _password_in_file(self) -> Entry | None:
        """The line that names the file with the key's password."""
        askpass = self.settings.last("askpass")
        return askpass if askpass is not None and askpass.args[0] not in (None, "stdin") else None

    def _passwords(self, entry: Entry) -> Iterator[Secret | None]:
        yield None
        yield Secret(b"")
        askpass = self._password_in_file()
        if askpass is not None:
            yield material.first_line(askpass, self.read_file)
        elif self.surroundings.ask_password is not None:
            where = "" if entry.block is not None else f" '{printable(entry.args[0], 200)}'"
            typed = self.surroundings.ask_password(f"Password of the {entry.row.name} file{where}: ")
            if typed is not None:
                yield typed

    def _checked(self, cert: Entry, key: Entry, chain_pem: bytes, own: OwnKey) -> Identity:
        chain = self._chain(cert, chain_pem)
        try:
            place = chain.place_of(own)
        except ConfigError as error:
            raise cert.error(f"'{cert.row.name}': {error.problem}") from None
        if place is None:
            raise key.error("the private key belongs to none of the certificates", "give the key that was made with it")
        if place > 0:
            fix = "put it first, then those that issued it"
            raise cert.error(f"the private key belongs to certificate number {place + 1} of '{cert.row.name}'", fix)
        wrong = chain.first_out_of_order()
        if wrong is not None:
            self.findings.warn(
                cert.warning(f"certificate number {wrong + 1} of '{cert.row.name}' did not issue the one before it")
            )
        self._judge_times(cert, chain)
        return Identity(chain_pem, own.pem)

    def _chain(self, entry: Entry, pem: bytes) -> Chain:
        try:
            return Chain(material.split_certificates(pem))
        except ConfigError as error:
            raise entry.error(f"'{entry.row.name}': {error.problem}", error.fix) from None

    def _judge_times(self, entry: Entry, chain: Chain) -> None:
        now = self.surroundings.unix_time
        if now is None:
            return
        for found in chain.summaries:
            what = f"the certificate '{found.subject}' of '{entry.row.name}'"
            if now > found.not_after:
                self.findings.warn(entry.warning(f"{what} expired on {date_text(found.not_after)}"))
            elif now < found.not_before:
                self.findings.warn(entry.warning(f"{what} is valid from {date_text(found.not_before)} on only"))
            elif now > found.not_after - SOON:
                self.findings.warn(entry.warning(f"{what} expires on {date_text(found.not_after)}"))

    # --- whom to trust -------------------------------------------------------------------------------

    def peer(self) -> PeerPolicy:
        """What the peer's certificate must fulfil; raises `ConfigError`."""
        settings = self.settings
        name, old_name = settings.last("verify-x509-name"), settings.last("tls-remote")
        check = NameCheck(name.args[0], name.args[1] or NameType.SUBJECT) if name else None
        if check is None and old_name is not None:
            check = NameCheck(old_name.args[0], NameType.NAME_PREFIX)
        prints = frozenset(
            found for entry in settings.all("peer-fingerprint") for found in material.fingerprints(entry)
        )
        crl_pem, serials = self._revoked()
        usage = settings.last("remote-cert-ku")
        field = settings.last("x509-username-field")
        return PeerPolicy(
            ca_pem=self._authorities(),
            fingerprints=prints,
            remote_cert_tls=settings.value("remote-cert-tls") or settings.value("ns-cert-type"),
            name=check,
            issuer_hashes=frozenset(hash_ for entry in settings.all("verify-hash") for hash_ in _hashes(entry)),
            key_usages=tuple(usage.args) if usage else None,
            extended_usage=settings.value("remote-cert-eku", ""),
            username_fields=tuple(field.args) if field else PeerPolicy.username_fields,
            crl_pem=crl_pem,
            revoked_serials=serials,
            certificate=settings.value("verify-client-cert") or PeerPolicy.certificate,
            reread=self._rereader(),
        )

    def _authorities(self) -> bytes:
        settings = self.settings
        found = b""
        if (entry := settings.last("ca")) is not None:
            found = material.certificates(entry, self.read_file)
            self._judge_times(entry, self._chain(entry, found))
        if (entry := settings.last("capath")) is not None:
            for _, content in self._files(entry, _HASHED):
                found += material.certificates_in(entry, content)
            if not found:
                fix = "name the files by hash (`openssl rehash DIRECTORY`), or put them into one file named by 'ca'"
                raise entry.error("'capath' holds no certificate under a hashed name", fix)
            self._chain(entry, found)
        if (entry := settings.last("pkcs12")) is not None and self._needs_ca():
            try:
                found = self._opened(entry).others
            except KeyLocked:
                if not self.surroundings.locked_keys:
                    raise
                return b""
            if not found:
                raise entry.error("'pkcs12' holds no certificate of an authority", "add 'ca'")
            self._judge_times(entry, self._chain(entry, found))
        return found

    def _rereader(self) -> Callable[[], Revoked] | None:
        """What reads the files of revoked certificates once more, if there are any."""
        entry = self.settings.last("crl-verify")
        if (entry is None or entry.block is not None) and not self.settings.has("capath"):
            return None
        later = replace(self, findings=Findings())
        return later._revoked

    def _revoked(self) -> Revoked:
        pem = b""
        if (capath := self.settings.last("capath")) is not None:
            pem = b"".join(material.revocations_in(capath, content) for _, content in self._files(capath, _HASHED_CRL))
        entry = self.settings.last("crl-verify")
        if entry is None:
            return pem, None
        if entry.args[1] == "dir":
            return pem, frozenset(int(name) for name in self._names(entry) if _SERIAL.match(name))
        found = material.revocations(entry, self.read_file)
        now = self.surroundings.unix_time
        for one in material.split_revocations(found):
            try:
                summary = read_revocations(one)
            except ConfigError as error:
                raise entry.error(f"'crl-verify': {error.problem}") from None
            if now is not None and summary.next_update is not None and now > summary.next_update:
                until = date_text(summary.next_update)
                text = f"the revocation list of '{summary.issuer}' was good until {until}: nobody will be accepted"
                self.findings.warn(entry.warning(text))
        return pem + found, None

    def _names(self, entry: Entry) -> list[str]:
        if self.surroundings.list_directory is None:
            raise entry.error(f"'{entry.row.name}' names a directory, which cannot be read here", "name a file")
        path = entry.args[0]
        try:
            names = self.surroundings.list_directory(path)
        except OSError as error:
            why = printable(error.strerror or type(error).__name__, 80)
            raise entry.error(f"cannot read the directory '{printable(path)}' of '{entry.row.name}': {why}") from None
        if len(names) > MAX_DIRECTORY:
            raise entry.error(f"the directory of '{entry.row.name}' has more than {MAX_DIRECTORY} entries")
        return sorted(names)

    def _files(self, entry: Entry, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
        for name in self._names(entry):
            if pattern.match(name):
                yield name, material.file_content(entry, f"{entry.args[0].rstrip('/')}/{name}", self.read_file)

    # --- what TLS may use ----------------------------------------------------------------------------

    def choices(self) -> TlsChoices:
        """``tls-cipher`` and its relatives; raises `ConfigError`."""
        settings = self.settings
        profile = settings.last("tls-cert-profile")
        level = None if profile is None else _LEVELS[profile.args[0]]
        ciphers, suites = (
            self._list("tls-cipher", tlsnames.cipher_list),
            self._list("tls-ciphersuites", tlsnames.suite_list),
        )
        said = tlsnames.lowest_level(ciphers)
        for name, value in (("tls-cert-profile", level), ("tls-cipher", said)):
            if value is not None and value < _WEAKEST_SAFE and (entry := settings.last(name)) is not None:
                self.findings.warn(entry.warning(f"'{name}' allows weak keys and signatures (security level {value})"))
        groups = settings.last("tls-groups") or settings.last("ecdh-curve")
        try:
            chosen = "" if groups is None else tlsnames.group_list(groups.args[0])
        except ConfigError as error:
            assert groups is not None
            raise groups.error(f"'{groups.row.name}': {error.problem}", error.fix) from None
        if profile is not None and profile.args[0] == "suiteb" and not ciphers:
            ciphers = _SUITE_B
        return TlsChoices(ciphers, suites, chosen, level)

    def _list(self, name: str, read: Callable[[str], tuple[str, tuple[str, ...]]]) -> str:
        entry = self.settings.last(name)
        if entry is None:
            return ""
        try:
            known, unknown = read(entry.args[0])
        except ConfigError as error:
            raise entry.error(f"'{name}': {error.problem}", error.fix) from None
        for word in unknown[:5]:
            self.findings.warn(entry.warning(f"'{name}' names '{printable(word, 60)}', which is unknown and left out"))
        return known


def _hashes(entry: Entry) -> Iterator[bytes]:
    algorithm = (entry.args[1] if entry.block is None else None) or "SHA256"
    yield from material.hashes(entry, 20 if algorithm == "SHA1" else 32)
