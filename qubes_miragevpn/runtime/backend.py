# SPDX-License-Identifier: BSD-2-Clause
"""Which data plane a tunnel gets: the native one where it is built and can serve the configuration, else the reference.

Decided before the tunnel starts, for good: nothing is changed under a running tunnel. MIRAGEVPN_DATAPLANE in the
environment names one; what cannot be had is replaced all the same, and one line of the log says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import (
    ClientConfig,
    Common,
    PointClient,
    PointServer,
    Proto,
    ServerConfig,
    SocksProxy,
    StaticConfig,
)
from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.interface import DataPlane
from qubes_miragevpn.runtime.tun import Tun, open_tun

VARIABLE = "MIRAGEVPN_DATAPLANE"
REFERENCE, NATIVE = "reference", "native"
NATIVE_MODULE = "qubes_miragevpn.dataplane._native"
SMALL_BLOCK = 8  # bytes: Blowfish and Triple DES, which nobody should be in a hurry with

_log = logging.getLogger("miragevpn.tunnel")

Config = ClientConfig | ServerConfig | StaticConfig | PointClient | PointServer


@dataclass(frozen=True)
class Backend:
    """A data plane, and how the TUN is to be opened for it."""

    make: Callable[[], DataPlane]
    open_tun: Callable[[str], Tun]


def choose(config: Config, environ: Mapping[str, str] = os.environ) -> Backend:
    """The backend for `config`."""
    wish = environ.get(VARIABLE, "")
    if wish not in ("", REFERENCE, NATIVE):
        _log.warning("%s names no data plane: %s (%s or %s)", VARIABLE, printable(wish), REFERENCE, NATIVE)
        wish = ""
    reason = "it was asked for" if wish == REFERENCE else _hindrance(config)
    if reason:
        _log.log(logging.INFO if wish != NATIVE else logging.WARNING, "data plane: %s (%s)", REFERENCE, reason)
        make = partial(_reference, config) if isinstance(config, ServerConfig) else _between_two
        return Backend(make, partial(open_tun, ethernet=_shared(config).ethernet))
    _log.info("data plane: %s", NATIVE)
    server = isinstance(config, ServerConfig)
    among = isinstance(config, ServerConfig) and config.client_to_client
    return Backend(partial(_native, server, among), partial(open_tun, headers=True))


def _reference(config: ServerConfig) -> DataPlane:
    from qubes_miragevpn.dataplane.ethernet.switch import Switch, SwitchRules
    from qubes_miragevpn.protocol.sizes import ETHERNET_ROOM
    from qubes_miragevpn.runtime.pump import Pump

    switch = None
    if config.common.ethernet:
        switch = Switch(SwitchRules(config.max_routes_per_client, config.common.tun_mtu + ETHERNET_ROOM))
    return Pump(server=True, client_to_client=config.client_to_client, switch=switch)


def _between_two() -> DataPlane:
    from qubes_miragevpn.runtime.pump import Pump

    return Pump()


def _native(server: bool, client_to_client: bool) -> DataPlane:
    from qubes_miragevpn.runtime.nativepump import NativePump

    return NativePump(server=server, client_to_client=client_to_client)


def _shared(config: Config) -> Common:
    return config.client.common if isinstance(config, StaticConfig | PointClient) else config.common


def _loadable() -> bool:
    try:
        import_module(NATIVE_MODULE)
    except ImportError:  # also what was built for another machine
        return False
    return True


def _hindrance(config: Config) -> str:
    """Why the native backend cannot serve `config`; empty if it can."""
    if _shared(config).ethernet:
        return "the native one carries IP packets, not Ethernet frames"
    if not _loadable():
        return "the native one is not built"
    if isinstance(config, StaticConfig):
        return "the native one has no static key mode"
    if isinstance(config, ServerConfig | PointServer):
        return _common_hindrance(config.common, any(place.proto is Proto.UDP for place in config.places))
    client = config.client if isinstance(config, PointClient) else config
    for remote in client.remotes:
        datagrams = remote.proto is Proto.UDP
        if datagrams and isinstance(remote.proxy, SocksProxy):
            return "the native one does not speak to a SOCKS relay"
        if reason := _common_hindrance(remote.common or client.common, datagrams):
            return reason
    return ""


def _common_hindrance(common: Common, datagrams: bool) -> str:
    if common.fragment and datagrams:
        return "the native one does not cut packets (fragment)"
    if common.decompress:
        return "the native one does not decompress (allow-compression)"
    suites = {*common.data_ciphers, common.data_ciphers_fallback or common.data_ciphers[0]}
    lacking = sorted(name for name in suites if SUITES[name].block_size == SMALL_BLOCK)
    return f"the native one has no {lacking[0]}" if lacking else ""
