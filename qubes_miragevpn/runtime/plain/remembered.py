# SPDX-License-Identifier: BSD-2-Clause
"""``replay-persist``: what was seen of a peer's numbered packets, on disk between two runs.

The file is one line, `miragevpn-seen TIME NUMBER`, for the owner's eyes only, and is replaced as a whole. It is
written a few seconds after something newer was seen and at the end: after a crash the packets of these seconds would be
taken once more. Its form is our own, not that of openvpn, whose file depends on the machine.
"""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.crypto.replay import Numbering
from qubes_miragevpn.runtime.disk import write_file
from qubes_miragevpn.runtime.files import read_bounded

SAVE_EVERY = 5.0  # seconds
_LINE = re.compile(rb"miragevpn-seen ([0-9]{1,10}) ([0-9]{1,10})\n\Z")
_LARGEST = 0xFFFFFFFF

_log = logging.getLogger("miragevpn.replay")


class Remembered:
    """The numbering in a file. Raises `ConfigError` if there is a file that is none of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.numbering = Numbering()
        try:
            content = read_bounded(path)
        except FileNotFoundError:
            content = b"miragevpn-seen 0 0\n"
        except OSError as error:
            raise ConfigError(f"'replay-persist': cannot read {path}: {error.strerror}") from None
        found = _LINE.match(content)
        time, number = (int(found[1]), int(found[2])) if found else (_LARGEST + 1, 0)
        if max(time, number) > _LARGEST:
            raise ConfigError(f"'replay-persist': {path} is not a file of this program's", fix="name another file")
        self.numbering = Numbering(time, number)
        self._saved = (time, number)
        self.save(always=True)  # a folder that cannot be written to is better known now

    def save(self, *, always: bool = False) -> None:
        """Write what is newer than the file; raises `ConfigError` if that cannot be."""
        now = (self.numbering.time, self.numbering.number)
        if now == self._saved and not always:
            return
        try:
            write_file(self._path, f"miragevpn-seen {now[0]} {now[1]}\n".encode())
        except OSError as error:
            raise ConfigError(f"'replay-persist': cannot write {self._path}: {error.strerror}") from None
        self._saved = now

    async def keep(self) -> None:
        """Save every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            self.save_or_tell()

    def save_or_tell(self) -> None:
        """Save; what goes wrong is logged."""
        try:
            self.save()
        except ConfigError as error:
            _log.warning("%s", error)
