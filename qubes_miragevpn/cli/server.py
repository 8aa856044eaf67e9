# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn server [FILE] [--OPTION ...]`: a server, or the waiting end of a tunnel between two, in the foreground.

Ctrl-C and SIGTERM end it (clients are told, every change is undone, exit code 0); SIGUSR1 and SIGUSR2 log who is
connected. SIGHUP has a server read its configuration again without dropping anybody: what may change while clients are
connected does, the rest is named and left, and a file with a mistake changes nothing; it ends a tunnel between two.
Forwarding and NAT beyond the TUN are the operator's, unless the file says `nat`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.cli.words import Named, add_command, named_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from qubes_miragevpn.config.loader import Loaded
    from qubes_miragevpn.config.model import OneClient, PointServer, ServerConfig
    from qubes_miragevpn.protocol.server import Server
    from qubes_miragevpn.runtime.driver import Place, ServerDriver
    from qubes_miragevpn.runtime.operating.console import Console

    Load = Callable[..., Loaded[ServerConfig] | Loaded[PointServer]]

_log = logging.getLogger("miragevpn.server")


def add_parser(subparsers: Any) -> None:
    """Add this command's parser."""
    parser = add_command(
        subparsers,
        "server",
        what="serve a VPN from this machine",
        description="Serve a VPN from this machine, until Ctrl-C.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    named = named_by(arguments)
    return ExitCode.OK if named is None else serve(named, arguments.words)


def serve(named: Named, words: Sequence[str]) -> int:
    """Serve by what a command line (`words`) names."""
    import asyncio

    from qubes_miragevpn.config.loader import load_point_server, load_server, looks_between_two
    from qubes_miragevpn.runtime.plain.privilege import demand_net_admin

    waits = looks_between_two(named.text, named.surroundings) == "waits"
    load: Load = load_point_server if waits else load_server
    loaded = load(named.text, file=named.file, read_file=named.read_file, surroundings=named.surroundings)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    demand_net_admin()
    return asyncio.run(_serve(loaded.config, named.folder, words))


async def _serve(config: ServerConfig | PointServer, folder: Path, words: Sequence[str]) -> int:
    from qubes_miragevpn.cli.foreground import report_end, run_in_foreground
    from qubes_miragevpn.cli.main import version
    from qubes_miragevpn.config.model import Operating, ServerConfig
    from qubes_miragevpn.protocol.server import Server
    from qubes_miragevpn.runtime.backend import choose
    from qubes_miragevpn.runtime.driver import ServerDriver
    from qubes_miragevpn.runtime.operating.console import Console
    from qubes_miragevpn.runtime.operating.roster import title
    from qubes_miragevpn.runtime.plain.serverhost import PointHost, ServerHost

    machine = Server(
        config, entropy=os.urandom, unix_time=lambda: int(time.time()), single=_single_clients(config, folder)
    )
    backend = choose(config)
    if isinstance(config, ServerConfig):
        host: ServerHost | PointHost = ServerHost(config, backend.open_tun)
        operating = config.operating
    else:
        host, operating = PointHost(config, backend.open_tun), Operating()
    console = Console(operating, folder, title(version()))
    try:
        await console.start()
        tun, name = await host.up()
        driver = ServerDriver(machine, backend.make(), config, tun, folder)

        def listening(where: tuple[Place, ...]) -> None:
            inside = "tunnel between two"
            if isinstance(config, ServerConfig):
                networks = [str(network) for network in (config.network, config.network6) if network is not None]
                inside = f"clients in {', '.join(networks)}" if networks else "clients have addresses by DHCP"
            for proto, address in where:
                _log.info("listening on %s port %d/%s, %s on %s", *address[:2], proto.value, inside, name)
            if isinstance(config, ServerConfig):
                first = config.listen
                listens = (first.address, where[0][1][1]) if first.address else None
                console.serve(driver, str(config.address or ""), str(config.address6 or ""), listens)

        status = _status(driver)
        actions = {signal.SIGUSR1: status, signal.SIGUSR2: status}
        if isinstance(config, ServerConfig):
            actions[signal.SIGHUP] = _Reloading(config, words, driver, console)
        async with _leases(config, machine, folder):
            stop = await run_in_foreground(driver, driver.run(listening), _log, actions)
        return report_end(stop, driver.counters(), _log)
    finally:
        await console.close()
        await host.close()


def _leases(config: ServerConfig | PointServer, machine: Server, folder: Path) -> AbstractAsyncContextManager[Any]:
    """Leases that outlive the program, for as long as it runs."""
    from qubes_miragevpn.config.model import ServerConfig
    from qubes_miragevpn.runtime.operating.leases import LeaseFile

    if isinstance(config, ServerConfig) and config.persist is not None:
        return LeaseFile(config.persist, folder, machine)
    return nullcontext()


def _single_clients(config: ServerConfig | PointServer, folder: Path) -> Callable[[str], OneClient | None]:
    """What reads the files for single clients."""
    from qubes_miragevpn.config.model import ServerConfig
    from qubes_miragevpn.runtime.operating.perclient import ClientFiles

    if isinstance(config, ServerConfig) and config.client_dir is not None:
        return ClientFiles(config.client_dir, folder)
    return lambda _name: None


class _Reloading:
    """Reads the configuration again, each time it is called."""

    def __init__(self, config: ServerConfig, words: Sequence[str], driver: ServerDriver, console: Console) -> None:
        self._config = config
        self._words = words
        self._driver = driver
        self._console = console

    def __call__(self) -> None:
        from qubes_miragevpn.base.errors import MirageError
        from qubes_miragevpn.cli.words import read_words
        from qubes_miragevpn.config.loader import load_server
        from qubes_miragevpn.protocol.serving.reload import reload

        try:
            named = read_words(self._words, ask=None)  # nobody is asked for a password while others are served
            around = named.surroundings
            loaded = load_server(named.text, file=named.file, read_file=named.read_file, surroundings=around)
        except (MirageError, OSError) as error:
            _log.error("not read again, everything stays as it was: %s", printable(str(error), 500))
            return
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        done = reload(self._config, loaded.config)
        self._config = done.config
        self._driver.reconfigure(done.config)
        self._console.reconfigure(done.config.operating)
        _log.info("configuration read again: %s", ", ".join(done.changed) or "nothing to change while it runs")
        if done.left:
            _log.warning("changes that take a new start, and have no effect now: %s", ", ".join(done.left))


def _status(driver: ServerDriver) -> Any:
    from qubes_miragevpn.cli.foreground import amount

    def log_clients() -> None:
        members = driver.roster("").members
        _log.info("%d clients", len(members))
        for each in members:
            moved = f"received {amount(each.bytes_in)}, sent {amount(each.bytes_out)}"
            _log.info("%s/%s (%s): %s", each.name, each.endpoint, ", ".join(each.inner), moved)

    return log_clients
