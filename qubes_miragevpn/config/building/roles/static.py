# SPDX-License-Identifier: BSD-2-Clause
"""Settings to the static key mode (``secret``): what a client's configuration has, and what a server would push.

Everything about certificates is refused beside it by a rule, so that nobody believes in a check that is not made.
"""

from __future__ import annotations

from collections.abc import Iterator

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.dataciphers import DataCipherBuilder
from qubes_miragevpn.config.building.remotes import ASK
from qubes_miragevpn.config.model import ClientConfig, StaticConfig
from qubes_miragevpn.config.reading.collect import Settings
from qubes_miragevpn.crypto.suites import SUITES, Mode, canonical_cipher

_FIX = "write 'cipher AES-256-CBC', here and at the other end"


def static(builder: Builder, client: ClientConfig) -> StaticConfig:
    """The static key mode of `client`. Raises `ConfigError`."""
    settings = builder.settings
    entry = settings.last("secret")
    assert entry is not None  # whoever chose this mode has seen it
    _nobody_is_asked(settings)
    direction = entry.args[1] if entry.args[1] is not None else settings.value("key-direction")
    key = material.static_key(entry, builder.read_file)
    return StaticConfig(client, key, direction, _cipher(builder), tuple(own_tunnel(settings)))


def _nobody_is_asked(settings: Settings) -> None:
    for scope in (settings, *(block.nested for block in settings.all("connection") if block.nested is not None)):
        for name, at in (("http-proxy", 2), ("http-proxy-user-pass", 0), ("socks-proxy", 2)):
            for entry in scope.all(name):
                if entry.block is None and entry.args[at] == ASK:
                    problem = f"'{name}' cannot ask for a password with a static key"
                    raise entry.error(problem, "name a file with user name and password instead")


def _cipher(builder: Builder) -> str:
    entry = builder.settings.last("cipher")
    assert entry is not None  # a rule has seen to it
    name = canonical_cipher(entry.args[0])
    shown = printable(entry.args[0], 40)
    if name is None or SUITES[name].mode is not Mode.CBC:
        raise entry.error(f"'cipher {shown}' cannot be used with a static key", _FIX)
    if SUITES[name].insecure:
        raise entry.error(f"'cipher {shown}' is insecure: {SUITES[name].insecure}", _FIX)
    if not DataCipherBuilder(builder.settings, builder.findings).digest():
        raise entry.error("with 'auth none' nothing would authenticate the packets", "write 'auth SHA256'")
    return name


def own_tunnel(settings: Settings) -> Iterator[str]:
    """The lines that a server would push, as it would write them."""
    topology = settings.last("topology")
    local, other = settings.value("ifconfig"), None
    if topology is not None:
        yield f"topology {topology.args[0]}"
    if local is not None:
        other = settings.all("ifconfig")[-1].args[1]
        yield f"ifconfig {local} {other}"
    six = settings.last("ifconfig-ipv6")
    if six is not None:
        yield " ".join(str(word) for word in ("ifconfig-ipv6", *six.args) if word is not None)
