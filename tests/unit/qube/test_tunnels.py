# SPDX-License-Identifier: BSD-2-Clause
"""A tunnel's life as a play: what is asked, what the driver ends with, which states are demanded in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError, KeyLocked, MirageError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Dns, Family, HttpProxy, Proto, Remote, TunnelSettings
from qubes_miragevpn.dataplane.interface import Counters
from qubes_miragevpn.protocol.contract import Command, Stop, StopKind
from qubes_miragevpn.qube import tunnels
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.qube.states import Demand, Live, State
from qubes_miragevpn.qube.tunnelhost import QubeHost
from qubes_miragevpn.qube.tunnels import Running, Tunnel
from qubes_miragevpn.runtime.netlink.netconf import NetAddress, NetRoute
from tests.unit.qube import fastloop

LIVE = Live((IPv4Address("10.8.0.2"),))
REMOTES = (
    Remote("vpn.example.org", 443, Proto.TCP, proxy=HttpProxy("proxy.example.net", 3128)),
    Remote("203.0.113.7", 1194, Proto.UDP),
)
CONFIG = SimpleNamespace(remotes=REMOTES, auth_nocache=False)
LOCKED = KeyLocked("'key': it is encrypted", file="a.ovpn", line=3)
FAST = Settings(retry_first=0.05, retry_max=0.2, retry_auth=0.1)


class FakeDriver:
    """Runs until told how to end; `enter` is the way its host goes to states."""

    def __init__(self, enter: Any) -> None:
        self.enter = enter
        self.commands: list[Command] = []
        self.end: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self.stubborn = False

    async def run(self) -> Stop:
        return await self.end

    def command(self, command: Command) -> None:
        self.commands.append(command)
        if command is Command.DISCONNECT and not self.stubborn and not self.end.done():
            self.end.set_result(Stop(StopKind.ASKED, "asked"))

    def counters(self) -> Counters:
        return Counters(bytes_in=10, bytes_out=20)


class FakeHost:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


class Play:
    """A tunnel with fakes around it. `demands` is what the enforcer was asked for, in order."""

    def __init__(self, settings: Settings = FAST) -> None:
        self.demands: list[Demand] = []
        self.states: list[str] = []
        self.drivers: list[FakeDriver] = []
        self.hosts: list[FakeHost] = []
        self.loads: dict[str, Any] = {"a": CONFIG, "b": CONFIG}
        self.key_password = b"open sesame"
        self.refuse: Exception | None = None
        self.clock = 1000.0
        self.tunnel = Tunnel(
            0,
            settings=settings,
            profiles=self,  # type: ignore[arg-type]
            enforcer=self,  # type: ignore[arg-type]
            start=self._start,
            changed=lambda: self.states.append(self.tunnel.state.value),
            wall_clock=lambda: self.clock,
        )
        self.tunnel.profile = "a"

    def names(self) -> list[str]:
        return sorted(self.loads)

    def load(self, name: str, key_password: Secret | None = None) -> Any:
        found = self.loads[name]
        if isinstance(found, KeyLocked) and key_password is not None and key_password.reveal() == self.key_password:
            return CONFIG
        if isinstance(found, Exception):
            raise found
        return found

    async def enforce(self, index: int, wanted: Demand) -> None:
        assert index == 0
        if self.refuse is not None:
            raise self.refuse
        self.demands.append(wanted)

    def _start(self, config: Any, name: str, enter: Any) -> Running:
        driver, host = FakeDriver(enter), FakeHost()
        self.drivers.append(driver)
        self.hosts.append(host)
        return Running(driver, host, "fake")  # type: ignore[arg-type]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def connected(self) -> FakeDriver:
        self.tunnel.connect()
        count = len(self.drivers)
        await self.until(lambda: len(self.drivers) > count)
        await self.drivers[-1].enter(State.CONNECTED, LIVE)
        return self.drivers[-1]


def play(act: Callable[[Play], Coroutine[Any, Any, None]], settings: Settings = FAST) -> Play:
    made: list[Play] = []

    async def run() -> None:
        stage = Play(settings)
        made.append(stage)
        life = asyncio.create_task(stage.tunnel.run())
        try:
            await act(stage)
            assert not life.done()
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    fastloop.run(run())
    return made[0]


def test_connect_and_the_end() -> None:
    async def act(stage: Play) -> None:
        await stage.until(lambda: stage.demands)
        assert stage.tunnel.state is State.CLOSED
        await stage.connected()
        assert stage.tunnel.state is State.CONNECTED and stage.tunnel.backend == "fake"
        assert stage.tunnel.counters() == Counters(bytes_in=10, bytes_out=20)

    stage = play(act)
    assert stage.demands == [Demand(), Demand(True), Demand(True, LIVE), Demand()]
    assert stage.tunnel.state is State.CLOSED and stage.hosts[0].closed == 1
    assert stage.tunnel.reason == "the service ended"


def test_the_opening_is_named_when_it_is_true_and_the_closing_before() -> None:
    async def act(stage: Play) -> None:
        driver = await stage.connected()
        stage.refuse = MirageError("no nft")
        with pytest.raises(MirageError):
            await driver.enter(State.CONNECTING, None, "silent")
        assert stage.tunnel.state is State.CONNECTING
        with pytest.raises(MirageError):
            await driver.enter(State.CONNECTED, LIVE)
        assert stage.tunnel.state is State.CONNECTING
        stage.refuse = None

    play(act)


def test_switch_closes_before_the_new_one_begins() -> None:
    async def act(stage: Play) -> None:
        old = await stage.connected()
        stage.tunnel.switch("b")
        await stage.until(lambda: len(stage.drivers) == 2)
        assert old.commands == [Command.DISCONNECT] and stage.hosts[0].closed == 1
        with pytest.raises(MirageError, match="being closed"):
            await old.enter(State.CONNECTED, LIVE)  # a host that outlived its attempt opens nothing in the next
        assert stage.tunnel.state is State.CONNECTING

    stage = play(act)
    assert stage.states[:5] == ["connecting", "connected", "switching", "connecting", "closed"]
    opened = stage.demands.index(Demand(True, LIVE))
    assert stage.demands[opened + 1 :] == [Demand(True), Demand(True), Demand()]


def test_what_is_asked_is_said_at_once() -> None:
    """The reply to a command shows no old tunnel, still connected, by the new one's name."""

    async def act(stage: Play) -> None:
        tunnel = stage.tunnel
        tunnel.connect()
        assert tunnel.state is State.CONNECTING
        await stage.until(lambda: stage.drivers)
        await stage.drivers[0].enter(State.CONNECTED, LIVE)
        tunnel.switch("b")
        assert (tunnel.state, tunnel.profile) == (State.SWITCHING, "b")
        with pytest.raises(MirageError, match="being closed"):
            await stage.drivers[0].enter(State.CONNECTED, LIVE)
        await stage.until(lambda: len(stage.drivers) == 2)
        await stage.drivers[1].enter(State.CONNECTED, LIVE)
        tunnel.disconnect()
        assert (tunnel.state, tunnel.reason) == (State.SWITCHING, "disconnecting")
        tunnel.connect()  # changed his mind before anything happened: the attempt ends all the same, and another begins
        await stage.until(lambda: len(stage.drivers) == 3)
        await stage.drivers[2].enter(State.CONNECTED, LIVE)
        assert tunnel.state is State.CONNECTED
        stage.loads["b"] = ConfigError("broken", file="b.ovpn", line=1)
        tunnel.switch("b")
        await stage.until(lambda: tunnel.state is State.FAILED)
        tunnel.disconnect()
        assert tunnel.state is State.CLOSED
        tunnel.profile = None
        tunnel.connect()
        assert tunnel.state is State.CLOSED, "without a profile there is no attempt"

    play(act)


def test_an_ending_tunnel_opens_nothing() -> None:
    """The host was about to open when the switch came: it is told no, and what it closes is closed already."""

    async def act(stage: Play) -> None:
        old = await stage.connected()
        old.stubborn = True
        stage.tunnel.disconnect()
        await stage.until(lambda: old.commands)
        with pytest.raises(MirageError, match="being closed"):
            await old.enter(State.CONNECTED, LIVE)
        await old.enter(State.CONNECTING, None, "down")
        assert stage.tunnel.state is State.SWITCHING
        assert stage.demands[-1] == Demand(True)
        old.end.set_result(Stop(StopKind.ASKED, ""))
        await stage.until(lambda: stage.tunnel.state is State.CLOSED)

    play(act)


def test_a_driver_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "GOODBYE", 0.01)

    async def act(stage: Play) -> None:
        driver = await stage.connected()
        driver.stubborn = True
        stage.tunnel.disconnect()
        await stage.until(lambda: stage.tunnel.state is State.CLOSED)
        assert driver.end.cancelled() and stage.hosts[0].closed == 1

    play(act)


ENDS = [
    (Stop(StopKind.CONNECTION, "the server said HALT"), 3),
    (Stop(StopKind.AUTH, "wrong password"), 2),
    (Stop(StopKind.SYSTEM, "no TUN"), 3),
    (MirageError("odd"), 3),
    (OSError(5, "I/O"), 3),
    (RuntimeError("bug"), 3),
    (Stop(StopKind.CREDENTIALS, "none"), 1),
]


@pytest.mark.parametrize(("end", "attempts"), ENDS, ids=[str(end) for end, _ in ENDS])
def test_how_a_driver_ends(end: Any, attempts: int) -> None:
    """It is tried again, with a pause; but not without credentials, which waits for a command."""

    async def act(stage: Play) -> None:
        stage.tunnel.connect()
        for number in range(attempts):
            await stage.until(lambda number=number: len(stage.drivers) > number)  # type: ignore[misc]
            future = stage.drivers[number].end
            future.set_result(end) if isinstance(end, Stop) else future.set_exception(end)
            await stage.until(lambda: stage.tunnel.state is State.FAILED)
            assert stage.demands[-1] == Demand()
        if attempts == 1:
            await asyncio.sleep(0.1)
            assert len(stage.drivers) == 1
            stage.tunnel.connect()
            await stage.until(lambda: len(stage.drivers) == 2)

    play(act)


def test_pauses_double_up_to_a_limit() -> None:
    async def act(stage: Play) -> None:
        loop, times = asyncio.get_running_loop(), []
        stage.tunnel.connect()
        for number in range(5):
            await stage.until(lambda number=number: len(stage.drivers) > number)  # type: ignore[misc]
            times.append(loop.time())
            stage.drivers[number].end.set_result(Stop(StopKind.CONNECTION, ""))
        pauses = [after - before for before, after in pairwise(times)]
        for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2), strict=True):
            assert pause >= least * 0.99

    play(act)


@pytest.mark.parametrize(
    ("loads", "profile", "reason"),
    [
        ({}, None, "there is no profile"),
        ({"a": CONFIG, "b": CONFIG}, None, "no profile is chosen"),
        ({"a": CONFIG, "b": CONFIG}, "c", "there is no profile c"),
        (
            {"a": ConfigError("secret word", file="a.ovpn", line=7)},
            "a",
            "profile a cannot be used, see the log (a.ovpn line 7)",
        ),
    ],
)
def test_what_cannot_mend_itself_waits(loads: dict[str, Any], profile: str | None, reason: str) -> None:
    async def act(stage: Play) -> None:
        stage.loads, stage.tunnel.profile = loads, profile
        stage.tunnel.connect()
        await stage.until(lambda: stage.tunnel.state is State.FAILED)
        await asyncio.sleep(0.1)
        assert stage.tunnel.public_reason == reason and stage.drivers == []
        stage.loads = {"b": CONFIG}
        stage.tunnel.switch("b")
        await stage.until(lambda: len(stage.drivers) == 1)

    play(act)


def test_a_bug_in_reading_a_profile_does_not_end_the_tunnel() -> None:
    async def act(stage: Play) -> None:
        stage.loads["a"] = RuntimeError("a bug")
        stage.tunnel.connect()
        await stage.until(lambda: stage.tunnel.state is State.FAILED)
        assert stage.tunnel.public_reason == "internal error: RuntimeError" and stage.demands[-1] == Demand()
        stage.loads["a"] = CONFIG
        await stage.until(lambda: stage.drivers)

    play(act)


def test_a_firewall_that_fails_does_not_end_the_tunnel() -> None:
    async def act(stage: Play) -> None:
        stage.refuse = MirageError("nft is gone")
        stage.tunnel.connect()
        await stage.until(lambda: stage.tunnel.state is State.FAILED)
        assert "nft is gone" in stage.tunnel.reason
        stage.refuse = None
        await stage.until(lambda: stage.drivers)

    play(act)


def test_reconnect() -> None:
    """While connected it is the machine's; while pausing it is an attempt at once; unwanted it is nothing."""

    async def act(stage: Play) -> None:
        stage.tunnel.reconnect()
        await asyncio.sleep(0.01)
        assert stage.drivers == []
        driver = await stage.connected()
        stage.tunnel.reconnect()
        assert driver.commands == [Command.RECONNECT]
        driver.end.set_result(Stop(StopKind.CONNECTION, ""))
        await stage.until(lambda: stage.tunnel.state is State.FAILED)
        stage.tunnel.reconnect()
        await stage.until(lambda: len(stage.drivers) == 2)

    play(act, Settings(retry_first=1000, retry_max=1000))


def test_leaving_says_goodbye() -> None:
    async def act(stage: Play) -> None:
        driver = await stage.connected()
        await stage.tunnel.leave()
        assert driver.commands == [Command.DISCONNECT] and stage.tunnel.state is State.CLOSED
        await stage.tunnel.leave()
        await stage.connected()  # and can be wanted again

    play(act)


def test_restart_is_another_attempt() -> None:
    async def act(stage: Play) -> None:
        stage.tunnel.restart("nothing runs: nothing to do")
        old = await stage.connected()
        stage.tunnel.restart("vpn0 lost its routes")
        await stage.until(lambda: len(stage.drivers) == 2)
        assert old.commands == [Command.DISCONNECT]

    play(act)


def test_a_status_names_no_server() -> None:
    async def act(stage: Play) -> None:
        driver = await stage.connected()
        reason = "vpn.example.org (203.0.113.7, 2001:db8::7 or 198.51.100.9:1194, by proxy.example.net) said no"
        await driver.enter(State.CONNECTING, None, reason)
        expected = "the server (the server, (address) or (address):1194, by (address)) said no"
        assert stage.tunnel.public_reason == expected

    play(act)


def test_since_is_the_beginning_of_the_state() -> None:
    async def act(stage: Play) -> None:
        stage.clock = 86400.0
        driver = await stage.connected()
        stage.clock = 90000.0
        await driver.enter(State.CONNECTED, Live((IPv4Address("10.8.0.3"),)))
        assert stage.tunnel.since == "1970-01-02T00:00:00Z"

    play(act)


# --- the host ---------------------------------------------------------------------------------------------


class HostPlay:
    """A QubeHost with fakes around it that write down what is done."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.addresses_there: list[Any] = []
        self.fail = ""
        self.host = QubeHost(
            "vpn0",
            netconf=self,  # type: ignore[arg-type]
            uplink=self,  # type: ignore[arg-type]
            resolver=self,  # type: ignore[arg-type]
            resolv_conf=self,  # type: ignore[arg-type]
            fallback=(IPv4Address("9.9.9.9"),),
            enter=self.enter,
            ask=lambda: Credentials("me", Secret(b"pass")),
            question=self.question,
            open_device=self.open,
        )

    async def question(self, text: str) -> Secret:
        return Secret(text.encode())

    def _do(self, what: str) -> None:
        if self.fail and what.startswith(self.fail):
            raise MirageError(what)
        self.did.append(what)

    async def enter(self, state: State, live: Live | None = None, reason: str = "") -> None:
        self._do(f"enter {state.value}")
        self.live = live

    def open(self, name: str) -> Any:
        self._do(f"open {name}")
        return SimpleNamespace(fd=7, queue=1000, close=lambda: self._do("close tun"))

    async def set_link(self, dev: str, **changes: Any) -> None:
        self._do(f"link {' '.join(sorted(changes))}")

    async def addresses(self, dev: str | None = None) -> list[Any]:
        elsewhere = [NetAddress("eth0", IPv4Interface("192.168.1.7/24"))]
        return self.addresses_there if dev is not None else self.addresses_there + elsewhere

    async def routes(self) -> list[Any]:
        return [NetRoute(IPv4Network("192.168.77.5/32"), dev="vif7.0"), NetRoute(IPv4Network("172.16.0.0/16"), dev="x")]

    pinned = frozenset({IPv4Address("198.51.100.10")})

    async def remove_address(self, address: Any) -> None:
        self._do(f"remove {address.interface}")

    async def replace_address(self, address: Any) -> None:
        self._do(f"add {address.interface}")
        self.addresses_there.append(address)

    async def write(self, owner: str, resolvers: Any) -> None:
        self._do("resolvers " + " ".join(map(str, resolvers)))

    async def restore(self, owner: str) -> None:
        self._do("restore resolv.conf")

    async def pin(self, address: Any, owner: str) -> None:
        self._do(f"pin {address}")

    async def unpin(self, owner: str) -> None:
        self._do("unpin")

    async def resolve(self, host: str, family: Family) -> list[Any]:
        return [host, family]


SETTINGS = TunnelSettings(
    ipv4=IPv4Interface("10.8.0.2/24"),
    ipv6=IPv6Interface("2001:db8::2/64"),
    dns=Dns((IPv4Address("10.8.0.1"),)),
    mtu=1400,
)


def test_up_opens_last() -> None:
    """Addresses come without their networks; the firewall opens when all else is there."""
    stage = HostPlay()
    assert asyncio.run(stage.host.up(SETTINGS)) == 7
    assert stage.did == [
        "open vpn0", "link mtu txqueuelen", "link up", "add 10.8.0.2/32", "add 2001:db8::2/128",
        "resolvers 10.8.0.1", "enter connected",
    ]  # fmt: skip
    expected = (IPv4Address("10.8.0.2"), IPv6Address("2001:db8::2"))
    assert stage.live == Live(expected, (IPv4Address("10.8.0.1"),))


def test_other_settings_close_first() -> None:
    stage = HostPlay()

    async def act() -> None:
        await stage.host.up(SETTINGS)
        stage.did.clear()
        await stage.host.up(TunnelSettings(ipv4=IPv4Interface("10.8.0.3/24")))
        assert stage.did[0] == "enter connecting" and stage.did[-1] == "enter connected"
        assert "remove 10.8.0.2/32" in stage.did and "remove 2001:db8::2/128" in stage.did
        assert "open vpn0" not in stage.did and "resolvers 9.9.9.9" in stage.did
        stage.did.clear()
        await stage.host.down("silent")
        await stage.host.down("silent")
        assert stage.did == ["enter connecting"]
        await stage.host.close()
        await stage.host.close()
        assert stage.did[1:] == ["close tun", "restore resolv.conf", "unpin", "restore resolv.conf", "unpin"]

    asyncio.run(act())


@pytest.mark.parametrize("step", ["open", "link up", "add 2001", "resolvers", "enter connected"])
def test_a_failure_on_the_way_up_can_be_closed(step: str) -> None:
    stage = HostPlay()

    async def act() -> None:
        stage.fail = step
        with pytest.raises(MirageError):
            await stage.host.up(SETTINGS)
        stage.fail = ""
        await stage.host.close()
        assert ("close tun" in stage.did) == (step != "open")
        assert ("enter connecting" in stage.did) == (step == "enter connected")

    asyncio.run(act())


@pytest.mark.parametrize(
    "settings",
    [
        TunnelSettings(),
        TunnelSettings(ipv6=IPv6Interface("2001:db8::2/64"), block_ipv6=True),
        TunnelSettings(ipv4=IPv4Interface("10.137.0.20/24")),
        TunnelSettings(ipv4=IPv4Interface("10.139.1.1/32")),
        TunnelSettings(ipv4=IPv4Interface("127.0.0.2/8")),
        TunnelSettings(ipv4=IPv4Interface("10.8.0.2/24"), ipv6=IPv6Interface("fd09:24ef:4179::a89:15/64")),
        TunnelSettings(ipv4=IPv4Interface("192.168.1.7/24")),  # eth0's
        TunnelSettings(ipv4=IPv4Interface("192.168.77.5/24")),  # of a qube that dom0 gave an address of its own
        TunnelSettings(ipv4=IPv4Interface("198.51.100.10/24")),  # the server's own
    ],
)
def test_addresses_that_a_server_may_not_give(settings: TunnelSettings) -> None:
    stage = HostPlay()
    with pytest.raises(PeerError):
        asyncio.run(stage.host.up(settings))
    assert stage.did == []


def test_a_question_that_ends_takes_no_other_away() -> None:
    """An attempt that ends late: the next one's question stands, and is answered."""

    async def play() -> None:
        tunnel = Play().tunnel
        old = asyncio.create_task(tunnel.ask("old?"))
        await asyncio.sleep(0)
        new = asyncio.create_task(tunnel.ask("new?"))
        await asyncio.sleep(0)
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)
        assert tunnel.question == "new?" and tunnel.answer(Secret(b"yes"))
        given = await new
        assert given is not None and given.reveal() == b"yes" and tunnel.question == ""

    asyncio.run(play())


def test_resolvers_that_are_used() -> None:
    """Not the tunnel's own address, and none at all for a tunnel without IPv4."""
    own = HostPlay()
    ipv4 = IPv4Interface("10.8.0.2/24")
    asyncio.run(own.host.up(TunnelSettings(ipv4=ipv4, dns=Dns((ipv4.ip, IPv4Address("10.8.0.9"))))))
    assert own.live is not None and own.live.resolvers == (IPv4Address("10.8.0.9"),)
    six = HostPlay()
    asyncio.run(six.host.up(TunnelSettings(ipv6=IPv6Interface("2001:db8::2/64"), dns=Dns((IPv4Address("10.8.0.9"),)))))
    assert six.live is not None and six.live.resolvers == ()


def test_before_the_transport() -> None:
    stage = HostPlay()

    async def act() -> None:
        await stage.host.before_transport(IPv4Address("198.51.100.1"))
        assert stage.did == ["pin 198.51.100.1"]
        for address in (IPv4Address("10.137.0.9"), IPv6Address("::1")):
            with pytest.raises(OSError, match="may have"):
                await stage.host.before_transport(address)
        assert stage.host.mark == 0x51564D

    asyncio.run(act())


def test_credentials_once_refused_are_not_given_again() -> None:
    stage = HostPlay()

    async def act() -> None:
        first = await stage.host.credentials("")
        assert first is not None and first.username == "me"
        assert await stage.host.credentials("AUTH_FAILED") is None

    asyncio.run(act())


def test_a_question_of_the_server_is_shown_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printable; gone when it is answered, too old, or nobody wants to know any more."""

    async def act(stage: Play) -> None:
        tunnel = stage.tunnel
        assert not tunnel.answer(Secret(b"early"))
        asking = asyncio.create_task(tunnel.ask("code\x1b[2J?"))
        await stage.until(lambda: tunnel.question)
        assert tunnel.question == "code\\x1b[2J?"
        assert tunnel.answer(Secret(b"123456")) and not tunnel.answer(Secret(b"again"))
        assert await asking == Secret(b"123456") and tunnel.question == ""
        monkeypatch.setattr(tunnels, "ANSWER_TIME", 0.5)
        assert await tunnel.ask("late") is None and tunnel.question == ""
        dropped = asyncio.create_task(tunnel.ask("never mind"))
        await stage.until(lambda: tunnel.question)
        dropped.cancel()
        await asyncio.gather(dropped, return_exceptions=True)
        assert tunnel.question == "" and not tunnel.answer(Secret(b"x"))
        assert await HostPlay().host.challenge("pin", echo=False) == Secret(b"the server asks: pin"), "never as ours"

    play(act)


def test_the_password_of_a_key_is_asked_for_and_kept() -> None:
    """Until it opens the key no more; a wrong answer waits for a command."""

    async def act(stage: Play) -> None:
        tunnel = stage.tunnel
        stage.loads["a"] = LOCKED
        tunnel.connect()
        await stage.until(lambda: tunnel.question)
        assert tunnel.question == "password of the private key of profile a" and not stage.drivers
        assert (tunnel.state, tunnel.reason) == (State.CONNECTING, "the password of the private key is wanted")
        assert tunnel.answer(Secret(b"wrong"))
        await stage.until(lambda: tunnel.state is State.FAILED)
        assert tunnel.reason == "profile a: the password of the private key is wrong, or nobody gave it"
        assert tunnel.question == ""
        tunnel.connect()
        await stage.until(lambda: tunnel.question)
        assert tunnel.answer(Secret(b"open sesame"))
        await stage.until(lambda: stage.drivers)
        tunnel.restart("once more")
        await stage.until(lambda: len(stage.drivers) == 2)
        assert tunnel.question == ""
        stage.key_password = b"another"
        tunnel.restart("a profile of the same name")
        await stage.until(lambda: tunnel.question)

    stage = play(act)
    assert not any(demand.live for demand in stage.demands), "nothing is open meanwhile"


def test_nobody_has_to_answer_who_wants_something_else() -> None:
    async def act(stage: Play) -> None:
        tunnel = stage.tunnel
        stage.loads["a"] = LOCKED
        tunnel.connect()
        await stage.until(lambda: tunnel.question)
        tunnel.switch("b")
        await stage.until(lambda: stage.drivers)
        assert tunnel.question == "" and not tunnel.answer(Secret(b"late"))
        tunnel.switch("a")
        await stage.until(lambda: tunnel.question)
        tunnel.disconnect()
        await stage.until(lambda: tunnel.state is State.CLOSED and not tunnel.question)
        tunnel.switch("b")
        await stage.until(lambda: len(stage.drivers) == 2)
        await stage.drivers[-1].enter(State.CONNECTED, LIVE)
        tunnel.switch("a", rollback=True)
        await stage.until(lambda: len(stage.drivers) == 3)
        assert tunnel.profile == "b", "an unanswered question is a failed trial"

    play(act, Settings(retry_first=0.05, retry_max=0.2, retry_auth=0.1, rollback_after=0.2))


def test_a_proxy_s_login_is_two_questions() -> None:
    """Answered one after the other; without the first answer there is no second question."""

    async def act(stage: Play) -> None:
        host = HostPlay().host
        host._question = stage.tunnel.ask
        asking = asyncio.create_task(host.proxy_credentials("the HTTP proxy p port 1", "refused"))
        await stage.until(lambda: stage.tunnel.question == "refused: user name for the HTTP proxy p port 1")
        assert stage.tunnel.answer(Secret(b"alice"))
        await stage.until(lambda: stage.tunnel.question == "password for the HTTP proxy p port 1")
        assert stage.tunnel.answer(Secret(b"open"))
        assert await asking == Credentials("alice", Secret(b"open"))
        again = asyncio.create_task(host.proxy_credentials("p", ""))
        await stage.until(lambda: stage.tunnel.question == "user name for p")
        assert stage.tunnel.answer(Secret(b""))
        assert await again is None and stage.tunnel.question == ""

    play(act)


# --- a profile on trial -----------------------------------------------------------------------------------


TRIAL = Settings(retry_first=0.05, retry_max=0.2, rollback_after=2.0)


async def _on_trial(stage: Play) -> FakeDriver:
    """Connected by a, switched to b with rollback; the driver of b."""
    await stage.connected()
    stage.tunnel.switch("b", rollback=True)
    await stage.until(lambda: len(stage.drivers) == 2)
    assert (stage.tunnel.profile, stage.tunnel.lasting_profile) == ("b", "a")
    return stage.drivers[-1]


@pytest.mark.parametrize("how", ["stops", "takes too long", "is broken", "fails by a bug"])
def test_a_profile_that_fails_makes_room_again(how: str) -> None:
    """Back to the old one at once, closed all the while, and the state says why."""

    async def act(stage: Play) -> None:
        if how == "is broken":
            await stage.connected()
            stage.loads["b"] = ConfigError("no", file="b.ovpn", line=1)
            stage.tunnel.switch("b", rollback=True)
        else:
            driver = await _on_trial(stage)
            if how == "stops":
                driver.end.set_result(Stop(StopKind.AUTH, "wrong password"))
            elif how == "fails by a bug":
                driver.end.set_exception(RuntimeError("bug"))
        await stage.until(lambda: stage.tunnel.profile == "a")
        await stage.until(lambda: stage.tunnel.state is State.CONNECTING and stage.tunnel.reason)
        assert stage.tunnel.reason == "profile b failed: back to a" and stage.tunnel.lasting_profile == "a"
        await stage.drivers[-1].enter(State.CONNECTED, LIVE)
        assert stage.tunnel.reason == ""

    stage = play(act, TRIAL)
    opened = [index for index, each in enumerate(stage.demands) if each.live is not None]
    assert len(opened) == 2 and "failed" not in stage.states


def test_a_profile_that_connects_stays() -> None:
    async def act(stage: Play) -> None:
        driver = await _on_trial(stage)
        await driver.enter(State.CONNECTED, LIVE)
        assert stage.tunnel.lasting_profile == "b"
        await asyncio.sleep(TRIAL.rollback_after * 2)
        driver.end.set_result(Stop(StopKind.CONNECTION, "later"))
        await stage.until(lambda: len(stage.drivers) == 3)
        assert stage.tunnel.profile == "b"

    play(act, TRIAL)


def test_without_being_asked_nothing_goes_back() -> None:
    async def act(stage: Play) -> None:
        await stage.connected()
        stage.tunnel.switch("b")
        await stage.until(lambda: len(stage.drivers) == 2)
        stage.drivers[1].end.set_result(Stop(StopKind.CONNECTION, ""))
        await stage.until(lambda: len(stage.drivers) == 3)
        assert stage.tunnel.profile == stage.tunnel.lasting_profile == "b"

    play(act, TRIAL)


def test_the_old_tunnel_that_fails_while_it_ends_is_no_failure_of_the_new() -> None:
    async def act(stage: Play) -> None:
        old = await stage.connected()
        old.end.set_result(Stop(StopKind.CONNECTION, "at this very moment"))
        stage.tunnel.switch("b", rollback=True)
        await stage.until(lambda: len(stage.drivers) == 2)
        assert (stage.tunnel.profile, stage.tunnel.lasting_profile) == ("b", "a")

    play(act, TRIAL)


def test_a_second_trial_goes_back_to_what_worked_and_disconnecting_ends_it() -> None:
    async def act(stage: Play) -> None:
        stage.loads["c"] = CONFIG
        await _on_trial(stage)
        stage.tunnel.switch("c", rollback=True)
        await stage.until(lambda: len(stage.drivers) == 3)
        assert stage.tunnel.lasting_profile == "a"
        stage.tunnel.renamed("a", "d")
        assert stage.tunnel.lasting_profile == "d"
        stage.tunnel.disconnect()
        await stage.until(lambda: stage.tunnel.state is State.CLOSED)
        assert stage.tunnel.lasting_profile == stage.tunnel.profile == "c"
        stage.tunnel.renamed("c", None)
        assert stage.tunnel.profile is None

    play(act, TRIAL)
