# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn client [FILE] [--OPTION ...]`: a plain VPN client, or one end of a tunnel between two, in the foreground.

Ctrl-C, SIGTERM and SIGHUP end it (the server is told, every change is undone, exit code 0), SIGUSR1 reconnects, SIGUSR2
logs how much was carried.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.words import add_command, named_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qubes_miragevpn.config.loader import Loaded
    from qubes_miragevpn.config.model import ClientConfig, PointClient, StaticConfig
    from qubes_miragevpn.crypto.replay import Numbering
    from qubes_miragevpn.runtime.backend import Backend
    from qubes_miragevpn.runtime.driving.base import Machine
    from qubes_miragevpn.runtime.plain.remembered import Remembered

    Load = Callable[..., Loaded[ClientConfig] | Loaded[StaticConfig] | Loaded[PointClient]]

_log = logging.getLogger("miragevpn.client")


def add_parser(subparsers: Any) -> None:
    """Add this command's parser."""
    parser = add_command(
        subparsers,
        "client",
        what="connect this machine to a VPN",
        description="Connect this machine to a VPN, until Ctrl-C.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Connect by the profile, until a signal or until nothing more can be tried."""
    import asyncio

    from qubes_miragevpn.cli.server import serve
    from qubes_miragevpn.config import loader
    from qubes_miragevpn.runtime.backend import choose
    from qubes_miragevpn.runtime.plain.privilege import demand_net_admin

    named = named_by(arguments)
    if named is None:
        return ExitCode.OK
    end = loader.looks_between_two(named.text, named.surroundings)
    if end == "waits":
        return serve(named, arguments.words)
    if end == "connects":
        load: Load = loader.load_point_client
    else:
        load = loader.load_static if loader.looks_static(named.text, named.surroundings) else loader.load_client
    loaded = load(named.text, file=named.file, read_file=named.read_file, surroundings=named.surroundings)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    remembered = _remembered(loaded.config, named.folder)
    config, machine = _machine(loaded.config, None if remembered is None else remembered.numbering)
    backend = choose(loaded.config)
    if not (config.ifconfig_noexec and config.route_noexec):
        demand_net_admin()
    return asyncio.run(_connect(config, machine, backend, remembered))


def _remembered(config: ClientConfig | StaticConfig | PointClient, folder: Path) -> Remembered | None:
    """What ``replay-persist`` keeps; raises `ConfigError`."""
    from qubes_miragevpn.config.model import ClientConfig
    from qubes_miragevpn.runtime.plain.remembered import Remembered

    path = config.replay_persist if isinstance(config, ClientConfig) else config.client.replay_persist
    return Remembered(folder / os.path.expanduser(path)) if path else None


def _machine(
    config: ClientConfig | StaticConfig | PointClient, seen: Numbering | None
) -> tuple[ClientConfig, Machine]:
    """What a client's host has to know, and the machine that speaks the protocol."""
    from qubes_miragevpn.config.model import PointClient, StaticConfig
    from qubes_miragevpn.protocol.client import Client
    from qubes_miragevpn.protocol.static import StaticKeyPeer
    from qubes_miragevpn.runtime.machine import about_this_machine

    def unix_time() -> int:
        return int(time.time())

    if isinstance(config, StaticConfig):
        return config.client, StaticKeyPeer(config, entropy=os.urandom, unix_time=unix_time, seen=seen)
    if isinstance(config, PointClient):
        machine = Client(config.client, entropy=os.urandom, unix_time=unix_time, tunnel=config.tunnel, seen=seen)
        return config.client, machine
    return config, Client(config, entropy=os.urandom, unix_time=unix_time, machine=about_this_machine, seen=seen)


async def _connect(config: ClientConfig, machine: Machine, backend: Backend, remembered: Remembered | None) -> int:
    import asyncio

    from qubes_miragevpn.cli.foreground import report_end, run_in_foreground, totals
    from qubes_miragevpn.protocol.contract import Command
    from qubes_miragevpn.runtime.driver import ClientDriver
    from qubes_miragevpn.runtime.plain.credentials import (
        ask_at_terminal,
        ask_challenge_at_terminal,
        ask_for_proxy_at_terminal,
    )
    from qubes_miragevpn.runtime.plain.plainhost import Habits, PlainHost
    from qubes_miragevpn.runtime.plain.recovery import recover
    from qubes_miragevpn.runtime.plain.uplink import watch
    from qubes_miragevpn.runtime.sockets.transports import SocketOptions

    habits = Habits.of(config)
    ask = partial(ask_at_terminal, known=config.username)
    host = PlainHost(
        config.common.dev, ask, habits,
        ask_for_proxy=ask_for_proxy_at_terminal, ask_challenge=ask_challenge_at_terminal, open_device=backend.open_tun,
    )  # fmt: skip
    driver = ClientDriver(machine, backend.make(), host, SocketOptions.of(config.common))
    actions = {
        signal.SIGUSR1: lambda: driver.command(Command.RECONNECT),
        signal.SIGUSR2: lambda: _log.info("%s", totals(driver.counters())),
    }
    if not habits.idle:
        await recover()
    watching = asyncio.create_task(watch(host, lambda: driver.command(Command.RECONNECT)))
    keeping = asyncio.create_task(remembered.keep()) if remembered is not None else None
    try:
        stop = await run_in_foreground(driver, driver.run(), _log, actions)
    finally:
        watching.cancel()
        if remembered is not None and keeping is not None:
            keeping.cancel()
            remembered.save_or_tell()
    return report_end(stop, driver.counters(), _log)
