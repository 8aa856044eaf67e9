# SPDX-License-Identifier: BSD-2-Clause
"""Who looks names up on this machine while the tunnel is up: systemd-resolved where it runs, else resolv.conf.

Neither is worth losing a tunnel for: what cannot be set is a warning.
"""

from __future__ import annotations

import logging
from pathlib import Path

from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.runtime.plain.journal import Journal
from qubes_miragevpn.runtime.plain.resolvconf import ResolvConf, render_kept
from qubes_miragevpn.runtime.plain.resolved import BusError, Resolved

_log = logging.getLogger("miragevpn.dns")


class Naming:
    """The tunnel's resolvers, set and taken back."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._file = ResolvConf(path)
        self._index: int | None = None  # the interface that systemd-resolved knows of

    async def set(self, index: int, dns: Dns, *, everything: bool) -> None:
        """Use `dns` for the interface `index`; `everything`: for every name."""
        if not dns.servers and not dns.search:
            await self.unset()
            return
        resolved = await Resolved.find()
        if resolved is None:
            self._write(dns)
            return
        try:
            self._index = index
            self._journal.changes.resolved = True
            self._journal.write()
            await resolved.set(index, dns, everything=everything)
        except BusError as error:
            _log.warning("systemd-resolved did not take the tunnel's resolvers: %s", error)
        finally:
            resolved.close()

    def _write(self, dns: Dns) -> None:
        shown = " ".join([*map(str, dns.servers), *dns.search])
        if not render_kept(dns):
            _log.warning("the server's resolvers need systemd-resolved, which does not run: %s", shown)
            return
        try:
            self._file.remember()
            self._journal.changes.resolv_conf = {
                "path": str(self._file.path),
                "before": self._file.before,
                "ours": self._file.text(dns),
            }
            self._journal.write()
            self._file.write(dns)
        except OSError as error:
            _log.warning("%s cannot be written (%s); resolvers: %s", self._file.path, error.strerror, shown)

    async def unset(self) -> None:
        """Take back what was set."""
        index, self._index = self._index, None
        if index is not None:
            resolved = await Resolved.find()
            if resolved is not None:
                try:
                    await resolved.unset(index)
                except BusError as error:
                    _log.debug("not taken back (it goes with the interface): %s", error)
                finally:
                    resolved.close()
        try:
            self._file.restore()
        except OSError as error:
            _log.error("%s cannot be put back: %s", self._file.path, error.strerror)
        self._journal.changes.resolved = False
        self._journal.changes.resolv_conf = None
        self._journal.write()
