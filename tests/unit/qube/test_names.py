# SPDX-License-Identifier: BSD-2-Clause
"""Names in dom0's rules: when they may be looked up, and when `qubes-firewall` is told to do so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address
from typing import Any

import pytest

from qubes_miragevpn.qube import qdb
from qubes_miragevpn.qube.firewall import names
from qubes_miragevpn.qube.firewall.names import Names, askers, named
from qubes_miragevpn.qube.states import Live
from tests.unit.qube import fastloop

WORK, PERSONAL = "10.137.0.21", "fd09:24ef:4179::a89:16"
A, B = (Live((IPv4Address(f"10.{net}.0.2"),), (IPv4Address(f"10.{net}.0.1"),)) for net in (8, 9))
RULE = "action=accept dsthost=www.example.org proto=tcp dstports=443-443"


def test_names_in_rules() -> None:
    """By address; what is no rule of a qube with an address, or has no name, is none."""
    rules = {
        f"/qubes-firewall/{WORK}": "",
        f"/qubes-firewall/{WORK}/policy": "drop",
        f"/qubes-firewall/{WORK}/0000": "action=accept specialtarget=dns",
        f"/qubes-firewall/{WORK}/0001": RULE,
        f"/qubes-firewall/{WORK}/0002": "action=accept dsthost=example.net",
        f"/qubes-firewall/{PERSONAL}/0000": "action=accept dsthost=example.net",
        "/qubes-firewall/10.137.0.9/0000": "action=accept dst4=203.0.113.80/32",
        "/qubes-firewall/work/0000": RULE,
        f"/qubes-firewall/{WORK}/comment": RULE,
    }
    assert named(rules) == {WORK: {"www.example.org", "example.net"}, PERSONAL: {"example.net"}}
    assert named({}) == {}


def test_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root; and systemd-resolved's user, where there is one."""
    monkeypatch.setattr(names, "RESOLVED", "no-such-user")
    assert askers() == (0,)
    monkeypatch.setattr(names, "RESOLVED", "daemon")
    assert len(askers()) == 2 and askers()[0] == 0


class Stage:
    """A QubesDB, a tunnel, and what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: dict[str, str] = {}
        self.live: Live | None = None
        self.let: list[tuple[int, ...]] = []
        self.told: list[tuple[float, str]] = []
        monkeypatch.setattr(qdb, "below", self._below)
        monkeypatch.setattr(qdb, "write", self._write)
        self.names = Names(self._let_ask, lambda: self.live, (0, 193))

    async def _below(self, path: str) -> dict[str, str]:
        return {key: value for key, value in self.entries.items() if key.startswith(path)}

    async def _write(self, key: str, value: str) -> bool:
        assert value == ""
        self.told.append((asyncio.get_running_loop().time(), key))
        return True

    async def _let_ask(self, users: tuple[int, ...]) -> None:
        self.let.append(users)

    def times(self) -> list[float]:
        """When it was told, since when this was last asked; to the five seconds of a look."""
        told, self.told = self.told, []
        assert {key for _, key in told} <= {f"/qubes-firewall/{WORK}"}
        return [when // 5 * 5 for when, _ in told]


def played(play: Callable[[Stage], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)

    async def run() -> None:
        life = asyncio.create_task(stage.names.run())
        try:
            await play(stage)
        finally:
            life.cancel()

    fastloop.run(run())


def test_nobody_asks_unless_a_rule_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        stage.live = A
        stage.entries = {f"/qubes-firewall/{WORK}/0000": "action=accept"}
        await asyncio.sleep(7)
        assert set(stage.let) == {()} and stage.times() == []
        stage.entries[f"/qubes-firewall/{WORK}/0000"] = RULE
        await asyncio.sleep(6)
        assert stage.let[-1] == (0, 193) and len(stage.times()) == 1
        stage.entries.clear()
        await asyncio.sleep(6)
        assert stage.let[-1] == () and stage.times() == []

    played(play, monkeypatch)


def test_told_when_the_tunnel_opens_and_a_few_times_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times in all as long as something is missing; never where all is found, unless the tunnel is another."""

    async def play(stage: Stage) -> None:
        stage.entries = {f"/qubes-firewall/{WORK}/0000": RULE}
        await asyncio.sleep(20)
        assert stage.let[0] == (0, 193) and stage.times() == [], "it is closed"
        stage.live = A
        stage.names.opened()
        await asyncio.sleep(200)
        assert stage.times() == [20, 25, 40, 80]
        stage.entries[f"/dns/{WORK}/www.example.org"] = "{'203.0.113.80/32'}"
        stage.names.opened()
        await asyncio.sleep(200)
        assert stage.times() == [], "the same tunnel: who is connected stays so"
        del stage.entries[f"/dns/{WORK}/www.example.org"]
        stage.names.opened()
        await asyncio.sleep(200)
        assert stage.times() == [420, 435, 475], "shut while it was closed"
        stage.live = B
        stage.entries[f"/dns/{WORK}/www.example.org"] = "{'203.0.113.80/32'}"
        stage.names.opened()
        await asyncio.sleep(200)
        assert stage.times() == [620], "other resolvers, other addresses"
        stage.entries[f"/qubes-firewall/{WORK}/0000"] = "action=accept dsthost=" + "a" * 60
        await asyncio.sleep(200)
        assert len(stage.times()) == 1, "QubesDB cannot say whether it was found"

    played(play, monkeypatch)


def test_what_cannot_be_opened_is_tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def play(stage: Stage) -> None:
        failed = []

        async def let_ask(users: tuple[int, ...]) -> None:
            failed.append(users)
            if len(failed) == 1:
                raise OSError("no")

        stage.entries = {f"/qubes-firewall/{WORK}/0000": RULE}
        stage.names = Names(let_ask, lambda: A, (0,))
        life = asyncio.create_task(stage.names.run())
        await asyncio.sleep(7)
        assert failed == [(0,), (0,)] and "names in rules: no" in caplog.text
        life.cancel()

    played(play, monkeypatch)
