# SPDX-License-Identifier: BSD-2-Clause
"""Undoing what clients before us changed and, because they crashed or were killed, did not put back.

Their TUN went with them, and with it what led into it, unless it is a persistent one. What somebody has changed since
is not ours any more, and stays.
"""

from __future__ import annotations

import logging
from pathlib import Path

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.runtime.netlink.netconf import Netconf, NetRoute
from qubes_miragevpn.runtime.plain.journal import Changes, boot_id, left_behind
from qubes_miragevpn.runtime.plain.resolvconf import put_back
from qubes_miragevpn.runtime.plain.resolved import BusError, Resolved

_log = logging.getLogger("miragevpn.host")


async def recover(directory: Path | None = None) -> int:
    """Undo what the journals in `directory` tell of; return how many there were. Nothing is raised."""
    found = 0
    for changes in left_behind(directory):
        found += 1
        _log.warning("an earlier client ended without cleaning up; undoing what it changed")
        if changes.boot == boot_id():
            await _network(changes)
        conf = changes.resolv_conf
        if conf is not None:
            try:
                put_back(Path(conf["path"]), conf["before"], conf["ours"])
            except OSError as error:
                _log.warning("%s cannot be put back: %s", conf["path"], error.strerror)
    return found


async def _network(changes: Changes) -> None:
    net = Netconf()
    try:
        for before, ours in reversed(changes.routes):
            try:
                await _route(net, before, ours)
            except MirageError as error:
                _log.warning("not restored: %s", error)
        for address in changes.addresses:
            await net.remove_address(address)
        link = await net.link(changes.dev) if changes.dev else None
        if link is not None and changes.resolved:
            await _revert(link.index)
    except MirageError as error:
        _log.warning("not restored: %s", error)
    finally:
        await net.close()


async def _route(net: Netconf, before: NetRoute | None, ours: NetRoute) -> None:
    now = next((each for each in await net.routes(ours.table, ours.family) if each.key == ours.key), None)
    if now not in (None, ours):
        return  # somebody else's
    if before is not None:
        await net.replace_route(before)
    elif now is not None:
        await net.delete_route(now)


async def _revert(index: int) -> None:
    resolved = await Resolved.find()
    if resolved is None:
        return
    try:
        await resolved.unset(index)
    except BusError as error:
        _log.debug("%s", error)
    finally:
        resolved.close()
