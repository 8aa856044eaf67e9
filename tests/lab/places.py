# SPDX-License-Identifier: BSD-2-Clause
"""Where everything in the lab stands: addresses, names and interfaces, as in the drawing of `network.py`.

Qubes' ranges and address formulas are core-admin's (qubes/vm/mix/net.py); the internet uses the documentation ranges of
RFC 5737 and RFC 3849.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKEND_MAC = "fe:ff:ff:ff:ff:ff"
APPVM_MAC = "00:16:3e:5e:6c:00"

NET_DOMID, VPN_DOMID = 5, 6
OTHER_NET_DOMID = 7  # another netvm that sys-vpn may be given (in the lab, sys-net with another face)
UPLINK = "eth0"

NIC = "ens7"  # a second uplink that somebody gives to sys-vpn
LAN4, LAN_ROUTER4 = "192.168.77.2", "192.168.77.1"

WEB4, WEB6 = "203.0.113.80", "2001:db8:80::80"
DNS4, FOREIGN_DNS4 = "203.0.113.53", "203.0.113.54"
NET4, NET6 = "192.0.2.10", "2001:db8:2::10"


@dataclass(frozen=True)
class Site:
    """Where a provider's machine stands in the internet, and the network inside its tunnel."""

    name: str
    public4: str
    router4: str
    prefix4: int
    public6: str
    router6: str
    tunnel: str  # first three parts of the tunnel's /24

    @property
    def resolver(self) -> str:
        """The provider's resolver: its own address in the tunnel."""
        return f"{self.tunnel}.1"


SITE_A = Site("provider-a", "198.51.100.10", "198.51.100.1", 25, "2001:db8:a::10", "2001:db8:a::1", "10.8.0")
SITE_B = Site("provider-b", "198.51.100.200", "198.51.100.129", 25, "2001:db8:b::10", "2001:db8:b::1", "10.9.0")
# Not there unless a test builds it; inside its tunnel it looks like provider A, as providers do.
SITE_C = Site("provider-c", "198.18.3.10", "198.18.3.1", 24, "2001:db8:c::10", "2001:db8:c::1", "10.8.0")


PROVIDER_NAMES = {"a.vpn.lab": SITE_A.public4, "b.vpn.lab": SITE_B.public4}
HOSTS = [f"web.lab={WEB4}", f"web.lab={WEB6}", *(f"{name}={address}" for name, address in PROVIDER_NAMES.items())]


@dataclass(frozen=True)
class Address:
    """The addresses that dom0 gives to a qube; both follow from its number."""

    ip4: str
    ip6: str

    @classmethod
    def of(cls, number: int) -> Address:
        """As Qubes computes them for an AppVM with this qid."""
        return cls(f"10.137.0.{number}", f"fd09:24ef:4179::a89:{number:x}")
