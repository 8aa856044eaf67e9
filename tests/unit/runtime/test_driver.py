# SPDX-License-Identifier: BSD-2-Clause
"""Drivers with a scripted machine: this event in, these calls out, and everything closed at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MisuseError, SystemRefused
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    Common,
    Credentials,
    Family,
    Listen,
    NoWrap,
    PeerPolicy,
    Proto,
    ServerConfig,
    TunnelSettings,
)
from qubes_miragevpn.dataplane.interface import (
    ControlPacket,
    Counters,
    DataKeys,
    DirectionKeys,
    KeyExhausted,
    KeyInUse,
    LinkFailed,
    PeerExited,
    PeerLimits,
    PeerSilent,
    TunFailed,
)
from qubes_miragevpn.protocol.contract import (
    ActivateKey,
    AddPeer,
    AskChallenge,
    AskCredentials,
    AssignAddresses,
    ChallengeAnswered,
    ChallengeRefused,
    CloseTransport,
    Command,
    CredentialsGiven,
    CredentialsRefused,
    Drop,
    Effect,
    InstallKey,
    Level,
    NameResolved,
    Notify,
    OpenTransport,
    OpenUrl,
    PacketReceived,
    RemovePeer,
    ResolutionFailed,
    Resolve,
    RetireKey,
    SendInner,
    Stop,
    StopKind,
    TimerExpired,
    Transmit,
    TransportDown,
    TransportUp,
    TunnelChanged,
    TunnelDown,
    TunnelUp,
    UserCommand,
)
from qubes_miragevpn.runtime import driver as driver_module
from qubes_miragevpn.runtime.driver import ClientDriver, ServerDriver
from qubes_miragevpn.runtime.driving import base
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused
from tests.unit.runtime.fakes import Host, Machine, Plane

HOME = IPv4Address("127.0.0.1")
CONNECT = UserCommand(Command.CONNECT)
RECONNECT = UserCommand(Command.RECONNECT)
DISCONNECT = UserCommand(Command.DISCONNECT)
ASKED = Stop(StopKind.ASKED, "as asked")
SETTINGS = TunnelSettings(ipv4=IPv4Interface("10.8.0.2/24"))
KEYS = DataKeys("AES-256-GCM", *2 * [DirectionKeys(Secret(b"k" * 32), Secret(b"i" * 8))])
LIMITS = PeerLimits(ping=10)
ENDPOINT = ("127.0.0.1", 1194)

Play = Callable[[ClientDriver, Machine, Plane, Host], Coroutine[Any, Any, None]]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition`."""
    while not condition():
        await asyncio.sleep(0)


def client(script: dict[Any, Any], play: Play | None = None, **answers: Any) -> tuple[Machine, Plane, Host, Stop]:
    """Run a client driver while `play` acts; DISCONNECT ends the machine unless the script says otherwise."""
    machine = Machine({DISCONNECT: [ASKED], **script})
    plane = Plane()
    host = Host(plane.calls, **answers)

    async def run() -> Stop:
        driver = ClientDriver(machine, plane, host)
        running = asyncio.create_task(driver.run())
        await asyncio.sleep(0)
        if play is not None:
            await play(driver, machine, plane, host)
            driver.command(Command.DISCONNECT)
        return await running

    stop = asyncio.run(run())
    assert plane.calls[-2:] == [("close",), ("close",)], "data plane first, host second"
    return machine, plane, host, stop


def names(calls: list[tuple[Any, ...]]) -> list[str]:
    return [call[0] for call in calls]


def test_effects_of_the_data_plane_are_calls_in_their_order() -> None:
    effects: list[Effect] = [
        AddPeer(1, 5, ENDPOINT, 7, LIMITS),
        InstallKey(1, 0, KEYS),
        ActivateKey(1, 0),
        SendInner(1, b"bye"),
        RetireKey(1, 0),
        RemovePeer(1),
        RemovePeer(1),
        ASKED,
    ]
    _, plane, _, stop = client({CONNECT: effects})
    assert stop is ASKED
    assert plane.calls[:-2] == [
        ("add_peer", 1, 5, ENDPOINT, 7, LIMITS),
        ("install_key", 1, 0, KEYS),
        ("activate_key", 1, 0),
        ("send_inner", 1, b"bye"),
        ("retire_key", 1, 0),
        ("remove_peer", 1),
    ]


def test_from_name_to_open_transport() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    script = {
        CONNECT: [Resolve(3, "vpn.example", Family.IPV4)],
        NameResolved: [OpenTransport(8, Proto.UDP, HOME, port)],
        TransportUp: [Transmit(8, ("127.0.0.1", port), b"hello"), CloseTransport(8), Transmit(8, ENDPOINT, b""), ASKED],
    }
    machine, plane, _, _ = client(script)
    listener.close()
    assert machine.events == [CONNECT, NameResolved(3, (HOME,)), TransportUp(8, ("127.0.0.1", port))]
    assert plane.calls == [
        ("resolve", "vpn.example", Family.IPV4),
        ("connecting", f"127.0.0.1 port {port}/udp"),
        ("before_transport", HOME),
        ("attach_link", 8, ("127.0.0.1", port)),
        ("send", 8, ("127.0.0.1", port), b"hello"),
        ("detach_link", 8),
        ("close",),
        ("close",),
    ]


def test_failures_of_looking_up_and_connecting_are_events() -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    script = {
        CONNECT: [Resolve(3, "vpn.example", Family.ANY)],
        ResolutionFailed: [OpenTransport(8, Proto.TCP, HOME, port)],
        TransportDown: [ASKED],
    }
    machine, _, _, _ = client(script, resolve=OSError(2, "nothing\x1b[31m known"))
    assert machine.events[1] == ResolutionFailed(3, "nothing\\x1b[31m known")
    assert isinstance(down := machine.events[2], TransportDown) and down.link == 8
    assert down.reason == "Connection refused"


def test_a_host_that_refuses_permission_ends_with_the_reason_and_a_goodbye() -> None:
    script = {
        CONNECT: [OpenTransport(8, Proto.UDP, HOME, 9)],
        TransportUp: [AddPeer(1, 8, ENDPOINT, 0, LIMITS), TunnelUp(SETTINGS, "x")],
        DISCONNECT: [Transmit(8, ENDPOINT, b"EXIT"), CloseTransport(8), ASKED],
    }
    machine, plane, _, stop = client(script, up=SystemRefused("no permission to create tun0", "run as root"))
    assert stop == Stop(StopKind.SYSTEM, "no permission to create tun0: run as root")
    assert machine.events[-1] == DISCONNECT
    assert names(plane.calls)[-6:] == ["up", "down", "send", "detach_link", "close", "close"]


def test_tunnel_comes_up_changes_and_goes_down() -> None:
    changed = TunnelSettings(mtu=1400)

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: ("attach_tun", 99) in plane.calls)
        driver.command(Command.RENEGOTIATE)
        await until(lambda: len(plane.asked("attach_tun")) == 2)
        driver.command(Command.RECONNECT)
        await until(lambda: bool(plane.asked("down")))

    script = {
        CONNECT: [TunnelUp(SETTINGS, "x")],
        UserCommand(Command.RENEGOTIATE): [TunnelChanged(changed)],
        RECONNECT: [TunnelDown("gone")],
    }
    _, plane, _, _ = client(script, play)
    assert plane.calls == [
        ("up", SETTINGS),
        ("attach_tun", 99),
        ("detach_tun",),  # the host may open another
        ("up", changed),
        ("attach_tun", 99),
        ("detach_tun",),
        ("down", "gone"),
        ("close",),
        ("close",),
    ]


def test_the_order_of_up_and_down_survives_a_slow_host() -> None:
    """TunnelDown and the next TunnelUp come while `up` is still at work: nothing overlaps, nothing is swapped."""
    release = asyncio.Event()

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: host.busy == "up")
        driver.command(Command.RECONNECT)
        driver.command(Command.RENEGOTIATE)
        release.set()
        await until(lambda: len(plane.asked("attach_tun")) == 2)

    again = TunnelSettings(mtu=1300)
    script = {
        CONNECT: [TunnelUp(SETTINGS, "x")],
        RECONNECT: [TunnelDown("gone")],
        UserCommand(Command.RENEGOTIATE): [TunnelUp(again, "y")],
    }
    _, plane, _, _ = client(script, play, up=[release, None])
    assert plane.calls[:-2] == [
        ("up", SETTINGS),
        ("attach_tun", 99),
        ("detach_tun",),
        ("down", "gone"),
        ("up", again),
        ("attach_tun", 99),
    ]


def test_an_up_that_is_not_wanted_any_more_is_not_begun() -> None:
    release = asyncio.Event()

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: host.busy == "resolve")
        driver.command(Command.RECONNECT)
        release.set()
        await until(lambda: bool(plane.asked("down")))

    script = {
        CONNECT: [Resolve(1, "a", Family.ANY), TunnelUp(SETTINGS, "x")],
        RECONNECT: [TunnelDown("gone")],
    }
    _, plane, _, _ = client(script, play, resolve=release)
    assert not plane.asked("up", "attach_tun")


def test_a_late_answer_to_an_abandoned_request_is_not_given_to_the_machine() -> None:
    never = asyncio.Event()

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: host.busy == "resolve")
        driver.command(Command.RECONNECT)
        await until(lambda: len(machine.events) == 3)
        never.set()
        await asyncio.sleep(0)

    script = {CONNECT: [Resolve(1, "a", Family.ANY)], RECONNECT: [Resolve(2, "b", Family.ANY)]}
    machine, _, _, _ = client(script, play, resolve=[never, None])
    assert machine.events == [CONNECT, RECONNECT, NameResolved(2, (HOME,)), DISCONNECT]


def test_closing_a_transport_that_is_being_opened_calls_the_attempt_off() -> None:
    never = asyncio.Event()

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: host.busy == "before_transport")
        driver.command(Command.RECONNECT)
        await until(lambda: not host.busy)

    script = {CONNECT: [OpenTransport(8, Proto.TCP, HOME, 9)], RECONNECT: [CloseTransport(8)]}
    machine, plane, _, _ = client(script, play, before_transport=never)
    assert machine.events == [CONNECT, RECONNECT, DISCONNECT]
    assert not plane.asked("attach_link", "detach_link")


def test_credentials_are_asked_for_and_given() -> None:
    given = Credentials("user", Secret(b"word"))
    script = {
        CONNECT: [AskCredentials("")],
        CredentialsGiven: [AskCredentials("wrong password")],
        CredentialsRefused: [ASKED],
    }
    machine, plane, _, _ = client(script, credentials=[given, None])
    assert machine.events[1] == CredentialsGiven("user", Secret(b"word"))
    assert isinstance(machine.events[2], CredentialsRefused)
    assert plane.asked("credentials") == [("credentials", ""), ("credentials", "wrong password")]


def test_credentials_for_a_proxy_are_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise LoginRefused("wrong")

    monkeypatch.setattr("qubes_miragevpn.runtime.driver.open_way", refuse)
    script = {
        CONNECT: [AskCredentials("", "the proxy")],
        CredentialsGiven: [OpenTransport(8, Proto.TCP, HOME, 9)],
        TransportDown: [AskCredentials("wrong", "the proxy")],
        CredentialsRefused: [ASKED],
    }
    machine, plane, _, _ = client(script, proxy_credentials=[Credentials("user", Secret(b"word")), None])
    assert TransportDown(8, "wrong", login=True) in machine.events
    assert plane.asked("proxy_credentials", "credentials") == [
        ("proxy_credentials", "the proxy", ""), ("proxy_credentials", "the proxy", "wrong"),
    ]  # fmt: skip


def test_questions_are_asked_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script: dict[Any, Any] = {
        CONNECT: [AskChallenge(1, "Just so you know", False, False)],
        ChallengeAnswered(1, Secret(b"")): [AskChallenge(2, "Code\x1b?", True, True)],
        ChallengeAnswered(2, Secret(b"42")): [OpenUrl("https://a.example/x"), AskChallenge(3, "More?", False, True)],
        ChallengeRefused: [ASKED],
    }
    machine, plane, _, _ = client(script, challenge=[Secret(b"42"), None])
    assert plane.asked("challenge") == [("challenge", "Code\x1b?", True), ("challenge", "More?", False)]
    assert ChallengeRefused(3, "nobody is there to be asked: More?") in machine.events
    said = [record.getMessage() for record in caplog.records]
    assert "the server asks: Just so you know" in said and "the server asks: Code\\x1b?" in said
    assert "the server asks you to log in with a browser, at https://a.example/x" in said
    assert not [line for line in said if "42" in line]


def test_a_question_is_called_off_with_its_connection() -> None:
    never = asyncio.Event()

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: host.busy == "challenge")
        driver.command(Command.RECONNECT)
        await until(lambda: not host.busy)

    script = {CONNECT: [AskChallenge(1, "Code?", True, True)], RECONNECT: [CloseTransport(8)]}
    machine, _, _, _ = client(script, play, challenge=never)
    assert machine.events == [CONNECT, RECONNECT, DISCONNECT]


def test_an_up_that_fails_is_told_down_and_tried_again_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "FIRST_PAUSE", 0.002)

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: bool(plane.asked("attach_tun")))

    up = [TunnelUp(SETTINGS, "x")]
    failures = [OSError(5, "no route"), TimeoutError(), None]
    machine, plane, _, _ = client({CONNECT: up, RECONNECT: up}, play, up=failures)
    assert names(plane.calls[:-2]) == ["up", "down", "up", "down", "up", "attach_tun"]
    assert plane.asked("down")[0] == ("down", "the tunnel's interface cannot be set up: no route")
    assert machine.events == [CONNECT, RECONNECT, RECONNECT, DISCONNECT]
    assert machine.times[2] - machine.times[1] >= 0.004 > machine.times[1] - machine.times[0] - 0.1


def test_a_tun_that_fails_closes_the_host_and_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "FIRST_PAUSE", 0.0)

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: bool(plane.asked("attach_tun")))
        plane.report(TunFailed("gone"))
        plane.report(TunFailed("gone"))  # the second is no news
        await until(lambda: len(plane.asked("attach_tun")) == 2)

    up = [TunnelUp(SETTINGS, "x")]
    machine, plane, _, _ = client({CONNECT: up, RECONNECT: up}, play)
    assert names(plane.calls[:-2]) == ["up", "attach_tun", "detach_tun", "close", "up", "attach_tun"]
    assert machine.events == [CONNECT, RECONNECT, DISCONNECT]


def test_what_the_data_plane_tells_becomes_events() -> None:
    told = [KeyExhausted(1, 0), KeyInUse(1, 1), PeerSilent(1), PeerExited(1)]

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        await until(lambda: bool(plane.asked("attach_link")))
        plane.report(ControlPacket(8, ENDPOINT, b"packet"))
        for event in told:
            plane.report(event)
        plane.report(LinkFailed(8, "reset"))

    machine, plane, _, _ = client({CONNECT: [OpenTransport(8, Proto.UDP, HOME, 9)]}, play)
    assert machine.events[2:-1] == [PacketReceived(8, ENDPOINT, b"packet"), *told, TransportDown(8, "reset")]
    assert plane.asked("detach_link") == [("detach_link", 8)]


def test_events_caused_by_effects_wait_for_their_turn() -> None:
    order: list[str] = []

    class Eager(Plane):
        def send(self, *arguments: Any) -> None:
            self.report(PeerExited(1))
            order.append("sent")

    class Watching(Machine):
        def handle(self, event: Any, now: float) -> list[Effect]:
            order.append(type(event).__name__)
            return super().handle(event, now)

    async def run() -> None:
        machine = Watching(
            {
                CONNECT: [OpenTransport(8, Proto.UDP, HOME, 9)],
                TransportUp: [Transmit(8, ENDPOINT, b"1"), Transmit(8, ENDPOINT, b"2")],
                PeerExited: lambda _: [ASKED] if order.count("PeerExited") == 2 else [],
            }
        )
        assert await ClientDriver(machine, Eager(), Host()).run() is ASKED

    asyncio.run(run())
    assert order == ["UserCommand", "TransportUp", "sent", "sent", "PeerExited", "PeerExited"]


def test_the_timer_follows_the_deadline() -> None:
    machine = Machine({})

    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        plan = [start + 0.02, start + 0.03]

        def expired(_: object) -> list[Effect]:
            machine.deadline = plan.pop(0) if plan else None
            return [] if machine.deadline else [ASKED]

        machine.script |= {TimerExpired: expired}
        machine.deadline = start + 0.01
        await ClientDriver(machine, Plane(), Host()).run()
        return [moment - start for moment in machine.times]

    first, *expiries = asyncio.run(run())
    assert first < 0.01
    assert len(expiries) == 3
    assert all(moment >= due for moment, due in zip(expiries, (0.01, 0.02, 0.03), strict=True))


def test_counters_add_up_over_peers_that_are_gone() -> None:
    plane = Plane()
    plane.totals = {1: Counters(bytes_in=10, packets_in=1), 2: Counters(bytes_in=5, dropped_auth=2)}

    async def run() -> None:
        peers = [AddPeer(1, 8, ENDPOINT, 0, LIMITS), RemovePeer(1), AddPeer(2, 8, ENDPOINT, 0, LIMITS)]
        driver = ClientDriver(Machine({CONNECT: peers, DISCONNECT: [ASKED]}), plane, Host())
        driver.command(Command.DISCONNECT)  # before it runs: kept
        await driver.run()
        assert driver.counters() == Counters(bytes_in=15, packets_in=1, dropped_auth=2)

    asyncio.run(run())


def test_a_bug_in_the_machine_ends_the_run_with_everything_closed() -> None:
    for script in ({CONNECT: ZeroDivisionError()}, {CONNECT: [Resolve(1, "a", Family.ANY)], NameResolved: KeyError()}):
        with pytest.raises((ZeroDivisionError, KeyError)):
            client(script)
    with pytest.raises(MisuseError):
        client({CONNECT: [AssignAddresses(1, "x", ())]})


def test_everything_is_closed_when_the_run_is_cancelled() -> None:
    never = asyncio.Event()
    plane = Plane()
    host = Host(plane.calls, up=never)

    async def run() -> None:
        task = asyncio.create_task(ClientDriver(Machine({CONNECT: [TunnelUp(SETTINGS, "")]}), plane, host).run())
        await until(lambda: host.busy == "up")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert names(plane.calls) == ["up", "close", "close"]


def test_a_machine_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "GOODBYE", 0.01)

    async def play(driver: ClientDriver, machine: Machine, plane: Plane, host: Host) -> None:
        pass

    assert client({DISCONNECT: []}, play)[3].kind is StopKind.ASKED


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    said = [Notify(Level.WARNING, "certificate expires\nsoon"), Notify(Level.DEBUG, "detail")]
    drops = [Drop(f"bad packet {number}") for number in range(1000)]
    caplog.set_level(logging.DEBUG, "miragevpn")
    client({CONNECT: [*said, *drops, ASKED]})
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines[:2] == [("WARNING", "certificate expires\\x0asoon"), ("DEBUG", "detail")]
    assert len([text for _, text in lines if "bad packet" in text]) == 10


# --- server ---------------------------------------------------------------------------------------------


def serve(listen: Listen, script: dict[Any, Any], play: Any, max_clients: int = 2) -> tuple[Machine, Plane]:
    common = Common(NoWrap(), None, PeerPolicy())
    config = ServerConfig(common, listen, IPv4Network("10.8.0.0/24"), max_clients=max_clients)
    machine, plane = Machine({DISCONNECT: [ASKED], **script}), Plane()

    async def run() -> None:
        driver = ServerDriver(machine, plane, config, 77)
        where: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(driver.run(where.set_result))
        await asyncio.wait([where, running], return_when=asyncio.FIRST_COMPLETED)
        if where.done():
            await play(driver, machine, plane, where.result())
            driver.command(Command.DISCONNECT)
        assert await running is ASKED

    asyncio.run(run())
    assert plane.calls[-1] == ("close",)
    return machine, plane


def test_a_udp_server_has_one_link_for_all() -> None:
    async def play(driver: ServerDriver, machine: Machine, plane: Plane, where: Any) -> None:
        plane.report(ControlPacket(0, ENDPOINT, b"hello"))
        (member,) = driver.roster("server").members
        assert (member.number, member.name, member.ipv4, member.ipv6) == (4, "client\\x0a1", "10.8.0.2", "")
        plane.report(PeerSilent(4))
        assert driver.roster("server").members == ()

    script = {
        PacketReceived: [
            AddPeer(4, 0, ENDPOINT, 4, LIMITS),
            AssignAddresses(4, "client\\x0a1", (IPv4Address("10.8.0.2"),)),
        ],
        PeerSilent: [RemovePeer(4)],
    }
    machine, plane = serve(Listen("127.0.0.1", 0, Proto.UDP), script, play)
    assert names(plane.calls) == [
        "attach_tun", "attach_link", "add_peer", "set_addresses", "remove_peer", "close",
    ]  # fmt: skip
    assert machine.events == [PacketReceived(0, ENDPOINT, b"hello"), PeerSilent(4), DISCONNECT]


def test_a_tcp_server_numbers_its_connections_and_bounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubes_miragevpn.runtime.driver.MAX_CANDIDATES", 0)

    async def play(driver: ServerDriver, machine: Machine, plane: Plane, where: Any) -> None:
        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", where[0][1][1])

        made = [await connect() for _ in range(4)]
        await until(lambda: len(plane.asked("attach_link")) == 4)
        reader, writer = await connect()  # 2 clients: 4 connections
        assert await reader.read() == b""
        plane.report(LinkFailed(1, "reset"))
        made.append(await connect())
        await until(lambda: len(plane.asked("attach_link")) == 5)
        for _, each in [*made, (reader, writer)]:
            each.close()

    machine, plane = serve(Listen("127.0.0.1", 0, Proto.TCP), {}, play)
    assert [event.link for event in machine.events if isinstance(event, TransportUp)] == [1, 2, 3, 4, 5]
    assert plane.asked("detach_link") == [("detach_link", 1)]
    assert TransportDown(1, "reset") in machine.events


def test_a_port_in_use_says_what_to_do() -> None:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))

    async def play(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(SystemRefused, match="another program uses it"):
        serve(Listen("127.0.0.1", taken.getsockname()[1], Proto.UDP), {}, play)
    taken.close()
