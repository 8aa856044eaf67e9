# SPDX-License-Identifier: BSD-2-Clause
"""Settings to a `ClientConfig`: its login, its routes, its names, what it tells the server."""

from __future__ import annotations

import re

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import DnsOptions, Unusable, ipv4_route, ipv6_route
from qubes_miragevpn.config.building.remotes import remotes
from qubes_miragevpn.config.model import (
    ClientConfig,
    Credentials,
    Dns,
    LandmarkRoute,
    PullFilter,
    Route,
    StaticChallenge,
)
from qubes_miragevpn.config.reading.collect import Entry, Settings

MAX_PEER_INFO = 16  # lines told; key method 2 carries 64 KiB, an honest profile has one
_PEER_INFO_NAME = re.compile(r"UV_[A-Za-z0-9_]{1,60}\Z")
_PEER_INFO_VALUE = re.compile(r"[\x20-\x7e]{0,255}\Z")


def client(builder: Builder, *, waits: bool = False) -> ClientConfig:
    """Who connects; `waits`: the other end comes to us. Raises `ConfigError`."""
    settings = builder.settings
    login = settings.last("auth-user-pass")
    found = routes(builder)
    common = builder.common(server=waits)
    return ClientConfig(
        common=common,
        remotes=() if waits else remotes(builder, common),
        auth_user_pass=login is not None,
        credentials=_credentials(builder, login),
        static_challenge=_static_challenge(settings),
        username=_username(builder, login),
        routes=tuple(route for route in found if isinstance(route, Route)),
        landmark_routes=tuple(route for route in found if isinstance(route, LandmarkRoute)),
        around=builder.surroundings.around,
        redirect=_flags(builder, "redirect-gateway"),
        redirect_private=_flags(builder, "redirect-private"),
        dns=_dns(builder),
        pull_filters=tuple(PullFilter(*entry.args) for entry in settings.all("pull-filter")),
        peer_info=_peer_info(builder),
        replay_persist=_replay_persist(builder),
        **settings.fields(ClientConfig),
    )


def _flags(builder: Builder, name: str) -> frozenset[str] | None:
    """All flags of a directive's lines; None without a line."""
    entries = builder.settings.all(name)
    for entry in entries:
        for flag in sorted({"bypass-dhcp", "bypass-dns"} & set(entry.args)):
            builder.findings.warn(entry.warning(f"'{name} {flag}' has no effect, as with openvpn on Linux"))
    return frozenset(flag for entry in entries for flag in entry.args) if entries else None


def _peer_info(builder: Builder) -> tuple[tuple[str, str], ...]:
    """The ``UV_`` lines, of which the last of a name counts; none without ``push-peer-info``."""
    found: dict[str, str] = {}
    for entry in builder.settings.all("setenv"):
        name, value = entry.args[:2]
        if not name.startswith("UV_") or not builder.settings.has("push-peer-info"):
            continue
        if not _PEER_INFO_NAME.match(name) or not _PEER_INFO_VALUE.match(value or ""):
            builder.findings.warn(entry.warning("this cannot be told to the server"))
        elif name in found or len(found) < MAX_PEER_INFO:
            found[name] = value or ""
    return tuple(found.items())


def _replay_persist(builder: Builder) -> str:
    entry = builder.settings.last("replay-persist")
    if entry is None:
        return ""
    if not builder.surroundings.around and not builder.settings.has("secret"):
        raise entry.error("'replay-persist' is for plain machines: a VPN qube keeps no such file", "remove the line")
    return str(entry.args[0])


def _static_challenge(settings: Settings) -> StaticChallenge | None:
    entry = settings.last("static-challenge")
    if entry is None:
        return None
    text, echo, form = entry.args
    return StaticChallenge(printable(text), bool(echo), concat=form == "concat")


def _credentials(builder: Builder, login: Entry | None) -> Credentials | None:
    if login is None or (login.block is None and login.args[0] in (None, "stdin")):
        return None
    return material.credentials(login, builder.read_file)


def _username(builder: Builder, login: Entry | None) -> str | None:
    """The user name of a file that holds nothing else: only the password is asked for, as openvpn does."""
    if login is None or (login.block is None and login.args[0] in (None, "stdin")):
        return None
    return material.username(login, builder.read_file)


def routes(builder: Builder) -> tuple[Route | LandmarkRoute, ...]:
    settings, findings = builder.settings, builder.findings
    made: list[Route | LandmarkRoute] = []
    for name, make in (("route", ipv4_route), ("route-ipv6", ipv6_route)):
        for entry in settings.all(name):
            try:
                made.append(make(*entry.args, around=builder.surroundings.around))
            except Unusable as error:
                findings.warn(entry.warning(f"'{name}' has no effect: {error}"))
    return tuple(made)


def _dns(builder: Builder) -> Dns:
    settings, findings = builder.settings, builder.findings
    options = DnsOptions(whole=builder.surroundings.around)
    for name, take in (("dhcp-option", options.dhcp_option), ("dns", options.dns)):
        for entry in settings.all(name):
            try:
                take(*entry.args)
            except Unusable as error:
                findings.warn(entry.warning(f"'{name} {entry.args[0]}' has no effect: {error}"))
    return options.result()
