# SPDX-License-Identifier: BSD-2-Clause
"""The pool of inner addresses: one per client, the first host is the server's, the same client gets the same again.

With ``topology net30`` a client and the server have four addresses for themselves and use the middle ones; with
``p2p`` the server is everybody's far end. Both leave the first and the last four addresses of the network alone.
Source: OpenVPN helper.c (``--server``), pool.c.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from qubes_miragevpn.base.errors import Consequence, PeerError

MAX_REMEMBERED = 4096


RESERVED = 4  # addresses at either end that net30 and p2p do not give


class AddressPool:
    """Leases of ``server NETWORK MASK``; `topology` is subnet, net30 or p2p."""

    def __init__(self, network: IPv4Network, topology: str = "subnet") -> None:
        self.network = network
        self.topology = topology
        self.server = network.network_address + 1
        begin, end = int(network.network_address), int(network.broadcast_address)
        self._step = 4 if topology == "net30" else 1
        if topology == "subnet":
            self._first, self._last = begin + 2, end - 1
        elif topology == "p2p":
            self._first, self._last = begin + RESERVED, end - RESERVED
        else:  # the second of the middle two
            self._first, self._last = begin + RESERVED + 2, (end - RESERVED) // 4 * 4 + 2
        self._next = self._first
        self._used: set[IPv4Address] = set()
        self._remembered: dict[str, IPv4Address] = {}

    def ifconfig(self, lease: IPv4Interface) -> str:
        """What a client is told of its lease: address, and netmask or far end."""
        if self.topology == "subnet":
            return f"{lease.ip} {lease.netmask}"
        return f"{lease.ip} {self.server if self.topology == 'p2p' else lease.ip - 1}"

    def lease(self, name: str) -> IPv4Interface:
        """Lease an address to the client `name`; raises `PeerError` (end of session) when none is free."""
        known = self._remembered.get(name)
        address = known if known is not None and known not in self._used else self._free()
        self._used.add(address)
        self._remembered.pop(name, None)
        self._remembered[name] = address
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return IPv4Interface((address, self.network.prefixlen if self.topology == "subnet" else 32))

    def release(self, address: IPv4Address) -> None:
        """Take an address back."""
        self._used.discard(address)

    def _free(self) -> IPv4Address:
        size = (self._last - self._first) // self._step + 1
        if len(self._used) >= size:
            raise PeerError("the address pool is used up", Consequence.END_SESSION)
        # Begin after the last lease, so that an address rests before it is given to somebody else.
        while (address := IPv4Address(self._next)) in self._used:
            self._advance()
        self._advance()
        return address

    def _advance(self) -> None:
        self._next = self._next + self._step if self._next < self._last else self._first
