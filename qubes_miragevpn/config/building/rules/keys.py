# SPDX-License-Identifier: BSD-2-Clause
"""Rules about the keys that protect the control channel; each is named by its row of the table."""

from __future__ import annotations

from qubes_miragevpn.config.building.rules.rule import Breach
from qubes_miragevpn.config.reading.collect import Settings


def role_directions(settings: Settings) -> Breach | None:
    entry, direction = settings.last("tls-auth"), settings.last("key-direction")
    if entry is None or direction is None or entry.args[1] in (None, direction.args[0]):
        return None
    return Breach(
        direction, f"'key-direction' contradicts the direction of 'tls-auth' in line {entry.line}", "keep one"
    )


def direction_without_key(settings: Settings) -> Breach | None:
    if settings.has("key-direction") and not settings.has("tls-auth"):
        return Breach(settings.last("key-direction"), "'key-direction' has no effect without 'tls-auth'")
    return None


def auth_none(settings: Settings) -> Breach | None:
    if settings.has("tls-auth") and str(settings.value("auth", "")).lower() == "none":
        return Breach(
            settings.last("auth"),
            "'tls-auth' needs a digest, not 'auth none'",
            "write 'auth SHA256', as the server has it",
        )
    return None


def open_control_channel(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("tls-auth", "tls-crypt", "tls-crypt-v2", "allow-plain-tls")):
        return None
    problem = "anybody who finds this server could speak to its TLS library: there is no key in front of it"
    keys = "add 'tls-crypt-v2', 'tls-crypt' or 'tls-auth', at both ends"
    return Breach(None, problem, f"{keys}, or write 'setenv opt allow-plain-tls' to do without")
