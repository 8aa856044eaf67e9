# SPDX-License-Identifier: BSD-2-Clause
"""When the way to the server has changed: the judgement, and what is seen of a real change in a namespace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest

from qubes_miragevpn.runtime.plain import uplink
from qubes_miragevpn.runtime.plain.plainhost import PlainHost
from qubes_miragevpn.runtime.plain.uplink import Judge, Way, watch
from tests.unit.runtime.netns import in_netns, ip
from tests.unit.runtime.test_plainhost import SERVER, network, nobody

OTHER = IPv4Address("198.51.100.1")
WAY = Way(SERVER, "eth0", IPv4Address("10.0.0.254"), IPv4Address("10.0.0.1"))
MOVED = Way(SERVER, "wlan0", IPv4Address("10.1.0.254"), IPv4Address("10.1.0.1"))


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ([WAY, WAY, WAY], [False, False, False]),
        ([WAY, MOVED, MOVED, WAY], [False, True, False, True]),
        ([WAY, None, None, WAY], [False, False, False, True]),  # the same way, and yet: it was gone
        ([None, WAY, WAY], [False, True, False]),
    ],
)
def test_judgement(seen: list[Way | None], wanted: list[bool]) -> None:
    judge = Judge()
    assert [judge.seen(SERVER, way) for way in seen] == wanted


def test_another_server_is_no_change() -> None:
    judge = Judge()
    assert not judge.seen(None, None)
    assert not judge.seen(SERVER, WAY)
    assert not judge.seen(OTHER, Way(OTHER, "wlan0", None, None))


def test_after_a_sleep_the_same_is_not_the_same() -> None:
    judge = Judge()
    judge.seen(SERVER, WAY)
    judge.slept()
    assert judge.seen(SERVER, WAY) and not judge.seen(SERVER, WAY)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "TICK", 0.1)


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """A plain host with a way to the server, watched; gives the times at which a new connection was wanted."""
    network()
    host = PlainHost("tun", nobody)
    await host.before_transport(SERVER)
    wanted: list[float] = []
    watching = asyncio.create_task(watch(host, lambda: wanted.append(asyncio.get_running_loop().time())))
    await asyncio.sleep(0.6)  # the watch has seen how things are
    try:
        yield wanted
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await host.close()


async def first(wanted: list[float]) -> float:
    async with asyncio.timeout(5):
        while not wanted:
            await asyncio.sleep(0.01)
    return wanted[0]


@pytest.mark.needs_root
def test_an_address_that_changes_is_noticed_within_a_second() -> None:
    async def run() -> None:
        async with watched() as wanted:
            ip("addr del 10.0.0.1/24 dev near")
            await asyncio.sleep(0.5)
            assert not wanted, "there is no way now"
            ip("addr add 10.0.0.9/24 dev near")
            ip("route add default via 10.0.0.254 dev near")
            usable = asyncio.get_running_loop().time()
            assert await first(wanted) - usable < 1.0
            await asyncio.sleep(0.5)
            assert len(wanted) == 1

    in_netns(run)


@pytest.mark.needs_root
def test_an_uplink_that_comes_back_is_noticed() -> None:
    async def run() -> None:
        async with watched() as wanted:
            ip("link set near down")
            await asyncio.sleep(0.5)
            ip("link set near up")
            ip("route add default via 10.0.0.254 dev near")
            usable = asyncio.get_running_loop().time()
            assert await first(wanted) - usable < 1.0

    in_netns(run)


@pytest.mark.needs_root
def test_waking_up_is_noticed_without_news_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = [0.0]
    monkeypatch.setattr(uplink, "_asleep", lambda: asleep[0])

    async def run() -> None:
        async with watched() as wanted:
            asleep[0] += 3600
            woken = asyncio.get_running_loop().time()
            assert await first(wanted) - woken < 1.0

    in_netns(run)


@pytest.mark.needs_root
def test_other_changes_are_none_of_ours() -> None:
    async def run() -> None:
        async with watched() as wanted:
            ip("link add other type veth peer name another")
            ip("link set other up")
            ip("link set another up")
            ip("addr add 172.16.0.1/24 dev other")
            ip("route add 172.17.0.0/16 via 172.16.0.9 dev other")
            await asyncio.sleep(1.0)
            assert not wanted

    in_netns(run)
