# SPDX-License-Identifier: BSD-2-Clause
"""What a client driver needs from the machine it runs on: the seam between the core and the two kinds of host.

`runtime.plain.plainhost.PlainHost` makes a plain Linux client of the core (routes in the main table);
`qube.tunnelhost.QubeHost` makes it the tunnel of a VPN qube (routes in the tunnel's own table, DNS to the
virtual resolvers, firewall by state). The driver calls these in order and never two at once.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Family, TunnelSettings


class TunnelHost(Protocol):
    """The machine's side of one tunnel."""

    mark: int
    """SO_MARK for the transport socket; 0 sets none."""

    async def resolve(self, host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        """Look up a remote's name; raises `OSError` when there is no answer."""

    async def connecting(self, remote: str) -> None:
        """The machine begins to open a transport to `remote` ("address port/proto", for display)."""

    async def before_transport(self, address: IPv4Address | IPv6Address) -> None:
        """Make `address` reachable by the marked socket, and by nothing else (host route, firewall)."""

    async def up(self, settings: TunnelSettings) -> int:
        """Open the TUN if need be, apply addresses, MTU, routes, DNS; return the TUN's descriptor (non-blocking).

        Also called when settings changed while up: what the new settings do not hold is taken away.
        """

    async def down(self, reason: str) -> None:
        """The tunnel does not work: take its routes and DNS away; the TUN may stay."""

    async def close(self) -> None:
        """Undo everything, close the TUN; also called when `up` failed half-way."""

    async def credentials(self, again: str) -> Credentials | None:
        """User name and password, or None if nobody can give them."""

    async def proxy_credentials(self, proxy: str, again: str) -> Credentials | None:
        """The same for `proxy` (printable: which one); `again` is why the last ones were not good."""

    async def challenge(self, text: str, *, echo: bool) -> Secret | None:
        """The user's answer to `text` (printable), or None if nobody can be asked; `echo`: it may be seen."""
