# SPDX-License-Identifier: BSD-2-Clause
"""Addresses that nobody outside may claim: a server for its tunnel or resolver, a DNS answer for a server.

They are Qubes' own (AppVMs, disposables, virtual resolvers and gateways: core-admin, qubes/vm/mix/net.py) and
those that never leave a machine or a link. A tunnel that took one would catch traffic between qubes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

RESERVED = tuple(
    ip_network(text)
    for text in (
        "10.137.0.0/16",  # AppVMs and network qubes
        "10.138.0.0/16",  # disposables
        "10.139.0.0/16",  # virtual resolvers and gateways
        "fd09:24ef:4179::/48",  # the same in IPv6
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "::/127",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    )
)


def reserved(address: IPv4Address | IPv6Address) -> bool:
    """True if `address` may not come from outside."""
    return any(address.version == network.version and address in network for network in RESERVED)
