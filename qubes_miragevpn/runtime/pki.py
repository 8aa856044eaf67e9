# SPDX-License-Identifier: BSD-2-Clause
"""The folder of a small authority: `miragevpn pki` and nobody else writes it.

    ca.crt  ca.key              the authority; its key may be encrypted
    tls-crypt-v2.key            the key that wraps every client's own
    crl.pem                     the certificates that are revoked, for `crl-verify`
    issued/NAME.crt             the newest certificate of each name; no key of a client is kept
    remote.json                 where clients find the server
    server.conf                 the server's configuration, which is one file with all but the list

A certificate is written down before its key leaves, so that nothing exists which cannot be revoked. Every file is its
owner's alone and is replaced in one step; two commands at once wait for each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto import keyfiles
from qubes_miragevpn.crypto.authority import Authority, Described, Issued, Purpose, describe, revoked
from qubes_miragevpn.crypto.identity import PasswordNeeded
from qubes_miragevpn.crypto.wrappedkey import SERVER_KEY_SIZE, timestamp_metadata, wrap_client_key
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.files import read_bounded

MAX_ISSUED = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
_CA, _CA_KEY, _WRAPPING, _REVOKED = "ca.crt", "ca.key", "tls-crypt-v2.key", "crl.pem"
_ISSUED, _REMOTE, SERVER_CONF = "issued", "remote.json", "server.conf"

Ask = Callable[[str], Secret | None]
"""Asks for a password with this prompt; None: nobody can be asked."""


@dataclass(frozen=True)
class Place:
    """Where clients find the server, and the name that its certificate bears."""

    address: str
    port: int
    proto: str
    name: str


@dataclass(frozen=True)
class Entry:
    """A certificate that was issued."""

    described: Described
    revoked: bool


def check_name(name: str) -> str:
    """Return `name` if a certificate may bear it; raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError("not a name: letters, digits and . _ @ -, 63 at most, a letter or digit first")
    return name


def create(path: Path, name: str, password: Secret | None, now: datetime, lifetime: timedelta) -> None:
    """Make the folder `path` with a new authority; raises `ConfigError` if something is there already."""
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ConfigError("something is there already", file=str(path), fix="name a folder that is new or empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    authority = Authority.make(name, now, lifetime, os.urandom)
    disk.write_folder(path, {
        _CA: authority.certificate,
        _CA_KEY: authority.private_key(password).reveal(),
        _WRAPPING: keyfiles.render_server_key(Secret(os.urandom(SERVER_KEY_SIZE))).encode(),
        _REVOKED: authority.revocations((), now),
    })  # fmt: skip
    (path / _ISSUED).mkdir(mode=0o700)


class Folder:
    """An authority's folder, locked against other commands; `ask` is asked when its key is encrypted."""

    def __init__(self, path: Path, ask: Ask) -> None:
        self.path = path
        self._ask = ask

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, ask: Ask) -> Iterator[Folder]:
        """Work on `path` alone; raises `ConfigError` if it is no authority's folder."""
        if not (path / _CA).is_file() or not (path / _ISSUED).is_dir():
            raise ConfigError("no authority is here", file=str(path), fix=f"miragevpn pki init {path}")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            disk.sweep(path)
            disk.sweep(path / _ISSUED)
            yield cls(path, ask)
        finally:
            os.close(descriptor)

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def ca(self) -> bytes:
        """The authority's certificate."""
        return self._read(_CA)

    @property
    def wrapping_key(self) -> bytes:
        """The server's file for `tls-crypt-v2`."""
        return self._read(_WRAPPING)

    def place(self) -> Place:
        """Where the server is; raises `ConfigError` if there is none yet."""
        try:
            return Place(**json.loads(self._read(_REMOTE)))
        except FileNotFoundError:
            raise ConfigError(
                "there is no server yet", file=str(self.path), fix=f"miragevpn pki server {self.path} ADDRESS"
            ) from None
        except (ValueError, TypeError):
            raise ConfigError("the file is damaged", file=str(self.path / _REMOTE)) from None

    def entries(self) -> list[Entry]:
        """The newest certificate of every name, by name."""
        serials = {serial for serial, _ in revoked(self._read(_REVOKED))}
        files = sorted((self.path / _ISSUED).glob("*.crt"))[:MAX_ISSUED]
        found = [describe(read_bounded(file)) for file in files]
        return [Entry(each, each.serial in serials) for each in found]

    def entry(self, name: str) -> Entry | None:
        """The newest certificate of `name`."""
        try:
            described = describe(self._read(f"{_ISSUED}/{check_name(name)}.crt"))
        except FileNotFoundError:
            return None
        return Entry(described, described.serial in {serial for serial, _ in revoked(self._read(_REVOKED))})

    # --- changing -------------------------------------------------------------------------------------------

    def issue(self, name: str, purpose: Purpose, now: datetime, lifetime: timedelta, *, again: bool) -> Issued:
        """A certificate for `name`; with `again` the one before it is revoked, without it refused."""
        before = self.entry(name)
        authority = self._authority()
        if before is not None and not before.revoked:
            if not again:
                raise ConfigError(f"{name} has a certificate", fix="--again revokes it and issues another")
            self._revoke(authority, before, now)
        issued = authority.issue(name, purpose, now, lifetime, os.urandom)
        disk.write_file(self.path / _ISSUED / f"{name}.crt", issued.certificate)
        return issued

    def client_key(self, now: datetime) -> str:
        """A new client's file for `tls-crypt-v2`, which tells the server when it was made."""
        key = Secret(os.urandom(keyfiles.KEY_BYTES))
        metadata = timestamp_metadata(int(now.timestamp()))
        wrapped = wrap_client_key(keyfiles.parse_server_key(self.wrapping_key), key, metadata)
        return keyfiles.render_client_key(keyfiles.ClientKey(key, wrapped))

    def revoke(self, name: str, now: datetime) -> bool:
        """Have the server refuse the certificate of `name`; False if it does already. Raises `ConfigError`."""
        entry = self.entry(name)
        if entry is None:
            raise ConfigError(f"{name} never had a certificate", fix=f"miragevpn pki list {self.path}")
        if not entry.revoked:
            self._revoke(self._authority(), entry, now)
        return not entry.revoked

    def make_room(self, now: datetime, *, again: bool) -> None:
        """Let another server take the place of the one there may be: with `again` that one's certificate is revoked."""
        if not (self.path / _REMOTE).exists():
            return
        if not again:
            raise ConfigError("there is a server already", file=str(self.path / SERVER_CONF), fix="--again replaces it")
        self.revoke(self.place().name, now)

    def write_server(self, place: Place, text: str) -> Path:
        """Keep the server's configuration, and where it is for the profiles of clients."""
        disk.write_file(self.path / _REMOTE, json.dumps(asdict(place)).encode())
        disk.write_file(self.path / SERVER_CONF, text.encode())
        return self.path / SERVER_CONF

    def _revoke(self, authority: Authority, entry: Entry, now: datetime) -> None:
        known = revoked(self._read(_REVOKED))
        disk.write_file(self.path / _REVOKED, authority.revocations([*known, (entry.described.serial, now)], now))

    def _authority(self) -> Authority:
        certificate, key = self.ca, self._read(_CA_KEY)
        try:
            return Authority.load(certificate, key, None)
        except PasswordNeeded:
            password = self._ask("Password of the authority's key: ")
        return Authority.load(certificate, key, password)

    def _read(self, name: str) -> bytes:
        try:
            return read_bounded(self.path / name)
        except OSError as error:
            if error.errno == errno.ENOENT and name.startswith((_ISSUED, _REMOTE)):
                raise
            raise ConfigError(f"cannot be read: {error.strerror}", file=str(self.path / name)) from None
