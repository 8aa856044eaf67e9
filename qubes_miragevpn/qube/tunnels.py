# SPDX-License-Identifier: BSD-2-Clause
"""One tunnel's life: which profile, in which state, connecting for ever with pauses in between.

The user drives it (connect, disconnect, switch, reconnect), and what the machine's `run` ends with. One task
carries the life, so that changes never overlap; commands only say what is wanted and wake it. What cannot mend
itself (no profile, a broken one, no credentials) waits for a command instead of trying again.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from qubes_miragevpn.base.errors import ConfigError, KeyLocked, MirageError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.dataplane.interface import Counters
from qubes_miragevpn.protocol.contract import Command, Stop, StopKind
from qubes_miragevpn.qube import states
from qubes_miragevpn.qube.firewall.enforcer import Enforcer
from qubes_miragevpn.qube.profiles import Profiles, Unlocking
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.qube.states import Live, State
from qubes_miragevpn.qube.tunnelhost import Enter
from qubes_miragevpn.runtime.driving.host import TunnelHost

ANSWER_TIME = 300.0  # seconds that a question of the server's stands; its own patience is mostly shorter
GOODBYE = 6.0  # seconds that an ending tunnel has; the driver gives its machine five

_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|(?<![\w:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,}(?![\w:])")
"""What looks like an IPv4 or IPv6 address."""

_log = logging.getLogger("miragevpn.tunnel")


class Driver(Protocol):
    """What of `runtime.driver.ClientDriver` is used here."""

    async def run(self) -> Stop: ...

    def command(self, command: Command) -> None: ...

    def counters(self) -> Counters: ...


@dataclass(frozen=True)
class Running:
    """A driver with its host, and the name of its data plane."""

    driver: Driver
    host: TunnelHost
    backend: str


Start = Callable[[ClientConfig, str, Enter], Running]
"""Make a driver for a configuration (of the profile named) whose host goes to states by the function."""


class Trouble(MirageError):
    """The tunnel cannot be had.

    `wait`: until a command, since trying again cannot help; otherwise after `least` seconds or more. `log` is the
    whole story, for root's log, where the reason that anybody may see leaves something out.
    """

    def __init__(self, reason: str, *, wait: bool, least: float = 0.0, log: str = "") -> None:
        super().__init__(reason)
        self.wait = wait
        self.least = least
        self.log = log or reason


class Tunnel:
    """Tunnel `index`. `run` is its life, the other methods what the user may ask."""

    def __init__(
        self,
        index: int,
        *,
        settings: Settings,
        profiles: Profiles,
        enforcer: Enforcer,
        start: Start,
        changed: Callable[[], None],
        wall_clock: Callable[[], float],
    ) -> None:
        self.index = index
        self.state = State.CLOSED
        self.reason = ""
        self.profile: str | None = None
        self.backend = ""
        self._settings = settings
        self._profiles = profiles
        self._unlocking = Unlocking(profiles, self._ask_for_key)
        self._enforcer = enforcer
        self._start = start
        self._changed = changed
        self._wall_clock = wall_clock
        self._since = wall_clock()
        self._wanted = False
        self._again = False  # the present attempt is to end, another to begin
        self._may_open: object = None  # the present attempt's token; an attempt that ends may open nothing any more
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()  # closed, and nothing is wanted
        self._entering = asyncio.Lock()
        self._running: Running | None = None
        self._failures = 0
        self._past = Counters()
        self._back: str | None = None  # the profile to go back to if the present one does not connect
        self._tried: str | None = None  # the profile of the present attempt, or of the last one
        self._story = ""  # why the next attempt is made, for its state's reason
        self.question = ""  # what the server or a proxy asks of the user; shown to those alone who may answer
        self._answer: asyncio.Future[Secret | None] | None = None
        self._hide: dict[str, str] = {}  # names of servers and their proxies, and what a status shows instead

    # --- what the user asks -------------------------------------------------------------------------------

    def connect(self) -> None:
        """Want the tunnel; while it is wanted and not there, try at once."""
        self._wanted = True
        if self._running is None:
            self._failures = 0
            self._turn_to()

    def disconnect(self) -> None:
        """Want it no more."""
        self._wanted, self._back = False, None
        self._turn_to()

    async def leave(self) -> None:
        """Want it no more, say goodbye to the server, and return when it is closed."""
        self.disconnect()
        await self._idle.wait()

    def switch(self, name: str, *, rollback: bool = False) -> None:
        """Want the tunnel by profile `name`, which exists; the old one closes first.

        With `rollback`, a profile that fails, or has not connected within the settings' time, makes room again for
        the one before it.
        """
        before = self.lasting_profile
        self._back = before if rollback and before != name else None
        self.profile, self._wanted, self._failures = name, True, 0
        self._turn_to()

    def _turn_to(self) -> None:
        """End the attempt, begin what is wanted, and say so at once: the old tunnel is not shown by a new name."""
        self._again, self._may_open = True, None
        if self._running is not None:
            self._note(State.SWITCHING, "" if self._wanted else "disconnecting")
        elif self.profile is not None or not self._wanted:
            self._note(State.CONNECTING if self._wanted else State.CLOSED, "")
        self._wake.set()

    async def ask(self, untrusted_text: str) -> Secret | None:
        """Show a question, the server's or for a proxy, until somebody answers; None if nobody does in time."""
        mine: asyncio.Future[Secret | None] = asyncio.get_running_loop().create_future()
        self._answer = mine
        self.question = printable(untrusted_text)
        _log.warning("an answer is wanted: %s (miragevpn answer)", self.question)
        self._changed()
        try:
            async with asyncio.timeout(ANSWER_TIME):
                return await mine
        except TimeoutError:
            return None
        finally:
            if self._answer is mine:  # and not a later attempt's question
                self.question, self._answer = "", None
                self._changed()

    def answer(self, text: Secret) -> bool:
        """Answer the question; False if there is none."""
        if self._answer is None or self._answer.done():
            return False
        self._answer.set_result(text)
        return True

    def renamed(self, old: str, new: str | None) -> None:
        """A profile has another name, or (None) is gone; what runs goes on."""
        self.profile = new if self.profile == old else self.profile
        self._back = new if self._back == old else self._back

    @property
    def _on_trial(self) -> bool:
        """True while an attempt with a profile that may have to make room again has not connected."""
        return self._back is not None and self._tried == self.profile

    @property
    def wanted(self) -> bool:
        """True unless it is to be closed."""
        return self._wanted

    @property
    def lasting_profile(self) -> str | None:
        """The profile that a new start begins with: not one that is on trial."""
        return self._back or self.profile

    def reconnect(self) -> None:
        """Begin again at once: the uplink is another, or the qube slept."""
        if not self._wanted:
            return
        if self._running is not None:
            self._running.driver.command(Command.RECONNECT)
        else:
            self.connect()

    def restart(self, reason: str) -> None:
        """End the present attempt and begin another: its interface is not what it was."""
        if self._running is not None and self._may_open is not None:
            _log.error("%s: connecting anew", reason)
            self._again = True
            self._wake.set()

    def counters(self) -> Counters:
        """Totals of the present attempt, or of the last one."""
        return self._running.driver.counters() if self._running is not None else self._past

    @property
    def public_reason(self) -> str:
        """The reason of the present state without any server's name or address."""
        text = self.reason
        for host in sorted(self._hide, key=len, reverse=True):
            text = text.replace(host, self._hide[host])
        return _ADDRESS.sub("(address)", text)

    @property
    def since(self) -> str:
        """When the present state began, RFC 3339 in UTC."""
        return datetime.fromtimestamp(self._since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    # --- life ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until cancelled; the firewall is closed when this ends."""
        try:
            while True:
                try:
                    await self._turn()
                except Trouble as trouble:
                    await self._fail(trouble)
                except (MirageError, OSError) as error:
                    await self._fail(Trouble(printable(str(error)), wait=False))
                except Exception as error:
                    _log.exception("an attempt failed by a bug")
                    await self._fail(Trouble(f"internal error: {type(error).__name__}", wait=False))
        finally:
            await asyncio.shield(self._enter(State.CLOSED, reason="the service ended"))

    async def _turn(self) -> None:
        """One wish: stay closed until there is another, or make an attempt."""
        self._wake.clear()
        self._again = False
        if self._wanted:
            await self._attempt()
            return
        await self._enter(State.CLOSED)
        self._idle.set()
        try:
            await self._wake.wait()
        finally:
            self._idle.clear()

    async def _fail(self, trouble: Trouble) -> None:
        if self._on_trial:
            self._story = f"profile {self.profile} failed: back to {self._back}"
            _log.error("%s; %s", trouble.log, self._story)
            self.profile, self._back, self._failures = self._back, None, 0
            return
        try:
            await self._enter(State.FAILED, reason=str(trouble))
        except (MirageError, OSError) as error:
            # Not even closing works now. Routes and rules are a barrier of their own; healing goes on trying.
            trouble = Trouble(f"the firewall cannot be set: {printable(str(error))}", wait=False)
            self._note(State.FAILED, str(trouble))
        await self._pause(trouble)

    async def _attempt(self) -> None:
        """Connect and stay connected; returns when something else is wanted, raises `Trouble` otherwise."""
        name, known = self.profile, self._profiles.names()
        if name is None or name not in known:
            missing = "there is no profile" if name is None else f"there is no profile {name}"
            raise Trouble("no profile is chosen" if name is None and known else missing, wait=True)
        token, self._tried = object(), name
        self._may_open = token
        try:
            patience = self._settings.rollback_after if self._on_trial else None
            config = await self._unlocking.load(name, unless=self._wake, within=patience)
            if config is None:
                return
            running = self._start(config, name, partial(self._host_enter, token))
        except KeyLocked as error:
            reason = f"profile {name}: the password of the private key is wrong, or nobody gave it"
            raise Trouble(reason, wait=True, log=printable(str(error), 500)) from None
        except ConfigError as error:
            place = f"{error.file} line {error.line}" if error.line else error.file or name
            reason = f"profile {name} cannot be used, see the log ({printable(place, 80)})"
            raise Trouble(reason, wait=True, log=printable(str(error), 500)) from None
        self._hide = {remote.hop[0]: "(address)" for remote in config.remotes}
        self._hide |= {remote.host: "the server" for remote in config.remotes}
        story, self._story = self._story, ""
        await self._enter(State.CONNECTING, reason=story)
        self.backend = running.backend
        self._running = running
        life = asyncio.create_task(running.driver.run())
        try:
            stop = await self._until_ended(life, running)
        finally:
            self._may_open = None
            await asyncio.shield(self._end(life, running))
            self._past = running.driver.counters()
            self._running = None
        if stop is not None:
            raise self._trouble(stop)

    async def _ask_for_key(self, name: str) -> Secret | None:
        self._note(State.CONNECTING, "the password of the private key is wanted")
        return await self.ask(f"password of the private key of profile {name}")

    async def _until_ended(self, life: asyncio.Task[Stop], running: Running) -> Stop | None:
        """Wait for the driver's end, or for another wish (None)."""
        loop = asyncio.get_running_loop()
        trial_ends = loop.time() + self._settings.rollback_after
        while not life.done():
            wake = asyncio.create_task(self._wake.wait())
            waiting: set[asyncio.Task[Any]] = {life, wake}
            patience = max(0.0, trial_ends - loop.time()) if self._on_trial else None
            done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            wake.cancel()
            if not done and self._on_trial:
                raise Trouble(f"not connected within {self._settings.rollback_after:g} s", wait=False)
            if self._wake.is_set():
                self._wake.clear()
                if self._again or not self._wanted:
                    self._may_open = None
                    await self._enter(State.SWITCHING, reason="" if self._wanted else "disconnecting")
                    running.driver.command(Command.DISCONNECT)
                    await asyncio.wait({life}, timeout=GOODBYE)
                    return None
        try:
            return life.result()
        except asyncio.CancelledError:
            raise Trouble("the tunnel was cut off", wait=False) from None

    async def _end(self, life: asyncio.Task[Stop], running: Running) -> None:
        """Leave nothing of the attempt: the driver has ended, the host has closed."""
        if not life.done():
            life.cancel()
            await asyncio.wait({life}, timeout=GOODBYE)
        try:
            await running.host.close()
        except (MirageError, OSError) as error:
            _log.error("while closing: %s", printable(str(error)))

    def _trouble(self, stop: Stop) -> Trouble:
        reason = printable(stop.reason)
        if stop.kind is StopKind.CREDENTIALS:
            return Trouble(f"credentials: {reason}", wait=True)
        return Trouble(reason, wait=False, least=self._settings.retry_auth if stop.kind is StopKind.AUTH else 0.0)

    async def _pause(self, trouble: Trouble) -> None:
        """Wait for a command, or for the next attempt's time."""
        if trouble.wait:
            _log.error("%s; waiting for a command", trouble.log)
            await self._wake.wait()
            return
        pause = min(self._settings.retry_first * 2 ** min(self._failures, 20), self._settings.retry_max)
        pause = max(pause, trouble.least)
        self._failures += 1
        _log.error("%s; trying again in %g s", trouble.log, pause)
        try:
            await asyncio.wait_for(self._wake.wait(), pause)
        except TimeoutError:
            return

    async def _host_enter(self, token: object, state: State, live: Live | None = None, reason: str = "") -> None:
        """The host's way to a state. Once its attempt is to end, everything is closed already and stays so."""
        async with self._entering:
            if self._may_open is token:
                await self._go(state, live, reason)
            elif state is State.CONNECTED:
                raise Trouble("the tunnel is being closed", wait=False)

    async def _enter(self, state: State, *, reason: str = "") -> None:
        async with self._entering:
            await self._go(state, None, reason)

    async def _go(self, state: State, live: Live | None, reason: str) -> None:
        """Go to `state`: what it demands is in force when this returns. An opening is named when it is true."""
        if state is not State.CONNECTED:
            self._note(state, reason)
        await self._enforcer.enforce(self.index, states.demand(state, live))
        if state is State.CONNECTED:
            self._failures = 0
            self._back = None if self._on_trial else self._back
            self._note(state, reason)

    def _note(self, state: State, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            if state is not self.state:
                self._since = self._wall_clock()
            self.state, self.reason = state, reason
            _log.info("%s%s", state.value, f": {printable(reason)}" if reason else "")
            self._changed()
