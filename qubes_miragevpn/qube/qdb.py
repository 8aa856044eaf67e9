# SPDX-License-Identifier: BSD-2-Clause
"""Reading what dom0 says about this qube: QubesDB, by its Python module or by the tools qubesdb-read and so on.

Outside Qubes there is neither, and every answer is None or empty. Values come from dom0 and are trusted as far as dom0
is; they are parsed all the same. Keys: developer documentation "qubesdb", section vm-interface.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.names import valid_profile_name
from qubes_miragevpn.base.text import printable

MAX_VALUE = 3072  # bytes, qubesdb.h
MAX_PATH = 64  # bytes, with the zero at the end
MAX_BELOW = 1 << 20  # bytes of the entries below a path; a hundred qubes with some rules each
_TIMEOUT = 5.0

_log = logging.getLogger("miragevpn.qubesdb")


async def read(key: str) -> str | None:
    """The value of `key`, or None."""
    return await asyncio.to_thread(_read, key)


async def below(path: str) -> dict[str, str]:
    """The entries whose keys begin with `path`; none where there is no QubesDB."""
    return await asyncio.to_thread(_below, path)


async def write(key: str, value: str) -> bool:
    """Set `key`; False if that cannot be done."""
    return await asyncio.to_thread(_write, key, value)


async def address(key: str) -> IPv4Address | IPv6Address | None:
    """The address that `key` holds, or None."""
    try:
        return ip_address((await read(key) or "").split("/")[0])
    except ValueError:
        return None


async def profile() -> str | None:
    """The profile that dom0 names (feature ``vm-config.miragevpn-profile``); None: none, "": one that cannot be."""
    name = await read("/vm-config/miragevpn-profile")
    if not name:
        return None
    if not valid_profile_name(name):
        _log.error("dom0 names a profile as none can be called: %s", printable(name, 64))
        return ""
    return name


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
    output = _tool("qubesdb-read", key)
    return None if output is None else output[:MAX_VALUE].decode("ascii", "replace").strip()


def _below(path: str) -> dict[str, str]:
    try:
        import qubesdb
    except ImportError:
        lines = (_tool("qubesdb-multiread", "-f", path) or b"")[:MAX_BELOW].decode("ascii", "replace").splitlines()
        return {key: value for key, equals, value in (line.partition(" = ") for line in lines) if equals}
    try:
        entries = qubesdb.QubesDB().multiread(path)
        return {str(key): value[:MAX_VALUE].decode("ascii", "replace") for key, value in entries.items()}
    except Exception as error:
        _log.debug("%s: %s", path, type(error).__name__)
        return {}


def _write(key: str, value: str) -> bool:
    try:
        import qubesdb
    except ImportError:
        return _tool("qubesdb-write", key, value) is not None
    try:
        qubesdb.QubesDB().write(key, value)
    except Exception as error:
        _log.warning("%s cannot be written: %s", key, type(error).__name__)
        return False
    return True


def _tool(name: str, *arguments: str) -> bytes | None:
    """What the tool prints; None if it is not there, fails, or takes too long."""
    tool = shutil.which(name)
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
