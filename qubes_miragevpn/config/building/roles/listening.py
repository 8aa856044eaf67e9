# SPDX-License-Identifier: BSD-2-Clause
"""Where an end waits that others come to, and who may come."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.remotes import ANY_UDP, DEFAULT_PORT, family_of, local_address
from qubes_miragevpn.config.model import Family, Listen
from qubes_miragevpn.config.reading.collect import Settings


def listen(settings: Settings) -> Listen:
    """The socket; raises `ConfigError` where its address and its protocol do not fit."""
    word = settings.value("proto", ANY_UDP)
    entry, bind = settings.last("local"), settings.last("bind")
    address, family = "", word.family
    if entry is not None:
        address = str(local_address(entry))
        family = family_of(address, word, entry)
    if bind is not None and bind.args[0] == "ipv6only":
        if family is Family.IPV4:
            raise bind.error("'bind ipv6only' contradicts the protocol or the local address", "keep one of them")
        family = Family.IPV6
    return Listen(address, settings.value("lport") or settings.value("port") or DEFAULT_PORT, word.proto, family)


def only(builder: Builder) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses that ``remote`` names, for the end that waits; a name would have to be looked up."""
    found = []
    for entry in builder.settings.all("remote"):
        try:
            found.append(ip_address(entry.args[0]))
        except ValueError:
            waiting = "'remote' names no address, and this end waits: whoever is authenticated may come from anywhere"
            builder.findings.warn(entry.warning(waiting))
            return ()
    return tuple(found)
