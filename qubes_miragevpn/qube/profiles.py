# SPDX-License-Identifier: BSD-2-Clause
"""Profiles on disk: which there are, which is the current one, and reading one with its credentials.

A profile is ``NAME.ovpn``, or a directory ``NAME`` that holds exactly one ``*.ovpn`` beside the files it names, in
the profile directory. Files that a profile names must lie beside it: it comes from somebody else. The name
last switched to is remembered in a file, written atomically. Credentials are two lines in a file of the
profile's name, for root's eyes only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.names import valid_profile_name
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.runtime.files import profile_reader, read_bounded

MAX_PROFILES = 1000  # names listed; a reply of 64 KiB holds them
MAX_CREDENTIALS = 4096  # bytes
SUFFIX = ".ovpn"

_log = logging.getLogger("miragevpn.profiles")


class Profiles:
    """The profile directory of the machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def names(self) -> list[str]:
        """Every profile's name, in order. Entries with other names are not profiles and left out."""
        found = set()
        with contextlib.suppress(OSError), os.scandir(self._settings.profile_dir) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir():
                        name = entry.name
                    elif entry.is_file() and entry.name.endswith(SUFFIX):
                        name = entry.name.removesuffix(SUFFIX)
                    else:
                        continue
                    if valid_profile_name(name):
                        found.add(name)
        return sorted(found)[:MAX_PROFILES]

    def current(self, fallback: str | None = None) -> str | None:
        """The profile to connect with: the one switched to last, else `fallback`, else the only one there is."""
        names = self.names()
        for untrusted_name in (self._remembered(), fallback):
            if untrusted_name is not None and untrusted_name in names:
                return untrusted_name
        return names[0] if len(names) == 1 else None

    def _remembered(self) -> str | None:
        try:
            untrusted_name = read_bounded(self._settings.state_file).decode("ascii", "replace").strip()
        except OSError:
            return None
        return untrusted_name if valid_profile_name(untrusted_name) else None

    def remember(self, name: str) -> None:
        """Make `name` the current one, also after a restart. A disk that cannot be written is a warning."""
        path = self._settings.state_file
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=".current-", dir=path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(name + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            _log.warning("the current profile cannot be remembered: %s", error.strerror)

    def load(self, name: str) -> ClientConfig:
        """Read and check profile `name`; raises `ConfigError`. Warnings go to the log."""
        from qubes_miragevpn.config.loader import load_client

        file = self._file(name)
        try:
            text = read_bounded(file, beneath=self._settings.profile_dir)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=file.name) from None
        loaded = load_client(text, file=file.name, read_file=profile_reader(file.parent, confined=True))
        for warning in loaded.warnings:
            _log.warning("%s", printable(warning, 500))
        return loaded.config

    def _file(self, name: str) -> Path:
        if not valid_profile_name(name):
            raise ConfigError("not the name of a profile", file=printable(name, 64))
        directory = self._settings.profile_dir / name
        if not directory.is_dir():
            return self._settings.profile_dir / f"{name}{SUFFIX}"
        try:
            found = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=name) from None
        if len(found) != 1:
            raise ConfigError(f"holds {len(found)} files *{SUFFIX}", file=name, fix="one is needed")
        return found[0]

    def credentials(self, name: str) -> Credentials | None:
        """User name and password for profile `name`, or None; raises `ConfigError` if others may read the file."""
        if not valid_profile_name(name):
            return None
        path = self._settings.credentials_dir / name
        shown = f"credentials/{name}"
        try:
            status = path.stat()
            text = read_bounded(path, beneath=self._settings.credentials_dir)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=shown) from None
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError("may be read by others", file=shown, fix="chmod 600")
        lines = text[: MAX_CREDENTIALS + 1].decode("utf-8", "surrogateescape").splitlines()
        if len(text) > MAX_CREDENTIALS or len(lines) != 2 or not lines[0]:
            raise ConfigError("must be two lines, user name and password", file=shown)
        return Credentials(lines[0], Secret(lines[1].encode("utf-8", "surrogateescape")))
