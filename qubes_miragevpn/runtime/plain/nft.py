# SPDX-License-Identifier: BSD-2-Clause
"""Asking nft(8) for tables of our own, one server of this machine at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.rows.arguments import DEVICE

TIMEOUT = 10.0  # seconds that nft, or another server's change, may take
MAX_LISTING = 1 << 20
_NAMESPACE = "/proc/thread-self/ns/net"


@asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """No other server in this network namespace changes its tables meanwhile: the namespace itself is the lock."""
    fd = os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = asyncio.get_running_loop().time() + 2 * TIMEOUT
        while not _locked(fd):
            if asyncio.get_running_loop().time() > until:
                raise SystemRefused("nat: another server does not finish its own", "look what holds it up")
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def nft(*arguments: str, text: str = "") -> bytes:
    """Run it; what it says. Raises `SystemRefused`."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            "nft", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LISTING
        )
    except OSError as error:
        raise SystemRefused(f"nat: nft cannot be run: {error.strerror}", "install nftables") from error
    try:
        output, complaint = await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SystemRefused("nat: nft does not answer", "look what holds it up") from None
    if process.returncode:
        raise SystemRefused(f"nat: nft: {printable(complaint, 300)}", "leave 'nat' out, or see what nft says")
    return output


async def tables() -> list[str]:
    """The names of all tables of the family inet."""
    listing = json.loads(await nft("-j", "list", "tables", "inet"))["nftables"]
    return [str(item["table"]["name"]) for item in listing if "table" in item]


async def devices_in(table: str, named: str) -> list[str]:
    """The interfaces in a set of one of them."""
    listing = json.loads(await nft("-j", "list", "set", "inet", table, named))["nftables"]
    found = [each for item in listing if "set" in item for each in item["set"].get("elem", ())]
    return [each for each in found if isinstance(each, str) and is_device(each)]


def device_set(name: str, devices: list[str]) -> str:
    """Such a set, as nft reads it."""
    elements = f"elements = {{ {', '.join(quoted(each) for each in devices)} }}" if devices else ""
    return f"set {name} {{ type ifname; {elements} }}"


def quoted(device: str) -> str:
    """An interface's name, as nft reads it."""
    return f'"{device}"'


def is_device(name: str) -> bool:
    """Whether this can be the name of an interface."""
    try:
        DEVICE.parse(name)
    except ValueError:
        return False
    return name not in (".", "..")
