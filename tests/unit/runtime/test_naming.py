# SPDX-License-Identifier: BSD-2-Clause
"""Resolvers of a plain client: a scripted systemd-resolved on a private bus, and resolv.conf."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.config.model import EVERY_NAME, Dns
from qubes_miragevpn.runtime.plain import resolved
from qubes_miragevpn.runtime.plain.journal import Journal
from qubes_miragevpn.runtime.plain.naming import Naming
from qubes_miragevpn.runtime.plain.resolved import INTERFACE, PATH, SERVICE, BusError, Resolved

needs_bus = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="there is no dbus-daemon")

DNS = Dns((IPv4Address("10.8.0.1"), IPv6Address("fd08::1")), ("corp.example",))
V4, V6 = [2, bytes([10, 8, 0, 1])], [10, IPv6Address("fd08::1").packed]

BUS_CONFIG = """<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>
</policy></busconfig>"""


@asynccontextmanager
async def private_bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A bus of our own in the place of the system's."""
    (folder / "bus.conf").write_text(BUS_CONFIG.format(socket=folder / "bus"))
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--print-address",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert daemon.stdout is not None
    await daemon.stdout.readline()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={folder / 'bus'}")
    try:
        yield
    finally:
        daemon.kill()
        await daemon.wait()


@asynccontextmanager
async def service(said: list[tuple[Any, ...]], answer: Callable[[str], str | None]) -> AsyncIterator[None]:
    """A systemd-resolved that writes down what it is told; `answer(member)` is the name of an error, None for fine."""
    from dbus_next import Message, MessageType
    from dbus_next.aio import MessageBus

    bus = await MessageBus(bus_address=None, bus_type=__import__("dbus_next").BusType.SYSTEM).connect()

    def handle(message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL or message.interface != INTERFACE:
            return False
        assert message.path == PATH
        said.append((message.member, message.signature, *message.body))
        error = answer(message.member)
        if error == "silence":
            return True
        return Message.new_error(message, error, "no\x1b[31m") if error else Message.new_method_return(message)

    bus.add_message_handler(handle)
    await bus.request_name(SERVICE)
    try:
        yield
    finally:
        bus.disconnect()


def play(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: Callable[[Naming], Any],
    answer: Callable[[str], str | None] = lambda _: None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    said: list[tuple[Any, ...]] = []

    async def run() -> None:
        async with private_bus(folder, monkeypatch), service(said, answer):
            await part(Naming(Journal(folder / "state"), folder / "resolv.conf"))

    asyncio.run(run())
    assert not (folder / "resolv.conf").exists()
    return said


@needs_bus
def test_every_name_goes_to_the_tunnel_s_resolvers_and_everything_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(naming: Naming) -> None:
        await naming.set(7, DNS, everything=True)
        await naming.unset()
        await naming.unset()

    assert play(tmp_path, monkeypatch, part) == [
        ("SetLinkDNS", "ia(iay)", 7, [V4, V6]),
        ("SetLinkDomains", "ia(sb)", 7, [["corp.example", False], [".", True]]),
        ("SetLinkDefaultRoute", "ib", 7, True),
        ("SetLinkDNSSEC", "is", 7, ""),
        ("SetLinkDNSOverTLS", "is", 7, ""),
        ("FlushCaches", ""),
        ("RevertLink", "i", 7),
        ("FlushCaches", ""),
    ]


@needs_bus
@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        (
            Dns(DNS.servers[:1], (), ("a.example", "b.example")),
            [
                ("SetLinkDNS", "ia(iay)", 7, [V4]),
                ("SetLinkDomains", "ia(sb)", 7, [["a.example", True], ["b.example", True]]),
                ("SetLinkDefaultRoute", "ib", 7, False),
                ("SetLinkDNSSEC", "is", 7, ""),
                ("SetLinkDNSOverTLS", "is", 7, ""),
                ("FlushCaches", ""),
            ],
        ),
        (
            Dns(DNS.servers[1:], (), (), 853, "optional", True, "dns.example"),
            [
                ("SetLinkDNSEx", "ia(iayqs)", 7, [[*V6, 853, "dns.example"]]),
                ("SetLinkDomains", "ia(sb)", 7, [[".", True]]),
                ("SetLinkDefaultRoute", "ib", 7, True),
                ("SetLinkDNSSEC", "is", 7, "allow-downgrade"),
                ("SetLinkDNSOverTLS", "is", 7, "yes"),
                ("FlushCaches", ""),
            ],
        ),
    ],
    ids=["split", "encrypted"],
)
def test_split_and_encrypted(
    dns: Dns, expected: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert play(tmp_path, monkeypatch, lambda naming: naming.set(7, dns, everything=True)) == expected


@needs_bus
def test_every_name_by_wish_though_not_everything_goes_through_the_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Dns(DNS.servers[:1], split=(EVERY_NAME,))
    said = play(tmp_path, monkeypatch, lambda naming: naming.set(7, wanted, everything=False))
    assert ("SetLinkDomains", "ia(sb)", 7, [[".", True]]) in said
    assert ("SetLinkDefaultRoute", "ib", 7, True) in said


@needs_bus
def test_a_refusal_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(member: str) -> str | None:
        return "org.freedesktop.DBus.Error.AccessDenied" if member == "SetLinkDomains" else None

    play(tmp_path, monkeypatch, lambda naming: naming.set(7, DNS, everything=True), answer)
    assert "SetLinkDomains: org.freedesktop.DBus.Error.AccessDenied no\\x1b[31m" in caplog.text


@needs_bus
def test_a_service_that_does_not_answer_costs_its_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolved, "CALL_TIMEOUT", 0.3)
    play(tmp_path, monkeypatch, lambda naming: naming.set(7, DNS, everything=True), lambda _: "silence")
    assert "SetLinkDNS: no answer within 0.3 s" in caplog.text


@needs_bus
def test_without_the_service_or_a_bus_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with private_bus(tmp_path, monkeypatch):
            assert await Resolved.find() is None
        assert await Resolved.find() is None

    asyncio.run(run())


@needs_bus
def test_a_bus_that_ends_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        said: list[tuple[Any, ...]] = []
        async with private_bus(tmp_path, monkeypatch), service(said, lambda _: None):
            found = await Resolved.find()
            assert found is not None
            found.close()
            with pytest.raises(BusError):
                await found.unset(7)

    monkeypatch.setattr(resolved, "CALL_TIMEOUT", 0.5)
    asyncio.run(run())


# --- resolv.conf ----------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    async def nothing() -> None:
        return None

    monkeypatch.setattr(Resolved, "find", nothing)
    return tmp_path / "resolv.conf"


def naming_at(conf: Path) -> Naming:
    return Naming(Journal(conf.parent / "state"), conf)


def test_resolv_conf_is_replaced_and_put_back(conf: Path) -> None:
    conf.write_text("nameserver 9.9.9.9\n")

    async def run() -> None:
        naming = naming_at(conf)
        await naming.set(7, DNS, everything=True)
        lines = conf.read_text().splitlines()
        assert lines[1:] == ["nameserver 10.8.0.1", "nameserver fd08::1", "search corp.example"]
        assert conf.stat().st_mode & 0o777 == 0o644
        await naming.set(7, Dns(DNS.servers[:1]), everything=False)
        assert conf.read_text().splitlines()[1:] == ["nameserver 10.8.0.1"]
        await naming.unset()
        assert conf.read_text() == "nameserver 9.9.9.9\n"

    asyncio.run(run())
    assert [path.name for path in conf.parent.iterdir() if "resolv" in path.name] == ["resolv.conf"]


def test_a_link_is_put_back_as_a_link_and_its_target_is_not_touched(conf: Path) -> None:
    (conf.parent / "stub").write_text("nameserver 127.0.0.53\n")
    conf.symlink_to("stub")

    async def run() -> None:
        naming = naming_at(conf)
        await naming.set(7, DNS, everything=True)
        assert not conf.is_symlink() and (conf.parent / "stub").read_text() == "nameserver 127.0.0.53\n"
        await naming.unset()

    asyncio.run(run())
    assert conf.is_symlink() and conf.read_text() == "nameserver 127.0.0.53\n"


def test_where_there_was_nothing_there_is_nothing_again(conf: Path) -> None:
    async def run() -> None:
        naming = naming_at(conf)
        await naming.set(7, DNS, everything=True)
        assert conf.exists()
        await naming.unset()

    asyncio.run(run())
    assert not conf.exists()


def test_what_somebody_else_wrote_since_stays(conf: Path) -> None:
    conf.write_text("nameserver 9.9.9.9\n")

    async def run() -> None:
        naming = naming_at(conf)
        await naming.set(7, DNS, everything=True)
        conf.write_text("nameserver 8.8.8.8\n")
        await naming.unset()

    asyncio.run(run())
    assert conf.read_text() == "nameserver 8.8.8.8\n"


def test_domains_alone_leave_the_servers(conf: Path) -> None:
    conf.write_text("nameserver 9.9.9.9\noptions edns0\nsearch home.arpa\n")

    async def run() -> None:
        await naming_at(conf).set(7, Dns(search=("corp.example",)), everything=False)

    asyncio.run(run())
    assert conf.read_text().splitlines()[1:] == ["nameserver 9.9.9.9", "options edns0", "search corp.example"]


def test_every_name_is_what_resolv_conf_says(conf: Path) -> None:
    conf.write_text("nameserver 9.9.9.9\n")

    async def run() -> None:
        await naming_at(conf).set(7, Dns(DNS.servers[:1], split=(EVERY_NAME,)), everything=False)

    asyncio.run(run())
    assert conf.read_text().splitlines()[1:] == ["nameserver 10.8.0.1"]


@pytest.mark.parametrize("dns", [Dns(DNS.servers, split=("a.example",)), Dns(DNS.servers, port=5353),
                                 Dns(DNS.servers, tls=True), Dns(DNS.servers, dnssec="yes")])  # fmt: skip
def test_what_resolv_conf_cannot_say_is_not_half_said(conf: Path, dns: Dns, caplog: pytest.LogCaptureFixture) -> None:
    conf.write_text("nameserver 9.9.9.9\n")
    asyncio.run(naming_at(conf).set(7, dns, everything=True))
    assert conf.read_text() == "nameserver 9.9.9.9\n"
    assert "need systemd-resolved" in caplog.text


def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path, conf: Path, caplog: Any) -> None:
    missing = tmp_path / "missing" / "resolv.conf"
    asyncio.run(Naming(Journal(tmp_path / "state"), missing).set(7, DNS, everything=True))
    assert "cannot be written" in caplog.text and "10.8.0.1" in caplog.text
