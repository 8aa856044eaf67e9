# SPDX-License-Identifier: BSD-2-Clause
"""The service of a VPN qube: its tunnels, what watches over them, and the control socket.

Order at start: everything closed and verified, then the watches, then the control socket, READY, and only then the
first connection. Order at the end: the tunnels close, and the barriers stay as they are: closed. Driven by signals
(SIGTERM, SIGINT: end; SIGUSR1: reconnect now), the control socket, and the kernel's events; a slow clock looks
at everything again in case an event was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.qube import qdb
from qubes_miragevpn.qube.answers import Answers
from qubes_miragevpn.qube.dns import ResolvConf
from qubes_miragevpn.qube.firewall.enforcer import Enforcer
from qubes_miragevpn.qube.firewall.names import Names, askers
from qubes_miragevpn.qube.firewall.table import VIRTUAL_RESOLVERS
from qubes_miragevpn.qube.firewall.uplink import NO_UPLINK, Address, Signature, Uplink, another
from qubes_miragevpn.qube.firewall.watch import NFTABLES, RULES, ChangeSignal
from qubes_miragevpn.qube.profiles import Profiles
from qubes_miragevpn.qube.profiles.chosen import Choices, Passing
from qubes_miragevpn.qube.recent import RecentLines
from qubes_miragevpn.qube.resolver import Resolver
from qubes_miragevpn.qube.rpc.control import ControlServer, Refused
from qubes_miragevpn.qube.sdnotify import Notifier
from qubes_miragevpn.qube.settings import TRANSPORT_MARK, Settings, tunnel_name
from qubes_miragevpn.qube.states import Live, State
from qubes_miragevpn.qube.tunnelhost import Enter, QubeHost
from qubes_miragevpn.qube.tunnels import GOODBYE, Running, Tunnel
from qubes_miragevpn.qube.vif import Downstream, addresses, assign
from qubes_miragevpn.runtime.backend import choose
from qubes_miragevpn.runtime.driver import ClientDriver
from qubes_miragevpn.runtime.machine import about_this_machine
from qubes_miragevpn.runtime.netlink.netconf import Netconf, Watcher
from qubes_miragevpn.runtime.sockets.transports import SocketOptions

NEEDED_TABLES = frozenset({("ip", "qubes")})  # NAT and the check of sources; every network qube has it
SETTLE = 0.02  # seconds to gather a burst of the kernel's events in (a vif's coming makes a dozen)
BREATH = 0.2  # seconds between two looks, so that a storm of events leaves the data plane its time
LEAVE = GOODBYE + 2  # seconds that the tunnels have to end in good order

_log = logging.getLogger("miragevpn.service")


class Service:
    """A set of tunnels, and the machine around them."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._notifier = Notifier(environ)
        self._netconf = Netconf()
        self._profiles = Profiles(settings)
        self._uplink = Uplink(settings.uplink, self._netconf, _gateway)
        self._choices = Choices(settings.state_file, settings.passing_file)
        indexes = sorted({0, *self._choices.chosen.tunnels})
        first = assign({}, indexes, self._choices.chosen.assignments)
        self._enforcer = Enforcer(self._netconf, self._uplink, first, needed=NEEDED_TABLES, own=settings.own_programs)
        self._resolver = Resolver(self._uplink_resolvers, TRANSPORT_MARK)
        self._resolv_conf = ResolvConf(settings.resolv_conf, settings.dns_helper)
        self._downstream = Downstream(self._downstream_changed)
        self.downstream: dict[str, frozenset[Address]] = {}  # interfaces and the addresses behind them
        self._tunnels = {index: self._tunnel(index) for index in indexes}
        self._names = Names(self._enforcer.let_ask, self._default_tunnel, askers())
        self._recent = RecentLines()
        self._answers = Answers(self._profiles, self._choices, self._enforcer, self._tunnels, self, self._recent.lines)
        self._control = ControlServer(settings.control_socket, settings.control_group, self._answers.answer)
        self._attention = asyncio.Event()
        self._signature: Signature = NO_UPLINK
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lives: dict[int, asyncio.Task[Any]] = {}  # of the tunnels
        self._noting = False  # every tunnel knows what it is to do
        self._removing: set[int] = set()  # tunnels on their way out, which nobody may make again meanwhile

    def _tunnel(self, index: int) -> Tunnel:
        def start(config: ClientConfig, profile: str, enter: Enter) -> Running:
            return self._start(index, config, profile, enter)

        return Tunnel(
            index,
            settings=self._settings,
            profiles=self._profiles,
            enforcer=self._enforcer,
            start=start,
            changed=partial(self._tell, index),
            wall_clock=time.time,
        )

    # --- life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; raises `MirageError` if the machine cannot be closed to begin with."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self.reconnect)
        async with contextlib.AsyncExitStack() as stack:
            logging.getLogger("miragevpn").addHandler(self._recent)
            stack.callback(logging.getLogger("miragevpn").removeHandler, self._recent)
            stack.push_async_callback(self._netconf.close)
            watcher = Watcher(links=True, addresses=False, routes=True)
            stack.callback(watcher.close)
            for kind in (NFTABLES, RULES):
                stack.callback(ChangeSignal(kind, self._attention.set).close)
            self._signature = await self._enforcer.start()
            self._profiles.tidy()
            await self._resolv_conf.restore()  # of a service that was killed
            self._downstream.seen(await self._netconf.links())
            await self._serve_downstream()
            await self._first_wishes()  # before anybody can ask for something else
            await self._control.start()
            stack.push_async_callback(self._control.close)
            self._notifier.send(READY="1")
            _log.info("closed and watching; %d profiles", len(self._profiles.names()))
            await self._run_tasks(watcher)
        self._notifier.send(STATUS="closed")

    async def _first_wishes(self) -> None:
        """Go on where this boot's last service ended; a boot begins with what was chosen for it."""
        names, told = self._profiles.names(), await qdb.profile()
        for index, tunnel in self._tunnels.items():
            profile, wanted = self._choices.first_profile(index, names, told), self._settings.autoconnect
            if self._choices.passing is not None and index in self._choices.passing.tunnels:
                profile, wanted = self._choices.passing.tunnels[index]
            tunnel.profile = profile
            if wanted:
                tunnel.connect()
        self._noting = True
        self._note()

    async def _run_tasks(self, watcher: Watcher) -> None:
        """Run everything until asked to stop, or until one part fails: then the service fails, closed."""
        for index, tunnel in self._tunnels.items():
            self._lives[index] = self._begin(tunnel.run())
        for life in (self._watch(watcher), self._heal(), self._names.run()):
            self._begin(life)
        try:
            await self._stop.wait()
            self._notifier.send(STOPPING="1")
            ended = [task for task in self._tasks if task.done() and not task.cancelled()]
            if not ended:
                await self._leave(*self._tunnels.values())
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in ended:
            error = task.exception()
            raise error if error is not None else RuntimeError("a part of the service ended by itself")

    def _begin(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        """Run a part of the service; when it ends, everything does."""
        task = asyncio.get_running_loop().create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task in self._tasks:
            self._stop.set()

    async def _leave(self, *tunnels: Tunnel) -> None:
        """Close the tunnels in good order; one that takes too long is cut off."""
        leaving = [asyncio.create_task(tunnel.leave()) for tunnel in tunnels]
        _, late = await asyncio.wait(leaving, timeout=LEAVE)
        for task in late:
            task.cancel()

    async def _watch(self, watcher: Watcher) -> None:
        async for event in watcher:
            if self._downstream.event(event):
                self._downstream.seen(await self._netconf.links())
            self._attention.set()

    async def _heal(self) -> None:
        """Look at everything after each event of the kernel's, and from time to time; tell systemd that we live."""
        period = min(self._settings.check_interval, self._notifier.watchdog or self._settings.check_interval)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._attention.wait()
                    await asyncio.sleep(SETTLE)
            self._attention.clear()
            begin = asyncio.get_running_loop().time()
            try:
                await self._look()
            except (MirageError, OSError) as error:
                # Not telling systemd: if this goes on, it restarts us.
                _log.error("%s", printable(str(error)))
                await asyncio.sleep(period)
            else:
                if self._notifier.watchdog:
                    self._notifier.send(WATCHDOG="1")
                await asyncio.sleep(begin + BREATH - asyncio.get_running_loop().time())

    async def _look(self) -> None:
        signature = await self._enforcer.heal()
        before, self._signature = self._signature, signature
        if signature != before:
            _log.info("the uplink is %s", "gone" if signature == NO_UPLINK else "there, or another")
            if another(before, signature):
                self.reconnect()
        await self._serve_downstream()
        try:
            await self._resolv_conf.mend()
        except (MirageError, OSError) as error:
            # an AppVM with a restricted firewall lacks names; nothing is open for it
            _log.warning("resolv.conf: %s", printable(str(error)))
        for index, tunnel in tuple(self._tunnels.items()):  # a request may add one meanwhile
            if tunnel.state is State.CONNECTED and not await self._enforcer.routes_present(index):
                tunnel.restart(f"{tunnel_name(index)} lost its routes")

    def reconnect(self) -> None:
        """Have every wanted tunnel begin again at once."""
        for tunnel in self._tunnels.values():
            tunnel.reconnect()

    def _default_tunnel(self) -> Live | None:
        """What tunnel 0 is while it is open."""
        return self._enforcer.live(0) if self._tunnels[0].state is State.CONNECTED else None

    def _downstream_changed(self) -> None:
        """With one tunnel a new vif is covered already, by pattern and catch-all; with several it waits, closed."""
        self._attention.set()

    # --- several tunnels ----------------------------------------------------------------------------------

    async def _serve_downstream(self) -> None:
        """Let every downstream interface use the tunnel that it is assigned to."""
        known = addresses(await self._netconf.routes())
        self.downstream = {vif: known.get(vif, frozenset()) for vif in self._downstream.names}
        await self._enforcer.assign(assign(self.downstream, self._tunnels, self._choices.chosen.assignments))

    async def add_tunnel(self, index: int) -> Tunnel:
        """Return tunnel `index`, made if there is none yet; it opens nothing before it is connected and assigned."""
        if index in self._removing or self._stop.is_set():
            raise Refused("the tunnel is being removed, or the service ends")
        if index not in self._tunnels:
            tunnel = self._tunnels[index] = self._tunnel(index)
            try:
                await self._serve_downstream()
            except BaseException:
                del self._tunnels[index]  # without a life it would be wanted for ever
                raise
            self._lives[index] = self._begin(tunnel.run())
        return self._tunnels[index]

    async def remove_tunnel(self, index: int, *, release: bool) -> None:
        """End tunnel `index` (not 0) and forget it: interface, rules, table, profile; raises `Refused` if it is going.

        Qubes that are assigned to it stay so, and closed. With `release` they use the tunnel for the rest again.
        """
        tunnel, life = self._tunnels.get(index), self._lives.get(index)
        if tunnel is None or life is None or index in self._removing:
            raise Refused("the tunnel is being made or removed")
        self._removing.add(index)
        try:
            await self._leave(tunnel)
            self._tasks.discard(life)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            del self._tunnels[index], self._lives[index]
            chosen = self._choices.chosen
            self._choices.remember(
                tunnels={n: name for n, name in chosen.tunnels.items() if n != index},
                assignments={a: n for a, n in chosen.assignments.items() if n != index or not release},
            )
            await self._serve_downstream()
            await self._enforcer.remove(index)
            self._note()
        finally:
            self._removing.discard(index)

    async def assign(self, address: Address, index: int | None) -> None:
        """Have the qube with `address` use tunnel `index`, or (None) the one for the rest; in force at the return."""
        assignments = {key: value for key, value in self._choices.chosen.assignments.items() if key != address}
        if index is not None:
            assignments[address] = index
        self._choices.remember(assignments=assignments)
        await self._serve_downstream()

    # --- making a tunnel ----------------------------------------------------------------------------------

    def _start(self, index: int, config: ClientConfig, profile: str, enter: Enter) -> Running:
        def ask() -> Credentials | None:
            return self._profiles.credentials(profile)

        backend = choose(config)
        host = QubeHost(
            tunnel_name(index),
            netconf=self._netconf,
            uplink=self._uplink,
            resolver=self._resolver,
            resolv_conf=self._resolv_conf,
            fallback=self._profiles.options(profile).fallback_resolvers or self._settings.fallback_resolvers,
            enter=enter,
            ask=ask,
            question=self._tunnels[index].ask,
            open_device=backend.open_tun,
        )
        machine = Client(config, entropy=os.urandom, unix_time=lambda: int(time.time()), machine=about_this_machine)
        plane = backend.make()
        options = SocketOptions.of(config.common)
        return Running(ClientDriver(machine, plane, host, options), host, plane.name)

    async def _uplink_resolvers(self) -> tuple[Address, ...]:
        if self._settings.uplink_resolvers:
            return self._settings.uplink_resolvers
        told = [await qdb.address(key) for key in ("/qubes-primary-dns", "/qubes-secondary-dns")]
        return tuple(address for address in told if address is not None) or VIRTUAL_RESOLVERS

    # --- telling others ------------------------------------------------------------------------------------

    def _tell(self, changed: int) -> None:
        """Systemd's status line; and what the next service of this boot, or of the next, is to know."""
        shown = "; ".join(
            f"{tunnel.profile or 'no profile'}: {tunnel.state.value}" + (f" ({tunnel.reason})" if tunnel.reason else "")
            for tunnel in self._tunnels.values()
        )
        self._notifier.send(STATUS=shown)
        for index, tunnel in self._tunnels.items():
            profile = tunnel.lasting_profile  # not one that is on trial, should it have been chosen just now
            if tunnel.state is State.CONNECTED and profile and profile != self._choices.chosen.tunnels.get(index):
                self._choices.use(index, profile)
        self._answers.changed(changed)
        if changed == 0 and self._tunnels[0].state is State.CONNECTED:
            self._names.opened()
        # Tunnels that end with the service are wanted again by the next one, as are those it did not come to.
        if self._noting and not self._stop.is_set():
            self._note()

    def _note(self) -> None:
        self._choices.note(Passing({n: (each.lasting_profile, each.wanted) for n, each in self._tunnels.items()}))


async def _gateway(version: int) -> Address | None:
    return await qdb.address("/qubes-gateway" if version == 4 else "/qubes-gateway6")
