# SPDX-License-Identifier: BSD-2-Clause
"""Reading what dom0 says about this qube: QubesDB, by its Python module or by the tool qubesdb-read.

Outside Qubes there is neither, and every answer is None. Values come from dom0 and are trusted as far as dom0 is; they
are parsed all the same. Keys: developer documentation "qubesdb", section vm-interface.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.names import valid_profile_name

MAX_VALUE = 3072  # bytes, qubesdb.h
_TIMEOUT = 5.0

_log = logging.getLogger("miragevpn.qubesdb")


async def read(key: str) -> str | None:
    """The value of `key`, or None."""
    return await asyncio.to_thread(_read, key)


async def address(key: str) -> IPv4Address | IPv6Address | None:
    """The address that `key` holds, or None."""
    try:
        return ip_address((await read(key) or "").split("/")[0])
    except ValueError:
        return None


async def profile() -> str | None:
    """The profile that dom0 names (feature ``vm-config.miragevpn-profile``), or None."""
    name = await read("/vm-config/miragevpn-profile")
    return name if name is not None and valid_profile_name(name) else None


def _read(key: str) -> str | None:
    try:
        import qubesdb
    except ImportError:
        return _read_by_tool(key)
    try:
        value = qubesdb.QubesDB().read(key)
    except Exception as error:  # the module raises an error class of its own
        _log.debug("%s: %s", key, type(error).__name__)
        return None
    return None if value is None else value[:MAX_VALUE].decode("ascii", "replace")


def _read_by_tool(key: str) -> str | None:
    tool = shutil.which("qubesdb-read")
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, key], capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout[:MAX_VALUE].decode("ascii", "replace").strip() if done.returncode == 0 else None
