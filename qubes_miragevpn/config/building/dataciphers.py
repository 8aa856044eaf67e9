# SPDX-License-Identifier: BSD-2-Clause
"""Settings to the data channel's cipher suites and digest.

``data-ciphers`` is what is negotiated. A ``cipher`` beside no ``data-ciphers``, as profiles for old servers have it,
joins the defaults at their end, and is what a server that does not negotiate is taken to use (openvpn's
``compat-mode 2.3.0``, without asking). What is insecure is used only where ``allow-insecure-crypto`` names it, and
loudly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import DEFAULT_DATA_CIPHERS
from qubes_miragevpn.config.reading.collect import Entry, Findings, Settings
from qubes_miragevpn.crypto.digests import INSECURE_DIGESTS, canonical_digest
from qubes_miragevpn.crypto.suites import SUITES, Mode, canonical_cipher

DEFAULT_DIGEST = "SHA1"


@dataclass(frozen=True)
class DataCiphers:
    """`offered` in the order of preference; `digest` is "" where there is none (``auth none``)."""

    offered: tuple[str, ...]
    fallback: str | None
    digest: str


@dataclass
class DataCipherBuilder:
    """Reads the ciphers and the digest out of `settings`."""

    settings: Settings
    findings: Findings
    _allowed: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        entry = self.settings.last("allow-insecure-crypto")
        self._allowed = frozenset(entry.args) if entry else frozenset()

    def digest(self) -> str:
        """The digest of ``auth``, "" for "none". Raises `ConfigError` if it is unknown or not allowed."""
        entry = self.settings.last("auth")
        if entry is None:
            return DEFAULT_DIGEST
        if entry.args[0].lower() == "none":
            return ""
        shown = printable(entry.args[0], 40)
        digest = canonical_digest(entry.args[0])
        if digest is None:
            raise entry.error(f"the digest '{shown}' is not supported", "SHA1, SHA224, SHA256, SHA384 and SHA512 are")
        if digest in INSECURE_DIGESTS and digest not in self._allowed:
            raise entry.error(
                f"the digest '{shown}' is insecure: {INSECURE_DIGESTS[digest]}",
                f"use another, here and at the other end, or add 'allow-insecure-crypto {digest}'",
            )
        return digest

    def build(self) -> DataCiphers:
        """Raises `ConfigError`."""
        digest = self.digest()
        explicit = self.settings.last("data-ciphers")
        offered = DEFAULT_DATA_CIPHERS if explicit is None else self._list(explicit, digest)
        fallback = self._fallback(digest)
        single = self.settings.last("cipher")
        if single is not None and canonical_cipher(single.args[0]) not in offered:
            joined = self._usable(single, single.args[0], digest) if explicit is None else None
            if joined is None:
                shown = printable(single.args[0], 40)
                self.findings.warn(single.warning(f"'cipher {shown}' is ignored; {':'.join(offered)} are negotiated"))
            else:
                offered, fallback = (*offered, joined), fallback or joined
        self._warn_of(*offered, fallback or "", digest)
        return DataCiphers(offered, fallback, digest)

    def _list(self, entry: Entry, digest: str) -> tuple[str, ...]:
        ciphers: list[str] = []
        for word in entry.args[0].split(":"):
            if word == "DEFAULT":
                ciphers += DEFAULT_DATA_CIPHERS
                continue
            cipher = self._usable(entry, word.removeprefix("?"), digest, said=not word.startswith("?"))
            if cipher is not None:
                ciphers.append(cipher)
        if not ciphers:
            fix = f"write 'data-ciphers {':'.join(DEFAULT_DATA_CIPHERS)}'"
            raise entry.error("none of these data ciphers can be used", fix)
        return tuple(dict.fromkeys(ciphers))

    def _fallback(self, digest: str) -> str | None:
        entry = self.settings.last("data-ciphers-fallback")
        return None if entry is None else self._usable(entry, entry.args[0], digest)

    def _usable(self, entry: Entry, word: str, digest: str, *, said: bool = True) -> str | None:
        """The suite that `word` means; None, and a warning if it is to be `said`, if it cannot be used."""
        cipher, shown = canonical_cipher(word), printable(word, 40)
        if cipher is None:
            why = "is not supported and"
        elif SUITES[cipher].insecure and cipher not in self._allowed:
            why = f"is insecure ({SUITES[cipher].insecure}) without 'allow-insecure-crypto {cipher}' and"
        elif SUITES[cipher].mode is not Mode.AEAD and not digest:
            why = "has nothing to authenticate packets with, because of 'auth none', and is"
        else:
            return cipher
        if said:
            self.findings.warn(entry.warning(f"the data cipher '{shown}' {why} left out"))
        return None

    def _warn_of(self, *names: str) -> None:
        """Say loudly, in a line for each, which of the algorithms in use are insecure."""
        entry = self.settings.last("allow-insecure-crypto")
        for name, reason in _insecure(names):
            if entry is not None:
                self.findings.warn(entry.warning(f"INSECURE: the tunnel's packets may use '{name}': {reason}"))


def _insecure(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in dict.fromkeys(names):
        reason = SUITES[name].insecure if name in SUITES else INSECURE_DIGESTS.get(name, "")
        if reason:
            yield name, reason
