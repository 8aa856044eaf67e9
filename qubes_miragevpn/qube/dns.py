# SPDX-License-Identifier: BSD-2-Clause
"""Which resolvers stand in for Qubes' virtual ones, and this qube's resolv.conf.

The nft table sends questions to 10.139.1.1 and .2 to the tunnel's resolvers. resolv.conf matters all the same:
qubes-firewall fills the set of its ``specialtarget=dns`` rules from it, and checks them after the translation, so
an AppVM with a restricted firewall would lose DNS. It is written before the tunnel opens, and qubes-firewall reloaded
then, since a reload may take that firewall's tables away for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import tempfile
from ipaddress import IPv4Address
from pathlib import Path

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.qube.firewall.table import VIRTUAL_RESOLVERS
from qubes_miragevpn.qube.ranges import reserved
from qubes_miragevpn.runtime.files import read_bounded

MAX_RESOLVERS = 2  # as many as there are virtual ones
RELOAD_TIMEOUT = 20.0  # seconds; a restart of qubes-firewall takes about one
HEADER = "# written by qubes-miragevpn: the tunnel's resolvers\n"

_log = logging.getLogger("miragevpn.dns")


def choose(dns: Dns, fallback: tuple[IPv4Address, ...]) -> tuple[IPv4Address, ...]:
    """Return the tunnel's resolvers: what was pushed, else `fallback`; only IPv4 ones, since the virtual ones are."""
    pushed = [server for server in dns.servers if isinstance(server, IPv4Address)]
    usable = [server for server in pushed if not reserved(server)]
    for server in pushed:
        if reserved(server):
            _log.warning("resolver %s refused: the address is not the server's to give", server)
    return tuple(dict.fromkeys(usable or fallback))[:MAX_RESOLVERS]


class ResolvConf:
    """The qube's resolv.conf, and the unit that reads it."""

    def __init__(self, path: Path, unit: str) -> None:
        self._path = path
        self._unit = unit
        self._resolvers: dict[str, tuple[IPv4Address, ...]] = {}  # of every tunnel that has some
        self._before: bytes | None = None
        self._reloaded: str | None = None

    async def write(self, owner: str, resolvers: tuple[IPv4Address, ...]) -> None:
        """Name `resolvers` of the tunnel `owner` too, and have qubes-firewall take note.

        Raises `OSError` or `SystemRefused`.
        """
        self._resolvers[owner] = resolvers
        await self._make_true(self._text())

    async def mend(self) -> None:
        """Write it anew if somebody else did, as Qubes does whenever the uplink changes; raises as `write`."""
        if self._resolvers:
            await self._make_true(self._text())

    def _text(self) -> str:
        named = dict.fromkeys(resolver for each in self._resolvers.values() for resolver in each)
        return HEADER + "".join(f"nameserver {resolver}\n" for resolver in named)

    async def _make_true(self, text: str) -> None:
        present = self._read()
        if present is not None and not present.startswith(HEADER.encode()):
            self._before = present
        if present != text.encode():
            self._replace(text.encode())
            self._reloaded = None
        if self._reloaded != text:
            await self._reload()
            self._reloaded = text

    def restore(self, owner: str = "") -> None:
        """Name the resolvers of `owner` no more; after the last one put back what was there before `write`.

        What somebody else has written since is left alone.
        """
        self._resolvers.pop(owner, None)
        present = self._read()
        if present is None or not present.startswith(HEADER.encode()):
            return
        virtual = "".join(f"nameserver {resolver}\n" for resolver in VIRTUAL_RESOLVERS).encode()
        try:
            before = self._before if self._before is not None else virtual
            self._replace(self._text().encode() if self._resolvers else before)
        except OSError as error:
            _log.warning("%s cannot be put back: %s", self._path, error.strerror)

    def _read(self) -> bytes | None:
        try:
            return read_bounded(self._path)
        except OSError:
            return None

    def _replace(self, text: bytes) -> None:
        """Atomically, and in the place of a symbolic link; where the file is a mount of its own, in place."""
        descriptor, temporary = tempfile.mkstemp(prefix=".resolv-", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            os.replace(temporary, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if error.errno != errno.EBUSY:
                raise
            self._path.write_bytes(text)

    async def _reload(self) -> None:
        """Reload qubes-firewall where it runs; if it does not come back, the tunnel must not open."""
        if not self._unit or not os.path.isdir("/run/systemd/system"):
            return
        if await _systemctl("is-active", "--quiet", self._unit) != 0:
            return
        if await _systemctl("try-reload-or-restart", self._unit) != 0:
            raise SystemRefused(f"{self._unit} could not be reloaded", f"see systemctl status {self._unit}")


async def _systemctl(*arguments: str) -> int:
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("systemctl", *arguments, stdin=null, stdout=null, stderr=null)
    try:
        return await asyncio.wait_for(process.wait(), RELOAD_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return -1
