# SPDX-License-Identifier: BSD-2-Clause
"""Who is connected to a server, and the forms in which that is told.

Status files of openvpn's versions 1 to 3, byte for byte its layout (OpenVPN multi.c, multi_print_status), JSON, and
Prometheus' text format. Bytes are those of packets inside the tunnel. Names come from certificates: whatever could end
a field or a line is replaced, so that nobody adds rows by calling himself something.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict, dataclass

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.text import printable

STATUS_VERSIONS = (1, 2, 3)
_UNDEFINED = "UNDEF"
_CLIENT_COLUMNS = (
    "Common Name", "Real Address", "Virtual Address", "Virtual IPv6 Address", "Bytes Received", "Bytes Sent",
    "Connected Since", "Connected Since (time_t)", "Username", "Client ID", "Peer ID", "Data Channel Cipher",
)  # fmt: skip
_ROUTE_COLUMNS = ("Virtual Address", "Common Name", "Real Address", "Last Ref", "Last Ref (time_t)")


@dataclass(frozen=True)
class Member:
    """A connected client. `number` is its peer id; `since` seconds of the wall clock; the addresses inside as text."""

    number: int
    name: str
    username: str
    endpoint: str
    ipv4: str
    ipv6: str
    bytes_in: int
    bytes_out: int
    since: int
    cipher: str

    @property
    def real_address(self) -> str:
        """As openvpn shows where it is: with the port, but of IPv6 the address alone, which tools rely on."""
        return self.endpoint[1:].partition("]")[0] if self.endpoint.startswith("[") else self.endpoint

    @property
    def inner(self) -> tuple[str, ...]:
        """The addresses that it has."""
        return tuple(filter(None, (self.ipv4, self.ipv6)))


@dataclass(frozen=True)
class State:
    """What the server is from some moment on, in openvpn's words; `listens`: address and port, where it was told one.

    `ipv4` and `ipv6` are its own addresses inside the tunnel. A server has nobody in particular at the other end.
    """

    name: str
    detail: str = ""
    ipv4: str = ""
    listens: tuple[str, int] | None = None
    ipv6: str = ""
    at: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def line(self) -> str:
        """As `state` shows it: time, name, detail, own address, the remote's two, the local ones, and IPv6 if any."""
        address, port = ("", "") if self.listens is None else self.listens
        last = f",{self.ipv6}" if self.ipv6 else ""
        return f"{self.at},{self.name},{self.detail},{self.ipv4},,,{address},{port}{last}"


@dataclass(frozen=True)
class Roster:
    """Everybody at one moment; `title` names the program, `at` is that moment in seconds of the wall clock."""

    title: str
    at: int
    members: tuple[Member, ...]


def title(version: str) -> str:
    """What we call ourselves there: tools look for openvpn's name and version to know what columns there are."""
    return f"OpenVPN 2.6.0 compatible (miragevpn {version})"


def status(roster: Roster, version: int) -> str:
    """The status in openvpn's format `version`, the line END included; lines end with a line feed."""
    if version not in STATUS_VERSIONS:
        raise MisuseError(f"no status version {version}")
    lines = _first(roster) if version == 1 else _later(roster, "," if version == 2 else "\t")
    return "\n".join([*lines, "END", ""])


def _first(roster: Roster) -> list[str]:
    def row(*fields: object) -> str:
        return ",".join(_field(field, ",") for field in fields)

    return [
        "OpenVPN CLIENT LIST",
        f"Updated,{_local(roster.at)}",
        "Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since",
        *(
            row(each.name, each.real_address, each.bytes_in, each.bytes_out, _local(each.since))
            for each in roster.members
        ),
        "ROUTING TABLE",
        "Virtual Address,Common Name,Real Address,Last Ref",
        *(
            row(address, each.name, each.real_address, _local(roster.at))
            for each in roster.members
            for address in each.inner
        ),
        "GLOBAL STATS",
        "Max bcast/mcast queue length,0",
    ]


def _later(roster: Roster, separator: str) -> list[str]:
    def row(*fields: object) -> str:
        return separator.join(_field(field, separator) for field in fields)

    clients = [
        row(
            "CLIENT_LIST", each.name, each.real_address, each.ipv4, each.ipv6, each.bytes_in, each.bytes_out,
            _local(each.since), each.since, each.username or _UNDEFINED, each.number, each.number, each.cipher,
        )
        for each in roster.members
    ]  # fmt: skip
    routes = [
        row("ROUTING_TABLE", address, each.name, each.real_address, _local(roster.at), roster.at)
        for each in roster.members
        for address in each.inner
    ]
    return [
        row("TITLE", roster.title),
        row("TIME", _local(roster.at), roster.at),
        row("HEADER", "CLIENT_LIST", *_CLIENT_COLUMNS),
        *clients,
        row("HEADER", "ROUTING_TABLE", *_ROUTE_COLUMNS),
        *routes,
        row("GLOBAL_STATS", "Max bcast/mcast queue length", 0),
        row("GLOBAL_STATS", "dco_enabled", 0),
    ]


def as_json(roster: Roster) -> str:
    """One JSON object."""
    return json.dumps({"title": roster.title, "at": roster.at, "clients": [asdict(each) for each in roster.members]})


def prometheus(roster: Roster) -> str:
    """The text format that a Prometheus server, or a node exporter's textfile collector, reads (version 0.0.4)."""
    lines = [
        "# HELP miragevpn_clients Clients that are connected.",
        "# TYPE miragevpn_clients gauge",
        f"miragevpn_clients {len(roster.members)}",
    ]
    for name, kind, field, what in (
        ("received_bytes_total", "counter", "bytes_in", "Bytes from the client, inside the tunnel."),
        ("sent_bytes_total", "counter", "bytes_out", "Bytes to the client, inside the tunnel."),
        ("connected_since_seconds", "gauge", "since", "When the client connected."),
    ):
        lines += [f"# HELP miragevpn_client_{name} {what}", f"# TYPE miragevpn_client_{name} {kind}"]
        for each in roster.members:
            labels = f'id="{each.number}",name="{_label(each.name)}",address="{_label(each.endpoint)}"'
            lines.append(f"miragevpn_client_{name}{{{labels}}} {getattr(each, field)}")
    return "\n".join(lines) + "\n"


def _field(value: object, separator: str) -> str:
    return printable(str(value), 200).replace(separator, "_").replace("\n", "_")


def _label(text: str) -> str:
    return printable(text, 200).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _local(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
