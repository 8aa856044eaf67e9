# SPDX-License-Identifier: BSD-2-Clause
"""Names to addresses: literals, families, bounds, time."""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.model import Family
from qubes_miragevpn.runtime import resolver
from qubes_miragevpn.runtime.resolver import resolve


def never(host: str, family: int) -> list[str]:
    raise AssertionError("nobody should be asked")


def found(host: str, family: Family, answers: list[str]) -> list[str]:
    asked: list[tuple[str, int]] = []

    def lookup(host: str, number: int) -> list[str]:
        asked.append((host, number))
        return answers

    result = [str(each) for each in asyncio.run(resolve(host, family, lookup=lookup))]
    assert asked[0][0] == host
    return result


def test_literals_are_not_looked_up() -> None:
    for text in ("192.0.2.1", "2001:db8::1"):
        assert asyncio.run(resolve(text, Family.ANY, lookup=never)) == [ip_address(text)]
    with pytest.raises(OSError, match="no ipv6 address"):
        asyncio.run(resolve("192.0.2.1", Family.IPV6, lookup=never))


def test_order_is_kept_doubles_and_other_families_are_not() -> None:
    answers = ["2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]
    assert found("a.example", Family.ANY, answers) == ["2001:db8::1", "192.0.2.2", "192.0.2.1"]
    assert found("a.example", Family.IPV4, answers) == ["192.0.2.2", "192.0.2.1"]
    with pytest.raises(OSError, match="no address"):
        found("a.example", Family.ANY, ["not an address"])


def test_the_number_of_answers_is_bounded() -> None:
    assert len(found("a.example", Family.ANY, [f"192.0.2.{n}" for n in range(200)])) == resolver.MAX_ADDRESSES


def test_failures_are_oserrors() -> None:
    for error in (socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")):

        def lookup(host: str, family: int, error: Exception = error) -> list[str]:
            raise error

        with pytest.raises(OSError):
            asyncio.run(resolve("a.example", Family.ANY, lookup=lookup))


def test_a_resolver_that_hangs_costs_no_more_than_its_time_and_a_bounded_number_of_threads() -> None:
    release = threading.Event()

    def hang(host: str, family: int) -> list[str]:
        release.wait()
        return ["192.0.2.1"]

    async def run() -> None:
        for _ in range(resolver.MAX_THREADS):
            with pytest.raises(OSError, match="did not answer"):
                await resolve("a.example", Family.ANY, timeout=0.001, lookup=hang)
        with pytest.raises(OSError, match="earlier questions"):
            await resolve("a.example", Family.ANY, timeout=0.001, lookup=hang)
        release.set()
        while True:  # the threads end, and there is room again
            try:
                assert await resolve("a.example", Family.ANY, lookup=hang)
                return
            except OSError:
                await asyncio.sleep(0.001)

    try:
        asyncio.run(run())
    finally:
        release.set()


def test_the_systems_resolver_knows_localhost() -> None:
    assert ip_address("127.0.0.1") in asyncio.run(resolve("localhost", Family.IPV4))
