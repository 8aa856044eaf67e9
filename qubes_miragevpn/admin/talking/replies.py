# SPDX-License-Identifier: BSD-2-Clause
"""Reading what the services of a VPN qube answer (doc/rpc.md), field by field: length, characters, value.

The VPN qube is not trusted here. A reply that is not exactly what it may be is refused as a whole and none of it
shown; what passes consists of names, numbers and times, and of texts that `base.text.printable` has made harmless for
a terminal. Keys that are not known are left out, since later versions may add some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.service import Outcome
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.names import valid_profile_name
from qubes_miragevpn.base.text import printable

STATES = ("closed", "connecting", "connected", "switching", "failed")
MAX_TUNNELS = 16
MAX_PROFILES = 1000
MAX_DOWNSTREAM = 256  # interfaces; Qubes' own address space has room for about as many
MAX_ASSIGNED = 1024
MAX_WARNINGS = 20
MAX_LINES = 500  # of the log
MAX_TEXT = 500  # characters shown of a text
MAX_COUNT = 1 << 63  # bytes carried

TUNNEL = re.compile(r"\Avpn([0-9]|1[0-5])\Z")
_INTERFACE = re.compile(r"\Avif[0-9]{1,5}\.[0-9]{1,3}\Z")
_TIME = re.compile(r"\A20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z\Z")
_BACKEND = re.compile(r"\A[a-z0-9_-]{0,32}\Z")


class Odd(Exception):
    """A reply is not what it may be; nothing of it is used."""


@dataclass(frozen=True)
class Status:
    """What a tunnel says it does. `question` is what its server, or a proxy, asks; "" for none."""

    state: str
    profile: str | None
    since: str
    bytes_in: int
    bytes_out: int
    reason: str
    backend: str
    question: str = ""


@dataclass(frozen=True)
class Details:
    """Every tunnel, the addresses behind each interface, and which address uses which tunnel."""

    tunnels: Mapping[str, Status]
    downstream: Mapping[str, tuple[str, ...]]
    assigned: Mapping[str, str]


@dataclass(frozen=True)
class Profiles:
    """The names of the profiles."""

    profiles: tuple[str, ...]
    current: str | None
    default: str | None


@dataclass(frozen=True)
class Event:
    """A change: of a tunnel (with its status), of an assignment, of the profiles, or that a tunnel was removed."""

    kind: str
    tunnel: str = ""
    status: Status | None = None
    address: str = ""
    profiles: tuple[str, ...] = ()


def take(outcome: Outcome, vpn: str, service: str, reader: Callable[[Any], Any]) -> Any:
    """What `reader` makes of a service's answer; raises `Failure` for a refusal, and for an answer that is odd."""
    try:
        untrusted = _object(outcome.untrusted_output)
        if outcome.code == ExitCode.OK:
            return reader(untrusted)
        reason = _text(untrusted.get("reason", ""))
    except Odd as error:
        raise Failure(
            ExitCode.NO_SERVICE, f"{service} in {vpn} gave an answer that is refused: {error}", f"look at {vpn} itself"
        ) from None
    if outcome.code == ExitCode.NO_SERVICE:
        raise Failure(
            ExitCode.NO_SERVICE,
            f"the service of {vpn} does not run, or does not answer",
            f"`qvm-miragevpn doctor {vpn}` looks why",
        )
    raise Failure(
        ExitCode.REFUSED, f"{vpn} refused {service}{f': {reason}' if reason else ''}", f"{vpn}'s own log says why"
    )


def take_line(untrusted_line: bytes, vpn: str) -> Event:
    """The event in a line of miragevpn.Events; raises `Failure`."""
    try:
        untrusted = _object(untrusted_line)
        if "error" in untrusted:
            raise Failure(ExitCode.NO_SERVICE, f"the service of {vpn} has ended", f"qvm-miragevpn doctor {vpn}")
        return event(untrusted)
    except Odd as error:
        raise Failure(ExitCode.NO_SERVICE, f"{vpn} said what is refused: {error}", f"look at {vpn} itself") from None


# --- readers, one for each kind of answer ----------------------------------------------------------------------


def status(untrusted: Any) -> Status:
    """The status of a tunnel; raises `Odd`."""
    return Status(
        state=_one_of(STATES, _key(untrusted, "state")),
        profile=_profile_or_none(_key(untrusted, "profile")),
        since=_time(_key(untrusted, "since")),
        bytes_in=_count(_key(untrusted, "bytes_in")),
        bytes_out=_count(_key(untrusted, "bytes_out")),
        reason=_text(_key(untrusted, "reason")),
        backend=_matching(_BACKEND, _key(untrusted, "backend"), "backend"),
        question=_text(untrusted.get("question", "")),
    )


def details(untrusted: Any) -> Details:
    """All tunnels; raises `Odd`."""
    return Details(
        tunnels=_mapping(_key(untrusted, "tunnels"), MAX_TUNNELS, _tunnel, status),
        downstream=_mapping(_key(untrusted, "downstream"), MAX_DOWNSTREAM, _interface, _addresses),
        assigned=_mapping(_key(untrusted, "assigned"), MAX_ASSIGNED, _address, _tunnel),
    )


def profiles(untrusted: Any) -> Profiles:
    """The profiles; raises `Odd`."""
    return Profiles(
        profiles=_names(_key(untrusted, "profiles")),
        current=_profile_or_none(_key(untrusted, "current")),
        default=_profile_or_none(_key(untrusted, "default")),
    )


def event(untrusted: Any) -> Event:
    """A change; raises `Odd`."""
    kind = _one_of(("tunnel", "assigned", "profiles", "removed"), _key(untrusted, "event"))
    if kind == "tunnel":
        return Event(kind, tunnel=_tunnel(_key(untrusted, "tunnel")), status=status(untrusted))
    if kind == "profiles":
        return Event(kind, profiles=_names(_key(untrusted, "profiles")))
    if kind == "removed":
        return Event(kind, tunnel=_tunnel(_key(untrusted, "tunnel")))
    untrusted_tunnel = _key(untrusted, "tunnel")
    tunnel = "default" if untrusted_tunnel == "default" else _tunnel(untrusted_tunnel)
    return Event(kind, tunnel=tunnel, address=_address(_key(untrusted, "address")))


def warnings(untrusted: Any) -> tuple[str, ...]:
    """What the loader had to say of a profile that was taken; raises `Odd`."""
    return tuple(map(_text, _list(_key(untrusted, "warnings"), MAX_WARNINGS)))


def log(untrusted: Any) -> tuple[str, ...]:
    """The last lines of the service's log; raises `Odd`."""
    return tuple(map(_text, _list(_key(untrusted, "lines"), MAX_LINES)))


def credentials(untrusted: Any) -> str:
    """Whether they were set or forgotten; raises `Odd`."""
    return _one_of(("set", "forgotten"), _key(untrusted, "credentials"))


def done(untrusted: Any) -> None:
    """An answer of which nothing is shown."""


# --- fields --------------------------------------------------------------------------------------------------


def _object(untrusted_output: bytes) -> dict[str, Any]:
    try:
        untrusted = json.loads(untrusted_output.decode("ascii"), parse_constant=_no_constant, parse_float=_no_constant)
    except (ValueError, RecursionError):
        raise Odd("not JSON") from None
    if not isinstance(untrusted, dict):
        raise Odd("not a JSON object")
    return untrusted


def _no_constant(untrusted: str) -> Any:
    raise ValueError("no such number is in any answer")


def _key(untrusted: Any, key: str) -> Any:
    if not isinstance(untrusted, dict) or key not in untrusted:
        raise Odd(f"without {key}")
    return untrusted[key]


def _text(untrusted: Any) -> str:
    if not isinstance(untrusted, str):
        raise Odd("a text is none")
    return printable(untrusted[: MAX_TEXT + 1], MAX_TEXT)


def _time(untrusted: Any) -> str:
    """A time that there is: whoever reckons with it must not fail by a 39th of a 19th month."""
    found = _matching(_TIME, untrusted, "time")
    try:
        datetime.strptime(found, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise Odd("a time is none") from None
    return found


def _matching(pattern: re.Pattern[str], untrusted: Any, what: str) -> str:
    if not isinstance(untrusted, str) or not pattern.match(untrusted):
        raise Odd(f"a {what} is none")
    return untrusted


def _one_of(words: tuple[str, ...], untrusted: Any) -> str:
    if not isinstance(untrusted, str) or untrusted not in words:
        raise Odd("a word that is not known")
    return untrusted


def _count(untrusted: Any) -> int:
    if type(untrusted) is not int or not 0 <= untrusted < MAX_COUNT:
        raise Odd("a number is none")
    return untrusted


def _profile(untrusted: Any) -> str:
    if not isinstance(untrusted, str) or not valid_profile_name(untrusted):
        raise Odd("a profile's name is none")
    return untrusted


def _profile_or_none(untrusted: Any) -> str | None:
    return None if untrusted is None else _profile(untrusted)


def _names(untrusted: Any) -> tuple[str, ...]:
    return tuple(map(_profile, _list(untrusted, MAX_PROFILES)))


def _tunnel(untrusted: Any) -> str:
    return _matching(TUNNEL, untrusted, "tunnel")


def _interface(untrusted: Any) -> str:
    return _matching(_INTERFACE, untrusted, "interface")


def _address(untrusted: Any) -> str:
    try:
        if isinstance(untrusted, str) and len(untrusted) <= 45 and "%" not in untrusted:
            return str(ip_address(untrusted))
    except ValueError:
        pass
    raise Odd("an address is none")


def _addresses(untrusted: Any) -> tuple[str, ...]:
    return tuple(map(_address, _list(untrusted, 16)))


def _list(untrusted: Any, most: int) -> list[Any]:
    if not isinstance(untrusted, list) or len(untrusted) > most:
        raise Odd("a list is none, or too long")
    return untrusted


def _mapping(untrusted: Any, most: int, key: Callable[[Any], str], value: Callable[[Any], Any]) -> dict[str, Any]:
    if not isinstance(untrusted, dict) or len(untrusted) > most:
        raise Odd("a table is none, or too long")
    return {key(untrusted_key): value(untrusted_value) for untrusted_key, untrusted_value in untrusted.items()}
