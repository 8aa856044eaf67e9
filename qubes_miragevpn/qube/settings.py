# SPDX-License-Identifier: BSD-2-Clause
"""Paths and numbers of the qube service in one place.

Every setting has a default that is right in a Qubes VM. A line ``name = value`` in
/etc/qubes-miragevpn/service.conf changes it, and an environment variable ``MIRAGEVPN_NAME`` changes it before that
(the lab uses these). The file counts only if root owns it and nobody else may write it; an unknown name
or a value that does not parse is an error, never ignored.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError, MisuseError
from qubes_miragevpn.base.names import SOCKET_MARK

CONFIG_FILE = Path("/etc/qubes-miragevpn/service.conf")
MAX_CONFIG = 16384  # bytes; a dozen lines

# --- numbers of the kernel's that lockdown script, firewall and routing share ---------------------------

UPLINK_TABLE = 5156  # the uplink's default route, for marked sockets alone
FIRST_TUNNEL_TABLE = 5160  # of tunnel 0; tunnel n has the n-th after it
FIRST_TUNNEL_MARK = 0x515650  # on packets from tunnel 0, for the reverse path check only; n the n-th after it
MAX_TUNNELS = 16  # keeps tables, marks and interface names within their two digits
WORST_METRIC = 4278198272  # of the `unreachable` defaults; 4294967295 is IPv6's "none"
TRANSPORT_MARK = SOCKET_MARK


def tunnel_table(index: int) -> int:
    """The routing table of tunnel `index`."""
    return FIRST_TUNNEL_TABLE + _checked(index)


def tunnel_mark(index: int) -> int:
    """The mark that packets coming out of tunnel `index` bear."""
    return FIRST_TUNNEL_MARK + _checked(index)


def tunnel_name(index: int) -> str:
    """The interface of tunnel `index`."""
    return f"vpn{_checked(index)}"


def _checked(index: int) -> int:
    if not 0 <= index < MAX_TUNNELS:
        raise MisuseError(f"there is no tunnel {index}")
    return index


# --- settings -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What may differ between a qube and a lab."""

    profile_dir: Path = Path("/etc/qubes-miragevpn/profiles")
    credentials_dir: Path = Path("/etc/qubes-miragevpn/credentials")
    profile_settings_dir: Path = Path("/etc/qubes-miragevpn/settings")  # the owner's, by profile
    state_file: Path = Path("/etc/qubes-miragevpn/state/chosen.json")  # what was chosen, for the next boot
    passing_file: Path = Path("/run/qubes-miragevpn/passing.json")  # what was wanted, for this boot
    control_socket: Path = Path("/run/qubes-miragevpn/control.sock")
    control_group: str = "qubes"  # may connect, if the group exists
    resolv_conf: Path = Path("/etc/resolv.conf")
    dns_helper: Path = Path("/run/qubes-miragevpn-dns.sock")  # root's, which writes resolv.conf
    uplink: str = "eth0"
    uplink_resolvers: tuple[IPv4Address | IPv6Address, ...] = ()  # empty: qubesdb, else the virtual resolvers
    fallback_resolvers: tuple[IPv4Address | IPv6Address, ...] = ()  # inside the tunnel, when the server pushes none
    autoconnect: bool = True  # connect at boot
    own_programs: bool = False  # this qube's own programs (updates proxy) may use vpn0; never the uplink
    rollback_after: float = 30.0  # seconds that a switch with rollback has to connect
    check_interval: float = 5.0  # seconds between looks at the barriers that no event asked for
    retry_first: float = 1.0  # first pause after a failure
    retry_max: float = 60.0  # the pause doubles up to this
    retry_auth: float = 60.0  # least pause after refused credentials: accounts get locked


_NAME = re.compile(r"\A[A-Za-z0-9_.@-]{1,64}\Z")
_INTERFACE = re.compile(r"\A[A-Za-z0-9_.-]{1,15}\Z")


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError("an absolute path is needed")
    return path


def _name(text: str) -> str:
    if text and not _NAME.match(text):
        raise ValueError("letters, digits and _.@- only")
    return text


def _interface(text: str) -> str:
    if not _INTERFACE.match(text) or text.startswith(("vif", "vpn")) or text == "lo":
        raise ValueError("the name of an uplink interface is needed")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 86400:
        raise ValueError("between 0.05 and 86400 seconds")
    return value


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _addresses(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    if "%" in text:
        raise ValueError("an address is written without an interface")
    return tuple(ip_address(part) for part in text.replace(",", " ").split())


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "profile_dir": _path,
    "credentials_dir": _path,
    "profile_settings_dir": _path,
    "state_file": _path,
    "passing_file": _path,
    "control_socket": _path,
    "control_group": _name,
    "resolv_conf": _path,
    "dns_helper": _path,
    "uplink": _interface,
    "uplink_resolvers": _addresses,
    "fallback_resolvers": _addresses,
    "autoconnect": _yes_or_no,
    "own_programs": _yes_or_no,
    "rollback_after": _seconds,
    "check_interval": _seconds,
    "retry_first": _seconds,
    "retry_max": _seconds,
    "retry_auth": _seconds,
}
"""One row per setting; `test_settings` checks that none is missing."""


def load(environ: Mapping[str, str], file: Path = CONFIG_FILE) -> Settings:
    """Return the settings of this machine; raises `ConfigError`."""
    values: dict[str, Any] = {}
    for number, name, text in _lines(file):
        values[name] = _parse(name, text, str(file), number)
    for field in fields(Settings):
        variable = f"MIRAGEVPN_{field.name.upper()}"
        if variable in environ:
            values[field.name] = _parse(field.name, environ[variable], variable, 0)
    return replace(Settings(), **values)


def control_socket(environ: Mapping[str, str]) -> Path:
    """Where callers find the service: the default, or MIRAGEVPN_CONTROL_SOCKET.

    The service's file is not read: its directory is root's alone, and callers need not be root.
    """
    text = environ.get("MIRAGEVPN_CONTROL_SOCKET")
    if text is None:
        return Settings.control_socket
    path: Path = _parse("control_socket", text, "MIRAGEVPN_CONTROL_SOCKET", 0)
    return path


def _parse(name: str, text: str, where: str, line: int) -> Any:
    parser = _PARSERS.get(name)
    if parser is None:
        raise ConfigError("there is no such setting", file=where, line=line, fix=f"known are {', '.join(_PARSERS)}")
    try:
        return parser(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}", file=where, line=line) from None


def _lines(file: Path) -> list[tuple[int, str, str]]:
    """The file's settings as (line, name, value); nothing if there is no file."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o022:
                raise ConfigError("must belong to root and be writable by nobody else", file=str(file))
            text = stream.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from None
    if len(text) > MAX_CONFIG:
        raise ConfigError(f"longer than {MAX_CONFIG} bytes", file=str(file))
    found = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise ConfigError("a line is `name = value`", file=str(file), line=number)
        found.append((number, name, value))
    return found
