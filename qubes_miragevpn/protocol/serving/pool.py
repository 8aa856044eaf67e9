# SPDX-License-Identifier: BSD-2-Clause
"""The pool of inner addresses: one per client, the first host is the server's, the same client gets the same again."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from qubes_miragevpn.base.errors import Consequence, PeerError

MAX_REMEMBERED = 4096


class AddressPool:
    """Leases of ``server NETWORK MASK`` with ``topology subnet``."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self.server = network.network_address + 1
        self._first = int(self.server) + 1
        self._last = int(network.broadcast_address) - 1
        self._next = self._first
        self._used: set[IPv4Address] = set()
        self._remembered: dict[str, IPv4Address] = {}

    def lease(self, name: str) -> IPv4Interface:
        """Lease an address to the client `name`; raises `PeerError` (end of session) when none is free."""
        known = self._remembered.get(name)
        address = known if known is not None and known not in self._used else self._free()
        self._used.add(address)
        self._remembered.pop(name, None)
        self._remembered[name] = address
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return IPv4Interface((address, self.network.prefixlen))

    def release(self, address: IPv4Address) -> None:
        """Take an address back."""
        self._used.discard(address)

    def _free(self) -> IPv4Address:
        size = self._last - self._first + 1
        if len(self._used) >= size:
            raise PeerError("the address pool is used up", Consequence.END_SESSION)
        # Begin after the last lease, so that an address rests before it is given to somebody else.
        while (address := IPv4Address(self._next)) in self._used:
            self._next = self._next + 1 if self._next < self._last else self._first
        self._next = self._next + 1 if self._next < self._last else self._first
        return address
