# SPDX-License-Identifier: BSD-2-Clause
"""Forwarding of IPv6 for servers with ``nat``, where this machine does not forward it: on, closed, and off again.

Linux has one switch for all interfaces (net.ipv6.conf.all.forwarding), and a machine that forwards takes no router
advertisements unless it is told to (accept_ra 2; Documentation/networking/ip-sysctl.rst): that comes first, so that it
keeps its own way out. What was closed stays so: a table of nftables drops new connections from everywhere but the TUNs
of those servers. The table says what was changed, so that the last server, or the next one, can undo it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from qubes_miragevpn.runtime.plain.nft import device_set, devices_in, is_device, nft, quoted, tables

TABLE = "miragevpn-forward6"
_CONF = Path("/proc/sys/net/ipv6/conf")
_ALL = _CONF / "all" / "forwarding"
_INSIDE, _RAISED = "inside", "raised"

_log = logging.getLogger("miragevpn.host")


class Forward6:
    """What one server asks for. Use while `nft.alone`; raises `SystemRefused`, and `OSError` where it may not."""

    def __init__(self, tun: str) -> None:
        self._tun = tun
        self._up = False

    async def up(self) -> None:
        """Have packets of this TUN forwarded; nothing happens where there is no IPv6, or it is forwarded already."""
        if await self.sweep():
            await nft("add", "element", "inet", TABLE, _INSIDE, f"{{ {quoted(self._tun)} }}")
            self._up = True
        elif _read(_ALL) == "0":
            self._up = True
            raised = [path.parent.name for path in _CONF.glob("*/accept_ra") if _read(path) == "1"]
            raised = [dev for dev in raised if dev not in ("all", "default", self._tun) and is_device(dev)]
            await nft("-f", "-", text=_table([self._tun], raised))
            for dev in raised:
                (_CONF / dev / "accept_ra").write_text("2\n", encoding="ascii")
            _ALL.write_text("1\n", encoding="ascii")
            _log.info("this machine forwards IPv6 from now on, of %s and other servers' tunnels alone", self._tun)

    async def close(self) -> None:
        """Undo it, unless another server needs it."""
        if self._up:
            self._up = False
            if await self.sweep():
                await nft("delete", "element", "inet", TABLE, _INSIDE, f"{{ {quoted(self._tun)} }}")

    async def sweep(self) -> bool:
        """Undo it if nobody else needs it: tell whether somebody does."""
        if TABLE not in await tables():
            return False
        inside = await devices_in(TABLE, _INSIDE)
        if any(dev != self._tun and (_CONF / dev).is_dir() for dev in inside):
            return True
        _ALL.write_text("0\n", encoding="ascii")
        for dev in await devices_in(TABLE, _RAISED):
            path = _CONF / dev / "accept_ra"
            if _read(path) == "2":
                path.write_text("1\n", encoding="ascii")
        await nft("delete", "table", "inet", TABLE)
        return False


def _table(inside: list[str], raised: list[str]) -> str:
    """The table, as nft reads it."""
    return "\n".join([
        f"table inet {TABLE} {{",
        device_set(_INSIDE, inside),
        device_set(_RAISED, raised),
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        f"meta nfproto ipv6 iifname != @{_INSIDE} ct state != {{ established, related }} drop",
        "}",
        "}",
    ]) + "\n"  # fmt: skip


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
