# SPDX-License-Identifier: BSD-2-Clause
"""What sys-vpn's owner says of a profile beside it: the file of its name in the settings' folder.

Lines ``name = value``, ``#`` begins a comment line. It is apart from the profile, so that importing
the profile anew, which a provider's file may be cause for, does not touch it. An unknown name or a value that does
not parse is an error: the tunnel does not come up by guesswork.

    fallback_resolvers = 10.8.0.1, 2001:db8::1    asked inside the tunnel; of a family of which the server pushes none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.qube.ranges import reserved
from qubes_miragevpn.runtime.files import read_bounded

MAX_OPTIONS = 4096  # bytes; a few lines
MAX_FALLBACKS = 4  # of each family


@dataclass(frozen=True)
class ProfileOptions:
    """The owner's settings of one profile."""

    fallback_resolvers: tuple[IPv4Address | IPv6Address, ...] = ()  # none: the service's own setting of this name


def resolvers(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """Addresses with commas or spaces between; raises ValueError, also for one that no resolver may have."""
    if "%" in text:
        raise ValueError("an address is written without an interface")
    found = tuple(ip_address(part) for part in text.replace(",", " ").split())
    for address in found:
        if reserved(address):
            raise ValueError(f"{address} belongs to this machine or to Qubes")
    if any(sum(each.version == version for each in found) > MAX_FALLBACKS for version in (4, 6)):
        raise ValueError(f"more than {MAX_FALLBACKS} resolvers")
    return found


_PARSERS: Mapping[str, Callable[[str], Any]] = {"fallback_resolvers": resolvers}
"""One row for each field."""


def load(folder: Path, name: str) -> ProfileOptions:
    """The settings of profile `name` (a valid name) in `folder`; raises `ConfigError`."""
    shown = f"settings/{name}"
    try:
        text = read_bounded(folder / name, beneath=folder)
    except FileNotFoundError:
        return ProfileOptions()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=shown) from None
    if len(text) > MAX_OPTIONS:
        raise ConfigError(f"longer than {MAX_OPTIONS} bytes", file=shown)
    return parse(text, shown)


def parse(text: bytes, shown: str) -> ProfileOptions:
    """The settings that `text` holds; raises `ConfigError` with the line."""
    values: dict[str, Any] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name not in _PARSERS:
            known = ", ".join(field.name for field in fields(ProfileOptions))
            raise ConfigError("a line is `name = value`", file=shown, line=number, fix=f"known are {known}")
        if name in values:
            raise ConfigError(f"{name} is set twice", file=shown, line=number)
        try:
            values[name] = _PARSERS[name](value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}", file=shown, line=number) from None
    return ProfileOptions(**values)
