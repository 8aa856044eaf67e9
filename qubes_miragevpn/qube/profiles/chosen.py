# SPDX-License-Identifier: BSD-2-Clause
"""What was chosen and is to outlive the service: each tunnel's profile, the default one, who uses which tunnel.

Two JSON files, written atomically. The *lasting* one, under /etc/qubes-miragevpn and so under /rw, holds choices. The
*passing* one, under /run, says which tunnels were wanted when the service ended: a service that is started again in
the same boot goes on where it was, and a qube that boots begins anew, with the profile that dom0 names, or, where dom0
names none, the default one, else the one that was used last, else the only one there is. A file that is damaged counts
as none, with a warning; a disk that cannot be written is a warning too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.names import valid_profile_name
from qubes_miragevpn.qube.settings import MAX_TUNNELS
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.files import read_bounded

Address = IPv4Address | IPv6Address

MAX_ASSIGNMENTS = 1000  # qubes; dom0 numbers them with 16 bits, and a machine runs some dozens

_log = logging.getLogger("miragevpn.profiles")


@dataclass(frozen=True)
class Chosen:
    """The lasting choices. `tunnels` are the profiles used last; every tunnel but 0 exists by being named there."""

    default: str | None = None
    tunnels: Mapping[int, str] = field(default_factory=dict)
    assignments: Mapping[Address, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Passing:
    """What each tunnel did when this boot's service ended: its profile, and whether it was wanted."""

    tunnels: Mapping[int, tuple[str | None, bool]] = field(default_factory=dict)


class Choices:
    """Both files. `chosen` is what holds; `passing` is None at the first start of a boot."""

    def __init__(self, lasting: Path, passing: Path) -> None:
        self._lasting, self._passing = lasting, passing
        self.chosen = _chosen(_read(lasting))
        saved = _read(passing)
        self.passing = None if saved is None else _passing(saved)

    def first_profile(self, index: int, names: list[str], told: str | None) -> str | None:
        """The profile that tunnel `index` begins a boot with; `told` is what dom0 names.

        That one is not replaced by another: if it is not there, the tunnel says so and stays closed. "" is a name that
        no profile can have.
        """
        if index == 0 and told is not None:
            return told or None
        last = self.chosen.tunnels.get(index)
        for wish in (self.chosen.default, last) if index == 0 else (last,):
            if wish is not None and wish in names:
                return wish
        return names[0] if index == 0 and len(names) == 1 else None

    def remember(self, **changes: Any) -> None:
        """Replace fields of `Chosen`, and write them down."""
        self.chosen = replace(self.chosen, **changes)
        chosen = self.chosen
        self._write(
            self._lasting,
            {
                "default": chosen.default,
                "tunnels": {str(index): name for index, name in sorted(chosen.tunnels.items())},
                "assignments": {str(address): index for address, index in chosen.assignments.items()},
            },
        )

    def use(self, index: int, name: str) -> None:
        """Tunnel `index` uses profile `name` from now on."""
        self.remember(tunnels={**self.chosen.tunnels, index: name})

    def renamed(self, old: str, new: str | None) -> None:
        """A profile has another name, or (None) is gone."""
        default = new if self.chosen.default == old else self.chosen.default
        tunnels = {index: new if name == old else name for index, name in self.chosen.tunnels.items()}
        self.remember(default=default, tunnels={index: name for index, name in tunnels.items() if name is not None})

    def note(self, passing: Passing) -> None:
        """Write down what the tunnels do now."""
        if passing != self.passing:
            self.passing = passing
            self._write(self._passing, {str(n): {"profile": p, "wanted": w} for n, (p, w) in passing.tunnels.items()})

    def _write(self, path: Path, value: Any) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk.write_file(path, json.dumps(value, indent=1).encode() + b"\n")
        except OSError as error:
            _log.warning("%s cannot be written: what was chosen is forgotten at the end: %s", path, error.strerror)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(read_bounded(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        _log.warning("%s is damaged, and counts as empty", path)
        return {}
    return value


def _chosen(saved: dict[str, Any] | None) -> Chosen:
    saved = saved or {}
    tunnels = {index: name for index, name in _numbered(saved.get("tunnels")) if _name(name) is not None}
    assignments = {}
    for text, index in _items(saved.get("assignments"))[:MAX_ASSIGNMENTS]:
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < MAX_TUNNELS:
            assignments[address] = index
    return Chosen(_name(saved.get("default")), tunnels, assignments)


def _passing(saved: dict[str, Any]) -> Passing:
    found = {}
    for index, each in _numbered(saved):
        if isinstance(each, dict) and isinstance(each.get("wanted"), bool):
            found[index] = (_name(each.get("profile")), each["wanted"])
    return Passing(found)


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _numbered(value: Any) -> list[tuple[int, Any]]:
    numbers = {str(index): index for index in range(MAX_TUNNELS)}
    return [(numbers[key], each) for key, each in _items(value) if key in numbers]


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and valid_profile_name(value) else None
