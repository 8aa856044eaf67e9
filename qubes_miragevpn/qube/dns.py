# SPDX-License-Identifier: BSD-2-Clause
"""Which resolvers stand in for Qubes' virtual ones, and this qube's resolv.conf.

The nft table sends questions to 10.139.1.1 and .2 to the tunnel's resolvers. resolv.conf matters all the same:
qubes-firewall fills the set of its ``specialtarget=dns`` rules from it, and checks them after the translation, so
an AppVM with a restricted firewall would lose DNS. It is written before the tunnel opens, and qubes-firewall reloaded
then, since a reload may take that firewall's tables away for a moment.

The service may do neither itself: it asks root's helper (install/vm/qubes-miragevpn-dns.py), which systemd starts for
each connection to a socket that only this service's user may use. The helper checks everything once more.
"""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Dns
from qubes_miragevpn.qube.ranges import reserved
from qubes_miragevpn.runtime.files import read_bounded

MAX_RESOLVERS = 4  # of each family; the second virtual one stands for all but the first
HELPER_TIME = 20.0  # seconds; a restart of qubes-firewall takes about one
MAX_ANSWER = 512  # bytes of the helper's one line
HEADER = b"# written by qubes-miragevpn: the tunnel's resolvers\n"  # the helper's; a test compares them

Address = IPv4Address | IPv6Address

_log = logging.getLogger("miragevpn.dns")


def choose(dns: Dns, fallback: tuple[Address, ...]) -> tuple[Address, ...]:
    """Return the tunnel's resolvers, IPv4 before IPv6: what was pushed, and of a family without any, `fallback`."""
    for server in dns.servers:
        if reserved(server):
            _log.warning("resolver %s refused: the address is not the server's to give", server)
    pushed, own = ([each for each in dict.fromkeys(given) if not reserved(each)] for given in (dns.servers, fallback))
    found: list[Address] = []
    for version in (4, 6):
        of_family = [[each for each in given if each.version == version] for given in (pushed, own)]
        found += (of_family[0] or of_family[1])[:MAX_RESOLVERS]
    return tuple(found)


class ResolvConf:
    """The qube's resolv.conf, by the helper that listens on `helper`."""

    def __init__(self, path: Path, helper: Path) -> None:
        self._path = path
        self._helper = helper
        self._resolvers: dict[str, tuple[Address, ...]] = {}  # of every tunnel that has some
        self._done: bytes | None = None  # what the helper last said ok to
        self._lock = asyncio.Lock()

    async def write(self, owner: str, resolvers: tuple[Address, ...]) -> None:
        """Name `resolvers` of the tunnel `owner` too, and have qubes-firewall take note; raises `SystemRefused`."""
        async with self._lock:
            self._resolvers[owner] = resolvers
            await self._make_true()

    async def mend(self) -> None:
        """Write it anew if somebody else did, as Qubes does whenever the uplink changes; raises as `write`.

        Never waits for others: they are writing it. Who looks after the barriers calls this between two looks, and many
        tunnels that come up one after the other may take longer than systemd's watchdog has patience.
        """
        if self._lock.locked():
            return
        async with self._lock:
            if self._resolvers:
                await self._make_true()

    async def restore(self, owner: str = "") -> None:
        """Name the resolvers of `owner` no more; after the last one have put back what was there before `write`.

        What somebody else has written since is left alone.
        """
        async with self._lock:
            self._resolvers.pop(owner, None)
            present = self._read()
            if present is None or not present.startswith(HEADER):
                return
            try:
                await self._ask(self._lines())
            except SystemRefused as error:
                _log.warning("resolv.conf cannot be put back: %s", printable(str(error)))

    def _lines(self) -> bytes:
        # vpn0's first: programs look at the first three only, and what asks for names in rules may ask no others
        named = dict.fromkeys(resolver for _, each in sorted(self._resolvers.items()) for resolver in each)
        return "".join(f"nameserver {resolver}\n" for resolver in named).encode()

    async def _make_true(self) -> None:
        lines, present = self._lines(), self._read()
        if not lines and (present is None or not present.startswith(HEADER)):
            return
        if self._done != lines or present != HEADER + lines:
            await self._ask(lines)
            self._done = lines

    def _read(self) -> bytes | None:
        try:
            return read_bounded(self._path)
        except OSError:
            return None

    async def _ask(self, lines: bytes) -> None:
        """Hand `lines` to the helper and wait until it has done what they ask; raises `SystemRefused`."""
        self._done = None
        try:
            async with asyncio.timeout(HELPER_TIME):
                reader, writer = await asyncio.open_unix_connection(self._helper, limit=MAX_ANSWER)
                try:
                    writer.write(lines)
                    writer.write_eof()
                    answer = await reader.read(MAX_ANSWER)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or "no answer in time"
            raise SystemRefused(f"resolv.conf: {why}", "does qubes-miragevpn-dns.socket run?") from error
        if answer != b"ok\n":
            why = printable(answer.decode("utf-8", "replace").strip(), 200) or "no answer"
            raise SystemRefused(f"resolv.conf: {why}", "see journalctl -u 'qubes-miragevpn-dns@*'")
