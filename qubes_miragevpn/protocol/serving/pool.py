# SPDX-License-Identifier: BSD-2-Clause
"""The pool of inner addresses: one per client, the first host is the server's, the same client gets the same again.

With ``topology net30`` a client and the server have four addresses for themselves and use the middle ones; with
``p2p`` the server is everybody's far end. Both leave the first and the last four addresses of the network alone.
Source: OpenVPN helper.c (``--server``, ``--server-ipv6``), pool.c.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from qubes_miragevpn.protocol.serving.leases import Leases

RESERVED = 4  # addresses at either end that net30 and p2p do not give
BEGIN6 = 0x1000  # the first host of an IPv6 network that is given, where the network has room for that
ROOMY6 = 112  # it has, up to this prefix length (exclusive)
MOST6 = 0x10000  # IPv6 addresses of a pool


class AddressPool:
    """Leases of ``server NETWORK MASK``; `topology` is subnet, net30 or p2p.

    `bounds`: the first and the last address to give (``ifconfig-pool``), () none at all, None: all that there are.
    `server`: what is not a client's, None the first host. Without a `network` there is nothing to give.
    """

    def __init__(
        self,
        network: IPv4Network | None,
        topology: str = "subnet",
        bounds: tuple[IPv4Address, ...] | None = None,
        server: IPv4Address | None = None,
    ) -> None:
        self.topology = topology
        self.server = server
        if network is None:
            self._length, self._leases = 32, Leases(0, -1)
            return
        self._length = network.prefixlen if topology == "subnet" else 32
        self.server = server or network.network_address + 1
        begin, end = int(network.network_address), int(network.broadcast_address)
        if bounds is not None:
            step = 4 if topology == "net30" else 1
            self._leases = _between(int(bounds[0]), int(bounds[1]), step) if bounds else Leases(0, -1)
        elif topology == "subnet":
            self._leases = Leases(begin + 2, end - 1)
        elif topology == "p2p":
            self._leases = Leases(begin + RESERVED, end - RESERVED)
        else:  # the second of the middle two
            self._leases = Leases(begin + RESERVED + 2, (end - RESERVED) // 4 * 4 + 2, step=4)

    def ifconfig(self, lease: IPv4Interface) -> str:
        """What a client is told of its lease: address, and netmask or far end."""
        if self.topology == "subnet":
            return f"{lease.ip} {lease.netmask}"
        return f"{lease.ip} {self.server if self.topology == 'p2p' else lease.ip - 1}"

    def lease(self, name: str) -> IPv4Interface:
        """Lease an address to the client `name`; raises `PeerError` (end of session) when none is free."""
        address = IPv4Address(self._leases.lease(name))
        return IPv4Interface((address, self._length))

    def recall(self, name: str, address: IPv4Address) -> None:
        """The client `name` had this address before."""
        self._leases.recall(name, int(address))

    def remembered(self) -> dict[str, str]:
        """Who has, or had, which address."""
        return {name: str(IPv4Address(number)) for name, number in self._leases.remembered.items()}

    def claim(self, address: IPv4Address) -> None:
        """A client has this one for its own; raises `PeerError` (end of session) if another has it now."""
        self._leases.claim(int(address))

    def release(self, address: IPv4Address) -> None:
        """Take an address back."""
        self._leases.release(int(address))


def _between(first: int, last: int, step: int) -> Leases:
    """All numbers from the first to the last; of four each (net30), the second of the middle two."""
    return Leases(first, last) if step == 1 else Leases(first // 4 * 4 + 2, last // 4 * 4 + 2, step)


class AddressPool6:
    """Leases of ``server-ipv6 NETWORK/BITS``, one address a client; without it there are none.

    `bounds`: the first address to give (``ifconfig-ipv6-pool``), () none, None: the usual one. `server`: as above.
    """

    def __init__(
        self,
        network: IPv6Network | None,
        bounds: tuple[IPv6Address, ...] | None = None,
        server: IPv6Address | None = None,
    ) -> None:
        self.server = server
        self.gives = network is not None and bounds != ()
        if network is None or bounds == ():
            self._length, self._leases = 0, Leases(0, -1)
            return
        self.server = server or network.network_address + 1
        self._length = network.prefixlen
        first = int(network.network_address) + (BEGIN6 if network.prefixlen < ROOMY6 else 2)
        if bounds is not None:
            first = int(bounds[0])
        self._leases = Leases(first, min(first + MOST6, int(network.broadcast_address)) - 1)

    def lease(self, name: str) -> IPv6Interface:
        """Lease an address to the client `name`; raises `PeerError` (end of session) when none is free."""
        return IPv6Interface((self._leases.lease(name), self._length))

    def recall(self, name: str, address: IPv6Address) -> None:
        """The client `name` had this address before."""
        self._leases.recall(name, int(address))

    def remembered(self) -> dict[str, str]:
        """Who has, or had, which address."""
        return {name: str(IPv6Address(number)) for name, number in self._leases.remembered.items()}

    def claim(self, address: IPv6Address) -> None:
        """A client has this one for its own; raises `PeerError` (end of session) if another has it now."""
        self._leases.claim(int(address))

    def release(self, address: IPv6Address) -> None:
        """Take an address back."""
        self._leases.release(int(address))
