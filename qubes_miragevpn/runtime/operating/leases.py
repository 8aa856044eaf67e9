# SPDX-License-Identifier: BSD-2-Clause
"""``ifconfig-pool-persist``: leases that outlive the program, in openvpn's format: a line ``name,ipv4,ipv6`` each.

What is not such a line is left out and said once. The file is written whole or not at all, when something changed.
Source: OpenVPN pool.c ifconfig_pool_read, ifconfig_pool_write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Protocol

from qubes_miragevpn.config.model import OutputFile
from qubes_miragevpn.runtime.disk import write_file
from qubes_miragevpn.runtime.files import read_bounded

_log = logging.getLogger("miragevpn.server")


class Lessor(Protocol):
    """Who gives leases: `protocol.server.Server`."""

    def recall(self, name: str, address: IPv4Address | IPv6Address) -> None:
        """Somebody had this address before."""

    def leases(self) -> tuple[tuple[str, str, str], ...]:
        """Name, IPv4 and IPv6 address of everybody."""


class LeaseFile:
    """The file: read when this context is entered, kept up to date, written when it is left."""

    def __init__(self, rules: OutputFile, folder: Path, machine: Lessor) -> None:
        """`folder`: from where the path in `rules` counts."""
        self._path = folder / rules.path
        self._period = rules.period
        self._machine = machine
        self._written = ""

    async def __aenter__(self) -> LeaseFile:
        for name, address in self._read():
            self._machine.recall(name, address)
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._write()

    def _read(self) -> Iterator[tuple[str, IPv4Address | IPv6Address]]:
        """Every lease that it holds. One that cannot be read holds none, and a warning says so."""
        try:
            text = read_bounded(self._path).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("%s cannot be read, so addresses are given anew: %s", self._path, error.strerror)
            return
        odd = 0
        for line in filter(None, text.splitlines()):
            name, *addresses = line.split(",")
            try:
                found = [ip_address(word) for word in addresses[:2] if word]
            except ValueError:
                found = []
            odd += not (name and found)
            yield from ((name, address) for address in found if name)
        if odd:
            _log.warning("%s: %d lines are no leases", self._path, odd)

    async def _keep(self) -> None:
        """Write it every period, for ever; with period 0 never."""
        while self._period:
            await asyncio.sleep(self._period)
            self._write()

    def _write(self) -> None:
        """Write it if something changed, and if it may be written at all."""
        told = (each for each in self._machine.leases() if each[0].isprintable() and "," not in each[0])
        text = "".join(",".join(each) + "\n" for each in told)
        if not self._period or text == self._written:
            return
        try:
            write_file(self._path, text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error.strerror)
        else:
            self._written = text
