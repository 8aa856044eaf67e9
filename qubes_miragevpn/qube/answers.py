# SPDX-License-Identifier: BSD-2-Clause
"""What the service answers to each verb of the control socket: looks at tunnels and store, or changes them.

Nothing here opens or closes anything by itself: a tunnel is told what is wanted, and its own life does it. A refusal
(`Refused`) says enough for the one who asked in sys-vpn; the whole story is in the log, and a caller by qrexec learns
no more than `rpc.services` lets through. A status is for anybody who may ask: no secret, no server's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Protocol

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.qube import qdb
from qubes_miragevpn.qube.firewall.enforcer import Enforcer
from qubes_miragevpn.qube.profiles import Profiles, trial
from qubes_miragevpn.qube.profiles.chosen import MAX_ASSIGNMENTS, Address, Choices
from qubes_miragevpn.qube.rpc.control import Refused
from qubes_miragevpn.qube.rpc.events import Hub, Listener, TooManyListeners
from qubes_miragevpn.qube.rpc.messages import Request
from qubes_miragevpn.qube.settings import tunnel_name
from qubes_miragevpn.qube.states import State
from qubes_miragevpn.qube.tunnels import Tunnel

MAX_WARNINGS = 20  # of the loader's, told to whom hands a profile in

_QUIET = ("status", "details", "profiles", "log")  # asked all the time; not worth a line in the log

_log = logging.getLogger("miragevpn.service")


class Fleet(Protocol):
    """What of the service is used here."""

    downstream: dict[str, frozenset[Address]]

    async def add_tunnel(self, index: int) -> Tunnel: ...

    async def assign(self, address: Address, index: int | None) -> None: ...

    async def remove_tunnel(self, index: int, *, release: bool) -> None: ...


class Answers:
    """The verbs, over what the service holds."""

    def __init__(
        self,
        profiles: Profiles,
        choices: Choices,
        enforcer: Enforcer,
        tunnels: Mapping[int, Tunnel],
        fleet: Fleet,
        recent: Callable[[], list[str]],
    ) -> None:
        self._profiles = profiles
        self._choices = choices
        self._enforcer = enforcer
        self._tunnels = tunnels
        self._fleet = fleet
        self._hub = Hub()
        self._recent = recent
        self._storing = asyncio.Lock()  # changes of the store, which leave the event loop, do not overlap
        self._going: set[str] = set()  # profiles that are being removed or renamed: nobody may begin with them
        self._verbs: Mapping[str, Callable[[Request], Awaitable[Any]]] = {
            "status": self._status,
            "details": self._details,
            "profiles": self._list,
            "switch": self._switch,
            "connect": self._connect,
            "disconnect": self._disconnect,
            "assign": self._assign,
            "remove-tunnel": self._remove_tunnel,
            "answer": self._answer,
            "events": self._events,
            "log": self._log,
            "import": self._import,
            "remove": self._remove,
            "rename": self._rename,
            "default": self._default,
            "credentials": self._credentials,
        }

    async def answer(self, request: Request) -> Any:
        """Carry `request` out; raises `Refused`."""
        if request.verb not in _QUIET:
            _log.info("%s%s, asked by %s", request.verb, f" {request.name}" if request.name else "", _caller(request))
        return await self._verbs[request.verb](request)

    # --- tunnels ------------------------------------------------------------------------------------------

    async def _status(self, request: Request) -> dict[str, Any]:
        return self.status(self._tunnel(request))

    async def _details(self, request: Request) -> dict[str, Any]:
        """Of all tunnels, and of the qubes downstream; still no secret and no server's address."""
        chosen = self._choices.chosen.assignments
        return {
            "tunnels": {
                tunnel_name(index): {**self.status(tunnel), "question": tunnel.question}
                for index, tunnel in sorted(self._tunnels.items())
            },
            "downstream": {vif: sorted(map(str, each)) for vif, each in sorted(self._fleet.downstream.items())},
            "assigned": {str(address): tunnel_name(index) for address, index in chosen.items()},
        }

    async def _answer(self, request: Request) -> dict[str, Any]:
        """What a person answers to the server's question; it is kept nowhere."""
        text = request.payload.removesuffix(b"\n").removesuffix(b"\r")
        if not text or b"\n" in text or b"\0" in text:
            raise Refused("an answer is one line")
        if not self._tunnel(request).answer(Secret(text)):
            raise Refused("the server has asked nothing")
        return {"answered": True}

    async def _log(self, request: Request) -> dict[str, Any]:
        """The end of the log. It names servers, which a status does not; secrets are in no log."""
        return {"lines": self._recent()}

    async def _events(self, request: Request) -> Listener:
        """What each tunnel does now, and from now on every change."""
        try:
            told = [self._told(index) for index in sorted(self._tunnels)]
            return self._hub.listen(told, owner=request.caller in (None, "dom0"))
        except TooManyListeners as error:
            raise Refused(str(error)) from None

    def _told(self, index: int) -> dict[str, Any]:
        tunnel = self._tunnels[index]
        return {"event": "tunnel", "tunnel": tunnel_name(index), **self.status(tunnel), "question": tunnel.question}

    def changed(self, index: int) -> None:
        """Tell the listeners what tunnel `index` does now."""
        if index in self._tunnels:
            self._hub.publish(self._told(index))

    def _tunnel(self, request: Request) -> Tunnel:
        tunnel = self._tunnels.get(_index(request))
        if tunnel is None:
            raise Refused("there is no such tunnel: switch it to a profile first")
        return tunnel

    def status(self, tunnel: Tunnel) -> dict[str, Any]:
        """The state of a tunnel, for anybody who may ask."""
        counters = tunnel.counters()
        state, reason = tunnel.state, tunnel.public_reason
        if state is State.CONNECTED and self._enforcer.missing:
            state, reason = State.FAILED, "Qubes' own firewall tables are missing: closed until they are back"
        return {
            "state": state.value,
            "profile": tunnel.profile,
            "since": tunnel.since,
            "bytes_in": counters.bytes_in,
            "bytes_out": counters.bytes_out,
            "reason": reason,
            "backend": tunnel.backend,
        }

    async def _switch(self, request: Request) -> dict[str, Any]:
        name = self._known(request.name)
        self._must_load(name)
        tunnel = await self._fleet.add_tunnel(_index(request))
        self._known(name)  # still: making a tunnel takes its time
        tunnel.switch(name, rollback=bool(request.rollback))
        if tunnel.lasting_profile == name:
            self._choices.use(tunnel.index, name)
        return self.status(tunnel)

    async def _connect(self, request: Request) -> dict[str, Any]:
        told = await qdb.profile()  # first: the tunnel may go meanwhile
        tunnel = self._tunnel(request)
        tunnel.profile = tunnel.profile or self._choices.first_profile(tunnel.index, self._profiles.names(), told)
        tunnel.connect()
        return self.status(tunnel)

    async def _disconnect(self, request: Request) -> dict[str, Any]:
        tunnel = self._tunnel(request)
        tunnel.disconnect()
        return self.status(tunnel)

    async def _assign(self, request: Request) -> dict[str, Any]:
        """The tunnel may be one that is to come: until then the qube is closed."""
        address = ip_address(str(request.address))
        chosen = self._choices.chosen.assignments
        if address not in chosen and len(chosen) >= MAX_ASSIGNMENTS:
            raise Refused("too many qubes are assigned")
        await self._fleet.assign(address, None if request.tunnel is None else _index(request))
        assigned = {"address": str(address), "tunnel": request.tunnel or "default"}
        self._hub.publish({"event": "assigned", **assigned})
        return assigned

    async def _remove_tunnel(self, request: Request) -> dict[str, Any]:
        tunnel = self._tunnel(request)
        if tunnel.index == 0:
            raise Refused("vpn0 stays: disconnect it")
        await self._fleet.remove_tunnel(tunnel.index, release=bool(request.release))
        removed = {"tunnel": tunnel_name(tunnel.index)}
        self._hub.publish({"event": "removed", **removed})
        return removed

    # --- profiles -----------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> dict[str, Any]:
        current = self._tunnels[0].profile
        return {"profiles": self._profiles.names(), "current": current, "default": self._choices.chosen.default}

    async def _import(self, request: Request) -> dict[str, Any]:
        """Checked and written apart from the event loop: parsing what a stranger wrote must not hold the tunnel up."""
        name = str(request.name)

        def install() -> tuple[str, ...]:
            trial.bear(request.payload)
            return self._profiles.install(name, request.payload)

        warnings = await self._store("imported", install)
        return {"profile": name, "warnings": [printable(warning, 200) for warning in warnings[:MAX_WARNINGS]]}

    async def _remove(self, request: Request) -> dict[str, Any]:
        name = self._known(request.name)
        if any(name in (tunnel.profile, tunnel.lasting_profile) and tunnel.wanted for tunnel in self._tunnels.values()):
            raise Refused("the profile is in use: disconnect or switch first")
        with self._leaving(name):
            await self._store("removed", lambda: self._profiles.remove(name))
            self._renamed(name, None)
        return {"profile": name}

    async def _rename(self, request: Request) -> dict[str, Any]:
        old, new = self._known(request.name), str(request.to)
        with self._leaving(old):
            await self._store("renamed", lambda: self._profiles.rename(old, new))
            self._renamed(old, new)
        return {"profile": new}

    @contextlib.contextmanager
    def _leaving(self, name: str) -> Iterator[None]:
        self._going.add(name)
        try:
            yield
        finally:
            self._going.discard(name)

    def _renamed(self, old: str, new: str | None) -> None:
        for tunnel in self._tunnels.values():
            tunnel.renamed(old, new)
        self._choices.renamed(old, new)

    async def _default(self, request: Request) -> dict[str, Any]:
        self._choices.remember(default=None if request.name is None else self._known(request.name))
        return {"default": self._choices.chosen.default}

    async def _credentials(self, request: Request) -> dict[str, Any]:
        name = self._known(request.name)
        done = await self._store("stored", lambda: self._profiles.set_credentials(name, request.payload))
        return {"profile": name, "credentials": "set" if done else "forgotten"}

    async def _store(self, done: str, change: Callable[[], Any]) -> Any:
        async with self._storing:
            try:
                result = await asyncio.to_thread(change)
            except ConfigError as error:
                raise Refused(printable(str(error), 500)) from None
            except OSError as error:
                _log.error("the store: %s", error)
                raise Refused(f"cannot be {done}: {error.strerror or 'the disk refuses'}") from None
        self._hub.publish({"event": "profiles", "profiles": self._profiles.names()})
        return result

    def _known(self, name: str | None) -> str:
        if name is None or name in self._going or name not in self._profiles.names():
            raise Refused("there is no such profile")
        return name

    def _must_load(self, name: str) -> None:
        """A profile that is broken is no reason to end the tunnel that works; the log has the whole story."""
        try:
            self._profiles.check(name)
            self._profiles.options(name)
        except ConfigError as error:
            _log.error("%s", printable(str(error), 500))
            raise Refused("the profile cannot be used" + (f": line {error.line}" if error.line else "")) from None


def _index(request: Request) -> int:
    return int((request.tunnel or "vpn0").removeprefix("vpn"))


def _caller(request: Request) -> str:
    return request.caller or "root's side of the control socket"
