# SPDX-License-Identifier: BSD-2-Clause
"""Where an end waits that others come to, and who may come: a server of many at several places, if it is told so.

Source: OpenVPN 2.7's manual, "--local host|* [port] [protocol]": what a line leaves out, the rest of the file says.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.remotes import ANY_UDP, DEFAULT_PORT, family_of, local_address
from qubes_miragevpn.config.model import Family, Listen
from qubes_miragevpn.config.reading.collect import Entry, Settings

EVERY_ADDRESS = "*"


def listen(settings: Settings) -> Listen:
    """The only place. Raises `ConfigError`."""
    entries = settings.all("local")
    if len(entries) > 1:
        raise entries[1].error("only a server of many clients listens at several places", "keep one 'local' line")
    return _place(settings, entries[0] if entries else None)


def places(settings: Settings) -> tuple[Listen, ...]:
    """Every place where a server of many listens, at least one. Raises `ConfigError`."""
    found: list[Listen] = []
    for entry in settings.all("local") or (None,):
        place = _place(settings, entry, several=True)
        if entry is not None and place in found:
            raise entry.error("the server listens there already", "remove the line, or give it another port")
        found.append(place)
    return tuple(found)


def _place(settings: Settings, entry: Entry | None, *, several: bool = False) -> Listen:
    word, port = settings.value("proto", ANY_UDP), settings.value("lport") or settings.value("port") or DEFAULT_PORT
    address, family = "", word.family
    if entry is not None:
        host = entry.args[0]
        if several:
            port, word = entry.args[1] or port, entry.args[2] or word
            entry = _alone(entry)
            family = word.family
            if word.end == "client":
                raise entry.error("'tcp-client' is the other end's protocol", "write 'tcp'")
        if not several or host != EVERY_ADDRESS:
            address = str(local_address(entry))
            family = family_of(address, word, entry)
    return Listen(address, port, word.proto, _narrowed(settings, family))


def _alone(entry: Entry) -> Entry:
    """The line without port and protocol."""
    return replace(entry, args=(entry.args[0], None, None))


def _narrowed(settings: Settings, family: Family) -> Family:
    """As far as ``bind ipv6only`` lets it be. Raises `ConfigError`."""
    bind = settings.last("bind")
    if bind is None or bind.args[0] != "ipv6only":
        return family
    if family is Family.IPV4:
        raise bind.error("'bind ipv6only' contradicts the protocol or the local address", "keep one of them")
    return Family.IPV6


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
