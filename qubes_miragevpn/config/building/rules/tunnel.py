# SPDX-License-Identifier: BSD-2-Clause
"""Rules about the tunnel itself: its interface, its keep-alive, its end; each is named by its row of the table."""

from __future__ import annotations

from qubes_miragevpn.config.building.rules.rule import Breach
from qubes_miragevpn.config.model import Proto
from qubes_miragevpn.config.reading.collect import Settings
from qubes_miragevpn.config.rows.serving import NOGW

_BRIDGE = "server-bridge 10.8.0.4 255.255.255.0 10.8.0.128 10.8.0.254"
_NOT_BRIDGED = {
    "server": "the addresses are those of the bridge's network",
    "server-ipv6": "the bridge's network gives IPv6 addresses by itself (router advertisements)",
    "ifconfig-pool": "'server-bridge' names the first and the last address",
    "nat": "the bridge's network has its own way out",
}


def keepalive_and_ping(settings: Settings) -> Breach | None:
    if settings.has("keepalive"):
        for name in ("ping", "ping-restart", "ping-exit"):
            if settings.has(name):
                return Breach(
                    settings.last(name), f"'{name}' contradicts 'keepalive', which sets it", "keep one of them"
                )
    return None


def keepalive_ratio(settings: Settings) -> Breach | None:
    entry = settings.last("keepalive")
    if entry is not None and entry.args[1] < 2 * entry.args[0]:
        return Breach(
            entry, "the timeout of 'keepalive' must be at least twice its interval", "write 'keepalive 10 60'"
        )
    return None


def is_tap(settings: Settings) -> bool:
    dev = settings.last("dev")
    return (settings.value("dev-type") or ("" if dev is None else dev.args[0][:3])) == "tap"


def bridge(settings: Settings) -> Breach | None:
    entry = settings.last("server-bridge")
    if entry is None:
        return None
    if not is_tap(settings):
        return Breach(entry, "'server-bridge' needs a tunnel of Ethernet frames", "write 'dev tap', at both ends")
    if len([word for word in entry.args if word is not None]) not in ((1,) if entry.args[0] == NOGW else (0, 4)):
        return Breach(entry, "'server-bridge' needs four words, 'nogw' or none", f"write '{_BRIDGE}'")
    for name, why in _NOT_BRIDGED.items():
        if settings.has(name):
            return Breach(settings.last(name), f"'{name}' does not go with 'server-bridge': {why}", "keep one of them")
    return None


def device(settings: Settings) -> Breach | None:
    entry = settings.last("dev")
    name = "" if entry is None else entry.args[0]
    kind = settings.value("dev-type")
    if entry is None or name.startswith(("tun", "tap")):
        if entry is not None and kind not in (None, name[:3]):
            return Breach(entry, f"'dev {name}' contradicts 'dev-type {kind}'", "remove 'dev-type'")
        return None
    if name == "null":
        return Breach(entry, "'dev null' makes no tunnel, which is not supported", "write 'dev tun'")
    if not settings.has("dev-type"):
        return Breach(entry, f"the kind of the interface '{name}' is not clear", "add 'dev-type tun'")
    return None


def tcp_exit_notify(settings: Settings) -> Breach | None:
    entry, proto = settings.last("explicit-exit-notify"), settings.value("proto")
    if entry is not None and proto is not None and proto.proto is Proto.TCP:
        return Breach(entry, "'explicit-exit-notify' has no effect over TCP, whose end the peer sees")
    return None
