# SPDX-License-Identifier: BSD-2-Clause
"""The store of profiles: which there are, reading one with what belongs to it, and changing what is there.

A profile is ``NAME.ovpn``, or a folder ``NAME`` that holds exactly one ``*.ovpn`` beside the files it names, in
the profile folder. Files that a profile names must lie beside it: it comes from somebody else. Where both are
there, the folder counts. What is imported becomes a folder, checked by the configuration's loader before it takes the
place of anything, and takes it in one step. Credentials and the owner's settings are files of the profile's name in
folders of their own, so that importing a profile anew leaves them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.names import valid_profile_name
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials
from qubes_miragevpn.qube.profiles import bundle, credentials, options
from qubes_miragevpn.qube.profiles.options import ProfileOptions
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.files import directory_lister, profile_reader, read_bounded

MAX_PROFILES = 1000  # names listed, and the most that importing makes; a reply of 64 KiB holds them
SUFFIX = bundle.SUFFIX

_log = logging.getLogger("miragevpn.profiles")


class Profiles:
    """The profile folder of the machine, and the folders that go with it."""

    def __init__(self, settings: Settings) -> None:
        self._profiles = settings.profile_dir
        self._credentials = settings.credentials_dir
        self._options = settings.profile_settings_dir

    # --- reading ------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every profile's name, in order. Entries with other names are not profiles and left out."""
        found = set()
        with contextlib.suppress(OSError), os.scandir(self._profiles) as entries:
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

    def load(self, name: str, key_password: Secret | None = None) -> ClientConfig:
        """Read profile `name`; raises `ConfigError`, `KeyLocked` if its key needs a password, or another one.

        Warnings go to the log.
        """
        return self._load(name, ask_password=None if key_password is None else lambda _: key_password)

    def check(self, name: str) -> None:
        """See that profile `name` can be used once the password of its key is known; otherwise as `load`."""
        self._load(name, locked_keys=True)

    def _load(self, name: str, **offered: Any) -> ClientConfig:
        file = self._file(name)
        try:
            text = read_bounded(file, beneath=self._profiles)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=file.name) from None
        from qubes_miragevpn.config.building.trust import Surroundings
        from qubes_miragevpn.config.loader import load_client

        surroundings = Surroundings(
            list_directory=directory_lister(file.parent, confined=True), unix_time=int(time.time()), **offered
        )
        loaded = load_client(
            text,
            file=file.name,
            read_file=profile_reader(file.parent, confined=True),
            surroundings=surroundings,
        )
        for warning in loaded.warnings:
            _log.warning("%s", printable(warning, 500))
        return loaded.config

    def _file(self, name: str) -> Path:
        if not valid_profile_name(name):
            raise ConfigError("not the name of a profile", file=printable(name, 64))
        directory = self._profiles / name
        if not directory.is_dir():
            return self._profiles / f"{name}{SUFFIX}"
        try:
            found = sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=name) from None
        if len(found) != 1:
            raise ConfigError(f"holds {len(found)} files *{SUFFIX}", file=name, fix="one is needed")
        return found[0]

    def credentials(self, name: str) -> Credentials | None:
        """User name and password for profile `name`, or None; raises `ConfigError` if others may read the file."""
        return credentials.read(self._credentials, name) if valid_profile_name(name) else None

    def options(self, name: str) -> ProfileOptions:
        """The owner's settings of profile `name`; raises `ConfigError`."""
        return options.load(self._options, name) if valid_profile_name(name) else ProfileOptions()

    # --- changing -----------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Make the folders that are missing, and remove what a crash left in them."""
        for folder in (self._profiles, self._credentials, self._options):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                _log.warning("%s cannot be made: %s", folder, error.strerror)
            disk.sweep(folder)

    def install(self, name: str, untrusted: bytes) -> tuple[str, ...]:
        """Make what was handed in the profile `name`, if the loader takes it; return the loader's warnings.

        Raises `ConfigError`, and OSError if the disk refuses; either leaves what was there.
        """
        self._must_be_new_name(name)
        if name not in (known := self.names()) and len(known) >= MAX_PROFILES:
            raise ConfigError(f"there are {MAX_PROFILES} profiles already")
        handed = bundle.unpack(untrusted)
        from qubes_miragevpn.config.building.trust import Surroundings
        from qubes_miragevpn.config.loader import load_client

        loaded = load_client(
            handed.text,
            file=f"{name}{SUFFIX}",
            read_file=handed.reader(),
            surroundings=Surroundings(locked_keys=True),
        )
        disk.write_folder(self._profiles / name, {f"{name}{SUFFIX}": handed.text, **handed.files})
        disk.remove(self._profiles / f"{name}{SUFFIX}")
        return loaded.warnings

    def remove(self, name: str) -> bool:
        """Remove profile `name` with its credentials and settings; False if there was none. Raises OSError."""
        if not valid_profile_name(name):
            return False
        found = [disk.remove(self._profiles / entry) for entry in (f"{name}{SUFFIX}", name)]
        disk.remove(self._credentials / name)
        disk.remove(self._options / name)
        return any(found)

    def rename(self, old: str, new: str) -> None:
        """Call profile `old` by the name `new`, with what belongs to it; raises `ConfigError` and OSError.

        Credentials and settings have both names for a moment: a crash loses neither.
        """
        self._must_be_new_name(new)
        names = self.names()
        if old not in names or new in names:
            raise ConfigError("there is no such profile" if old not in names else "there is such a profile already")
        folders = [folder for folder in (self._credentials, self._options) if (folder / old).is_file()]
        for folder in folders:
            disk.remove(folder / new)
            os.link(folder / old, folder / new, follow_symlinks=False)
        if (self._profiles / old).is_dir():
            os.rename(self._profiles / old, self._profiles / new)
        else:
            os.rename(self._profiles / f"{old}{SUFFIX}", self._profiles / f"{new}{SUFFIX}")
        disk.flush(self._profiles)
        for folder in folders:
            disk.remove(folder / old)

    def set_credentials(self, name: str, untrusted: bytes) -> bool:
        """Set the credentials of a profile, or forget them (empty, False); raises `ConfigError` and OSError."""
        if name not in self.names():
            raise ConfigError("there is no such profile")
        return credentials.write(self._credentials, name, untrusted)

    def _must_be_new_name(self, name: str) -> None:
        if not valid_profile_name(name) or name.endswith(SUFFIX):
            raise ConfigError("not a name that a profile can be given")
