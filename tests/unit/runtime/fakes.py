# SPDX-License-Identifier: BSD-2-Clause
"""A machine that follows a script, and a data plane and a host that write down what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Family, TunnelSettings
from qubes_miragevpn.dataplane.interface import Counters, PlaneEvent
from qubes_miragevpn.protocol.contract import Effect, Event

Answer = list[Effect] | Exception | Callable[[Event], list[Effect]]


class Machine:
    """Answers an event by what the script has for it: by the event itself, or by its type. Others have no effect."""

    def __init__(self, script: dict[Any, Answer]) -> None:
        self.script = script
        self.events: list[Event] = []
        self.times: list[float] = []
        self.deadline: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        self.times.append(now)
        answer = self.script.get(event, self.script.get(type(event), []))
        if isinstance(answer, Exception):
            raise answer
        return list(answer(event)) if callable(answer) else answer

    def next_deadline(self) -> float | None:
        return self.deadline


class Plane:
    """Writes every call down in `calls`, as (method, arguments...)."""

    name = "fake"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.report: Callable[[PlaneEvent], None] = lambda event: None
        self.sockets: dict[int, Any] = {}
        self.totals: dict[int, Counters] = {}

    def start(self, report: Callable[[PlaneEvent], None]) -> None:
        self.report = report

    def attach_link(self, link: int, sock: Any, remote: Any, envelope: Any = None) -> None:
        self.calls.append(("attach_link", link, remote, *([envelope] if envelope else [])))
        self.sockets[link] = sock

    def detach_link(self, link: int) -> None:
        self.calls.append(("detach_link", link))
        self.sockets.pop(link).close()

    def counters(self, peer: int) -> Counters:
        return self.totals.get(peer, Counters())

    def close(self) -> None:
        self.calls.append(("close",))
        for sock in self.sockets.values():
            sock.close()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))

    def asked(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]


class Host:
    """Writes every call down; fails if two overlap. `answers`: what a method returns, raises or waits for."""

    mark = 0

    def __init__(self, calls: list[tuple[Any, ...]] | None = None, **answers: Any) -> None:
        self.calls = [] if calls is None else calls
        self.answers = answers
        self.busy = ""

    async def _call(self, name: str, *arguments: Any) -> Any:
        assert not self.busy, f"{name} during {self.busy}"
        self.busy = name
        self.calls.append((name, *arguments))
        try:
            answer = self.answers.get(name)
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                answer = None
            else:
                await asyncio.sleep(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.busy = ""

    async def resolve(self, host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        return await self._call("resolve", host, family) or [IPv4Address("127.0.0.1")]

    async def connecting(self, remote: str) -> None:
        await self._call("connecting", remote)

    async def before_transport(self, address: IPv4Address | IPv6Address) -> None:
        await self._call("before_transport", address)

    async def up(self, settings: TunnelSettings) -> int:
        return await self._call("up", settings) or 99

    async def down(self, reason: str) -> None:
        await self._call("down", reason)

    async def close(self) -> None:
        await self._call("close")

    async def credentials(self, again: str) -> Credentials | None:
        return await self._call("credentials", again)

    async def proxy_credentials(self, proxy: str, again: str) -> Credentials | None:
        return await self._call("proxy_credentials", proxy, again)

    async def challenge(self, text: str, *, echo: bool) -> Secret | None:
        return await self._call("challenge", text, echo)
