# SPDX-License-Identifier: BSD-2-Clause
"""The files of ``client-config-dir``: read anew at each login, by a client's name, else ``DEFAULT``.

A name that is no name of a file there (with a slash, with a leading dot, too long) has none, and whoever bears such a
name is refused: its file, which may say `disable`, could not be written.
"""

from __future__ import annotations

from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientDir, OneClient
from qubes_miragevpn.config.perclient import load_one_client
from qubes_miragevpn.runtime.files import read_bounded

DEFAULT = "DEFAULT"
MAX_NAME = 255  # bytes of a file's name


class ClientFiles:
    """Reads one client's settings; see `protocol.server.Server`."""

    def __init__(self, rules: ClientDir, folder: Path) -> None:
        """`folder`: from where the path in `rules` counts. Raises `ConfigError` if there is no such directory."""
        self._folder = folder / rules.path
        self._exclusive = rules.exclusive
        if not self._folder.is_dir():
            raise ConfigError("there is no such directory", file=str(self._folder), fix="make it, or remove the line")

    def __call__(self, name: str) -> OneClient | None:
        """What is said of the client `name`, None for nothing. Raises `ConfigError` for a file that cannot be used."""
        if not _is_file_name(name) or name == DEFAULT:
            raise ConfigError(f"no file in client-config-dir can be called {printable(name, 64)!r}")
        for each in (name,) if self._exclusive else (name, DEFAULT):
            path = self._folder / each
            try:
                text = read_bounded(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
            return load_one_client(text, file=str(path))
        return None


def _is_file_name(name: str) -> bool:
    size = len(name.encode("utf-8", "surrogateescape"))
    return 0 < size <= MAX_NAME and not name.startswith(".") and not set(name) & {"/", "\0"}
