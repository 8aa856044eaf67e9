# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel's resolvers in systemd-resolved, by its D-Bus interface (org.freedesktop.resolve1(5)).

dbus-next is loaded when it is needed; without it, or without a bus, or without the service on it, `Resolved.find`
returns None. What is set belongs to the interface, and the service forgets it with the interface or by `unset`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import EVERY_NAME, Dns

SERVICE, PATH, INTERFACE = "org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
CALL_TIMEOUT = 5.0  # seconds

_DNSSEC = {"": "", "yes": "yes", "no": "no", "optional": "allow-downgrade"}
_log = logging.getLogger("miragevpn.dns")


class BusError(MirageError):
    """The service, or the bus, did not do what it was asked for."""


class Resolved:
    """systemd-resolved on the system's bus; one connection for each change, since changes are rare."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus

    @classmethod
    async def find(cls) -> Resolved | None:
        """Connect; None if the service is not running."""
        try:
            from dbus_next import BusType
            from dbus_next.aio import MessageBus
        except ImportError:
            return None
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        except Exception as error:  # no bus, or one that does not let us in: OSError, and errors of dbus-next's own
            _log.debug("no system bus: %s", printable(str(error)))
            return None
        found = cls(bus)
        try:
            if await found._call(BUS, BUS_PATH, BUS, "NameHasOwner", "s", SERVICE) == [True]:
                return found
        except BusError as error:
            _log.debug("%s", error)
        found.close()
        return None

    def close(self) -> None:
        """End the connection; what was set stays."""
        self._bus.disconnect()

    async def set(self, index: int, dns: Dns, *, everything: bool) -> None:
        """Give interface `index` the resolvers and domains of `dns`; `everything`: ask them about every name.

        Raises `BusError`.
        """
        servers = [
            [int(socket.AF_INET if server.version == 4 else socket.AF_INET6), server.packed] for server in dns.servers
        ]
        if dns.port != 53 or dns.tls_name:
            extended = [[*server, dns.port, dns.tls_name] for server in servers]
            await self._manager("SetLinkDNSEx", "ia(iayqs)", index, extended)
        else:
            await self._manager("SetLinkDNS", "ia(iay)", index, servers)
        # The boolean: only to decide whom to ask, not to complete short names with.
        domains = [[name, False] for name in dns.search] + [[name, True] for name in dns.split]
        if everything and not dns.split and servers:
            domains.append([EVERY_NAME, True])
        unlimited = dns.split in ((), (EVERY_NAME,))
        await self._manager("SetLinkDomains", "ia(sb)", index, domains)
        await self._manager("SetLinkDefaultRoute", "ib", index, bool(servers) and unlimited)
        # An empty word is the service's own choice, and takes back what was set before.
        await self._manager("SetLinkDNSSEC", "is", index, _DNSSEC[dns.dnssec])
        await self._manager("SetLinkDNSOverTLS", "is", index, "yes" if dns.tls else "")
        await self._manager("FlushCaches", "")

    async def unset(self, index: int) -> None:
        """Take back what was set for interface `index`. Raises `BusError`."""
        await self._manager("RevertLink", "i", index)
        await self._manager("FlushCaches", "")

    async def _manager(self, member: str, signature: str, *body: Any) -> list[Any]:
        return await self._call(SERVICE, PATH, INTERFACE, member, signature, *body)

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, *body: Any
    ) -> list[Any]:
        from dbus_next import Message, MessageType

        message = Message(
            destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise BusError(f"{member}: no answer within {CALL_TIMEOUT:g} s") from None
        except Exception as error:  # the connection broke, or dbus-next cannot write the message
            raise BusError(f"{member}: {printable(str(error) or type(error).__name__)}") from None
        if reply is None or reply.message_type is MessageType.ERROR:
            said = "no reply" if reply is None else f"{reply.error_name} {' '.join(map(str, reply.body))}"
            raise BusError(f"{member}: {printable(said)}")
        answer: list[Any] = reply.body
        return answer
