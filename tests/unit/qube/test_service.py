# SPDX-License-Identifier: BSD-2-Clause
"""What the service answers, who is downstream, what systemd is told, and that the installed files agree."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qubes_miragevpn.qube import qdb
from qubes_miragevpn.qube.firewall.nft import FirewallError
from qubes_miragevpn.qube.firewall.routing import narrowed
from qubes_miragevpn.qube.profiles.chosen import Passing
from qubes_miragevpn.qube.rpc.control import Refused
from qubes_miragevpn.qube.rpc.events import MAX_LISTENERS
from qubes_miragevpn.qube.rpc.messages import STATUS_KEYS, Request
from qubes_miragevpn.qube.sdnotify import Notifier
from qubes_miragevpn.qube.service import Service
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.qube.states import State
from qubes_miragevpn.qube.vif import Downstream, addresses, assign, is_vif
from qubes_miragevpn.runtime.netlink.netconf import AddressEvent, EventsLost, LinkEvent, NetLink, NetRoute
from tests.unit.qube.profiles.test_store import WHOLE
from tests.unit.runtime.netns import in_netns

INSTALL = Path(__file__).parents[3] / "install" / "vm"


# --- answers ----------------------------------------------------------------------------------------------


def with_service(tmp_path: Path, play: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
    """A service that does not run; only its answers are asked for. The network it works on is its own."""
    (tmp_path / "profiles").mkdir()
    settings = Settings(
        profile_dir=tmp_path / "profiles",
        credentials_dir=tmp_path / "credentials",
        profile_settings_dir=tmp_path / "settings",
        state_file=tmp_path / "chosen.json",
        passing_file=tmp_path / "passing.json",
    )

    async def run() -> None:
        service = Service(settings, {})
        try:
            await play(service)
        finally:
            await service._netconf.close()

    if os.geteuid() == 0:
        in_netns(run)
    else:
        asyncio.run(run())


def test_status_is_these_keys_and_no_other(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        status = await service._answers.answer(Request("status"))
        assert tuple(status) == STATUS_KEYS
        assert (status["state"], status["profile"], status["bytes_in"], status["reason"]) == ("closed", None, 0, "")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["since"])
        tunnel = service._tunnels[0]
        tunnel.state, tunnel.reason = State.FAILED, "203.0.113.9 said no"
        status = await service._answers.answer(Request("status"))
        assert (status["state"], status["reason"]) == ("failed", "(address) said no")

    with_service(tmp_path, play)


def test_switching_to_what_is_not_there_or_broken_changes_nothing(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        (tmp_path / "profiles" / "bad.ovpn").write_text("client\nno-such-directive secret\n")
        for name, problem in (("gone", "no such profile"), ("bad", "cannot be used: line 2")):
            with pytest.raises(Refused, match=problem) as refused:
                await service._answers.answer(Request("switch", name))
            assert "secret" not in str(refused.value)
        assert service._tunnels[0].profile is None and not (tmp_path / "chosen.json").exists()
        assert await service._answers.answer(Request("profiles")) == {
            "profiles": ["bad"], "current": None, "default": None,
        }  # fmt: skip

    with_service(tmp_path, play)


def test_connect_takes_a_profile_that_came_later(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        await service._answers.answer(Request("connect"))
        assert service._tunnels[0].profile is None
        (tmp_path / "profiles" / "new.ovpn").write_text("client\n")
        assert (await service._answers.answer(Request("connect", caller="dom0")))["profile"] == "new"

    with_service(tmp_path, play)


@pytest.mark.parametrize("told", ["gone", "../x"])
def test_connect_takes_no_other_profile_than_dom0_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Neither the only one that is stored nor the default one, though the one that dom0 names is not there."""
    monkeypatch.setattr(qdb, "_read", {"/vm-config/miragevpn-profile": told}.get)

    async def play(service: Service) -> None:
        (tmp_path / "profiles" / "other.ovpn").write_text("client\n")
        await service._answers.answer(Request("default", "other"))
        assert (await service._answers.answer(Request("connect")))["profile"] == (told if told == "gone" else None)

    with_service(tmp_path, play)


def test_profiles_are_taken_in_named_and_removed(tmp_path: Path) -> None:
    """What is in use stays; a refusal says what is wrong, and nothing of a password comes back."""

    async def play(service: Service) -> None:
        async def ask(verb: str, name: str | None = None, to: str | None = None, payload: bytes = b"") -> Any:
            return await service._answers.answer(Request(verb, name, to=to, payload=payload))

        service._profiles.tidy()
        with pytest.raises(Refused, match=r"a.ovpn:2: "):
            await ask("import", "a", payload=b"client\nno-such-directive\n")
        assert await ask("import", "a", payload=WHOLE) == {"profile": "a", "warnings": []}
        assert await ask("import", "b", payload=WHOLE)
        assert await ask("credentials", "a", payload=b"me\nsecret\n") == {"profile": "a", "credentials": "set"}
        with pytest.raises(Refused, match="no such profile"):
            await ask("credentials", "c", payload=b"me\nsecret\n")
        with pytest.raises(Refused, match="two lines") as refused:
            await ask("credentials", "a", payload=b"only secret")
        assert "secret" not in str(refused.value)
        assert (await ask("default", "a"))["default"] == "a"
        await ask("switch", "a")
        assert await ask("profiles") == {"profiles": ["a", "b"], "current": "a", "default": "a"}
        with pytest.raises(Refused, match="in use"):
            await ask("remove", "a")
        assert await ask("rename", "a", "home") == {"profile": "home"}
        assert await ask("profiles") == {"profiles": ["b", "home"], "current": "home", "default": "home"}
        assert service._choices.chosen.tunnels == {0: "home"}
        await ask("disconnect")
        assert await ask("remove", "home") == {"profile": "home"}
        assert await ask("profiles") == {"profiles": ["b"], "current": None, "default": None}
        assert list((tmp_path / "credentials").iterdir()) == []
        assert (await ask("default"))["default"] is None

    with_service(tmp_path, play)


@pytest.mark.parametrize(
    ("passing", "autoconnect", "expected"),
    [
        (None, True, ("told", True)),
        (None, False, ("told", False)),
        (Passing({0: ("last", False)}), True, ("last", False)),
        (Passing({0: ("last", True)}), False, ("last", True)),
    ],
)
def test_what_a_start_begins_with(
    passing: Passing | None, autoconnect: bool, expected: tuple[str, bool], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A boot with what dom0 names; another start in the same boot where the last one ended."""
    monkeypatch.setattr(qdb, "_read", {"/vm-config/miragevpn-profile": "told"}.get)

    async def play(service: Service) -> None:
        service._settings = replace(service._settings, autoconnect=autoconnect)
        for name in ("told", "last"):
            (tmp_path / "profiles" / f"{name}.ovpn").write_bytes(WHOLE)
        service._choices.passing = passing
        await service._first_wishes()
        assert (service._tunnels[0].profile, service._tunnels[0].wanted) == expected

    with_service(tmp_path, play)


def test_every_tunnel_is_asked_for_before_anything_is_written_down(tmp_path: Path) -> None:
    """The first one that begins has no other noted as unwanted, should the service be killed right then."""
    before = Passing({0: ("a", True), 1: ("b", True), 2: ("a", False)})
    (tmp_path / "chosen.json").write_text('{"tunnels": {"0": "a", "1": "b", "2": "a"}}')

    async def play(service: Service) -> None:
        for name in ("a", "b"):
            (tmp_path / "profiles" / f"{name}.ovpn").write_bytes(WHOLE)
        service._choices.passing = before
        written: list[Passing] = []
        service._choices.note = written.append  # type: ignore[method-assign]
        await service._first_wishes()
        assert written == [before]
        assert {n: (each.profile, each.wanted) for n, each in service._tunnels.items()} == before.tunnels

    with_service(tmp_path, play)


def test_what_was_wanted_outlives_a_clean_stop(tmp_path: Path) -> None:
    """Closing because the service ends is nobody's wish."""

    async def play(service: Service) -> None:
        await service._first_wishes()
        tunnel = service._tunnels[0]
        tunnel.profile = "a"
        tunnel.connect()
        service._tell(0)
        service._stop.set()
        tunnel.disconnect()
        service._tell(0)
        assert service._choices.passing == Passing({0: ("a", True)})

    with_service(tmp_path, play)


def test_answering_a_question(tmp_path: Path) -> None:
    """One line, only while there is a question; it is shown in the details, not in the status."""

    async def play(service: Service) -> None:
        async def answer(payload: bytes) -> Any:
            return await service._answers.answer(Request("answer", payload=payload))

        with pytest.raises(Refused, match="asked nothing"):
            await answer(b"123456\n")
        asking = asyncio.create_task(service._tunnels[0].ask("Code?"))
        await asyncio.sleep(0)
        assert (await service._answers.answer(Request("details")))["tunnels"]["vpn0"]["question"] == "Code?"
        assert "Code" not in str(await service._answers.answer(Request("status")))
        for damage in (b"", b"\n", b"a\nb\n", b"a\0b"):
            with pytest.raises(Refused, match="one line"):
                await answer(damage)
        assert await answer(b"123456\r\n") == {"answered": True}
        given = await asking
        assert given is not None and given.reveal() == b"123456"

    with_service(tmp_path, play)


def test_resolvers_of_the_uplink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dom0 says, and outside Qubes the virtual ones."""
    told = {"/qubes-primary-dns": "10.139.1.1", "/qubes-secondary-dns": "nonsense", "/qubes-gateway": "10.137.0.5"}
    monkeypatch.setattr(qdb, "_read", told.get)

    async def play(service: Service) -> None:
        assert [str(address) for address in await service._uplink_resolvers()] == ["10.139.1.1"]
        assert str(await qdb.address("/qubes-gateway")) == "10.137.0.5" and await qdb.address("/qubes-ip") is None
        told.clear()
        assert [str(address) for address in await service._uplink_resolvers()] == ["10.139.1.1", "10.139.1.2"]

    with_service(tmp_path, play)


@pytest.mark.parametrize(("value", "profile"), [("se-1", "se-1"), ("../x", ""), ("", None), (None, None)])
def test_the_profile_that_dom0_names(value: str | None, profile: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdb, "_read", lambda key: value if key == "/vm-config/miragevpn-profile" else "wrong key")
    assert asyncio.run(qdb.profile()) == profile


def test_qubesdb_by_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "qubesdb-read"
    tool.write_text('#!/bin/sh\n[ "$1" = /name ] && echo sys-vpn || exit 1\n')
    tool.chmod(0o755)
    assert asyncio.run(qdb.read("/name")) is None
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert asyncio.run(qdb.read("/name")) == "sys-vpn" and asyncio.run(qdb.read("/other")) is None


def test_qubesdb_below_a_path_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tools, in the client's own words; where there are none, there is nothing."""
    assert asyncio.run(qdb.below("/dns/")) == {} and not asyncio.run(qdb.write("/dns/x", ""))
    for name, text in (
        ("multiread", '[ "$*" = "-f /dns/" ] && printf "/dns/a = 1 = one\\n/dns/b = \\nodd\\n"'),
        ("write", f'[ $# = 2 ] && echo "$1:$2" >> {tmp_path}/written'),
    ):
        (tmp_path / f"qubesdb-{name}").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / f"qubesdb-{name}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert asyncio.run(qdb.below("/dns/")) == {"/dns/a": "1 = one", "/dns/b": ""} and asyncio.run(qdb.below("/x")) == {}
    assert asyncio.run(qdb.write("/dns/a", "")) and (tmp_path / "written").read_text() == "/dns/a:\n"


class Module:
    """QubesDB's Python module."""

    entries: ClassVar = {"/dns/a": b"1", "/x": b"2"}

    class QubesDB:
        def multiread(self, path: str) -> dict[str, bytes]:
            return {key: value for key, value in Module.entries.items() if key.startswith(path)}

        def write(self, key: str, value: str) -> None:
            if key == "/refused":
                raise RuntimeError
            Module.entries[key] = value.encode()


def test_qubesdb_below_a_path_and_written_by_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qubesdb", Module)  # type: ignore[arg-type]
    assert asyncio.run(qdb.below("/dns/")) == {"/dns/a": "1"}
    assert asyncio.run(qdb.write("/dns/b", "")) and Module.entries["/dns/b"] == b""
    assert not asyncio.run(qdb.write("/refused", ""))


# --- downstream -------------------------------------------------------------------------------------------


def link(index: int, name: str) -> NetLink:
    return NetLink(index, name, up=True, carrier=True, mtu=1500, txqueuelen=1000)


def test_downstream_interfaces() -> None:
    calls: list[int] = []
    downstream = Downstream(lambda: calls.append(1))
    downstream.seen([link(1, "lo"), link(2, "eth0"), link(3, "vif3.0")])
    assert downstream.names == {"vif3.0"} and len(calls) == 1
    assert not downstream.event(LinkEvent(link(4, "vif4.0"), True))
    assert not downstream.event(LinkEvent(link(4, "vif4.0"), True))  # told again: nothing new
    assert not downstream.event(AddressEvent(4, True))
    assert downstream.names == {"vif3.0", "vif4.0"} and len(calls) == 2
    downstream.event(LinkEvent(link(4, "renamed"), True))
    assert downstream.names == {"vif3.0"}
    downstream.event(LinkEvent(link(3, "vif3.0"), False))
    assert downstream.names == frozenset() and downstream.event(EventsLost())


@pytest.mark.parametrize("name", ["vif0.0", "vif3.0", "vif12345.1"])
def test_names_of_vifs(name: str) -> None:
    assert is_vif(name)


@pytest.mark.parametrize("name", ["vif", "vif3", "vif03.0", "vif3.0-p", "xvif3.0", "vif3.0\n", "eth0", "vpn0"])
def test_names_that_are_none(name: str) -> None:
    assert not is_vif(name)


def test_assigning() -> None:
    """One tunnel serves all; with several, by address, the rest by vpn0; whoever is not known goes nowhere."""
    a, b, c, six = (ip_address(text) for text in ("10.137.0.3", "10.137.0.4", "10.137.0.5", "fd09:24ef:4179::a89:3"))
    vifs = {
        "vif3.0": frozenset({a, six}),
        "vif4.0": frozenset({b}),
        "vif5.0": frozenset({c}),
        "vif6.0": frozenset[Any](),
    }
    assert assign(vifs, [0], {}) == assign(vifs, [0], {a: 0}) == {0: None}
    assert assign(vifs, [1, 0], {}) == {0: frozenset({"vif3.0", "vif4.0", "vif5.0"}), 1: frozenset()}
    assert assign(vifs, [0, 1], {a: 1, b: 0}) == {0: frozenset({"vif4.0", "vif5.0"}), 1: frozenset({"vif3.0"})}
    assert assign(vifs, [0, 1], {six: 1})[1] == {"vif3.0"}
    assert assign(vifs, [0, 1], {a: 0, six: 1}) == {0: frozenset({"vif4.0", "vif5.0"}), 1: frozenset()}
    assert assign(vifs, [0], {b: 2}) == {0: frozenset({"vif3.0", "vif5.0"})}, "a tunnel that is not there is closed"


def test_addresses_behind_an_interface() -> None:
    """Host routes to it, and nothing else of the main table."""
    routes = [
        NetRoute(ip_network(network), dev=dev, via=None if via is None else ip_address(via))
        for network, dev, via in (
            ("10.137.0.3/32", "vif3.0", None),
            ("fd09:24ef:4179::a89:3/128", "vif3.0", None),
            ("10.137.0.4/32", "vif4.0", "10.137.0.9"),
            ("10.137.0.0/24", "vif4.0", None),
            ("10.137.0.6/32", "eth0", None),
        )
    ]
    own = ip_network("fd09:24ef:4179::a89:6/128")  # this qube's own address there, for which the kernel makes a route
    routes.append(NetRoute(own, dev="vif3.0", proto=2))
    expected = frozenset({ip_address("10.137.0.3"), ip_address("fd09:24ef:4179::a89:3")})
    assert addresses(routes) == {"vif3.0": expected}


def test_narrowing() -> None:
    """What both allow, tunnel by tunnel."""
    one, two = frozenset({"vif1.0"}), frozenset({"vif1.0", "vif2.0"})
    assert narrowed({0: None}, {0: None}) == {0: None}
    assert narrowed({0: None}, {0: one, 1: two}) == {0: one}
    assert narrowed({0: two, 1: one}, {0: one, 1: two}) == {0: one, 1: one}
    assert narrowed({0: one, 1: two}, {0: None}) == {0: one, 1: frozenset()}


def test_a_tunnel_added_while_the_others_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(service: Service) -> None:
        restarted: list[str] = []

        async def nothing(*_: object) -> None:
            return None

        async def add_another(_index: int) -> bool:
            service._tunnels[1] = service._tunnel(1)
            return False

        monkeypatch.setattr(service._enforcer, "heal", nothing)
        monkeypatch.setattr(service, "_serve_downstream", nothing)
        monkeypatch.setattr(service._resolv_conf, "mend", nothing)
        monkeypatch.setattr(service._enforcer, "routes_present", add_another)
        monkeypatch.setattr(service._tunnels[0], "restart", restarted.append)
        service._signature = None  # type: ignore[assignment]
        service._tunnels[0].state = State.CONNECTED
        await service._look()
        assert restarted == ["vpn0 lost its routes"]

    with_service(tmp_path, play)


def test_several_tunnels_by_request(tmp_path: Path) -> None:
    """Made by switching, listed in the details, kept for the next start; assignments too."""

    async def play(service: Service) -> None:
        (tmp_path / "profiles" / "a.ovpn").write_bytes(WHOLE)
        served: list[Any] = []
        begun: list[Any] = []

        async def note(assignment: Any) -> None:
            served.append(assignment)

        async def routes() -> list[NetRoute]:
            return [NetRoute(ip_network("10.137.0.3/32"), dev="vif3.0")]

        service._enforcer.assign, service._netconf.routes = note, routes  # type: ignore[method-assign,assignment]
        service._begin = lambda life: begun.append(life.close())  # type: ignore[method-assign]
        service._downstream.seen([link(3, "vif3.0")])
        ask = service._answers.answer
        for verb in ("connect", "disconnect", "status"):
            with pytest.raises(Refused, match="no such tunnel"):
                await ask(Request(verb, tunnel="vpn1"))
        assert (await ask(Request("switch", "a", tunnel="vpn1")))["profile"] == "a"
        assert len(begun) == 1 and served == [{0: {"vif3.0"}, 1: frozenset()}]
        assert await ask(Request("assign", address="10.137.0.3", tunnel="vpn1"))
        assert served[-1] == {0: frozenset(), 1: {"vif3.0"}}
        details = await ask(Request("details"))
        assert set(details["tunnels"]) == {"vpn0", "vpn1"} and details["assigned"] == {"10.137.0.3": "vpn1"}
        assert details["downstream"] == {"vif3.0": ["10.137.0.3"]}
        again = Service(service._settings, {})
        assert set(again._tunnels) == {0, 1}
        assert again._enforcer._assignment == {0: frozenset(), 1: frozenset()}, "closed until it is known who is who"
        await again._netconf.close()
        await ask(Request("assign", address="10.137.0.3"))
        assert served[-1] == {0: {"vif3.0"}, 1: frozenset()}

    with_service(tmp_path, play)


@pytest.mark.parametrize("release", [False, True])
def test_a_tunnel_is_removed_by_request(tmp_path: Path, release: bool) -> None:
    """Closed first, then forgotten; its qubes stay assigned to it, which is closed, or use the other again."""

    async def play(service: Service) -> None:
        (tmp_path / "profiles" / "a.ovpn").write_bytes(WHOLE)
        did: list[Any] = []

        async def assign(assignment: Any) -> None:
            did.append(("assign", assignment))

        async def enforce(index: int, wanted: Any) -> None:
            did.append(("enforce", index, wanted.live))

        async def remove(index: int) -> None:
            did.append(("remove", index))
            with pytest.raises(Refused, match="being removed"):
                await ask(Request("switch", "a", tunnel="vpn1"))

        async def routes() -> list[NetRoute]:
            return [NetRoute(ip_network("10.137.0.3/32"), dev="vif3.0")]

        enforcer = service._enforcer
        enforcer.assign, enforcer.enforce, enforcer.remove = assign, enforce, remove  # type: ignore[method-assign]
        service._netconf.routes = routes  # type: ignore[method-assign,assignment]
        service._downstream.seen([link(3, "vif3.0")])
        ask = service._answers.answer
        with pytest.raises(Refused, match="no such tunnel"):
            await ask(Request("remove-tunnel", tunnel="vpn1"))
        with pytest.raises(Refused, match="vpn0 stays"):
            await ask(Request("remove-tunnel", tunnel="vpn0"))
        await ask(Request("assign", address="10.137.0.3", tunnel="vpn1"))
        await service.add_tunnel(1)
        service._choices.use(1, "a")
        listener = await ask(Request("events"))
        await listener.next(), await listener.next()
        did.clear()
        assert await ask(Request("remove-tunnel", tunnel="vpn1", release=release or None)) == {"tunnel": "vpn1"}
        assert did[0] == ("enforce", 1, None) and did[-1] == ("remove", 1)
        assert did[-2] == ("assign", {0: None} if release else {0: frozenset()})
        heard = [await listener.next()]
        while heard[-1]["event"] != "removed":  # type: ignore[index]
            heard.append(await listener.next())
        assert heard[-1] == {"event": "removed", "tunnel": "vpn1"} and heard[-2]["state"] == "closed"  # type: ignore[index]
        assert not service._stop.is_set(), "the service goes on"
        assert set(service._tunnels) == {0} and service._choices.chosen.tunnels == {}
        kept = {} if release else {"10.137.0.3": "vpn1"}
        assert (await ask(Request("details")))["assigned"] == kept
        assert set(service._choices.passing.tunnels) == {0}  # type: ignore[union-attr]

    with_service(tmp_path, play)


def test_a_qube_that_listens_as_often_as_it_may_leaves_dom0_a_place(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        ask = service._answers.answer
        for _ in range(MAX_LISTENERS - 1):
            await ask(Request("events", caller="work"))
        with pytest.raises(Refused, match="too many"):
            await ask(Request("events", caller="personal"))
        assert (await ask(Request("events", caller="dom0"))) is not None

    with_service(tmp_path, play)


def test_a_tunnel_that_cannot_be_made_is_not_there(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        async def refuse() -> None:
            raise FirewallError("no")

        service._serve_downstream = refuse  # type: ignore[method-assign]
        with pytest.raises(FirewallError):
            await service.add_tunnel(1)
        assert set(service._tunnels) == {0} and service._lives == {}

    with_service(tmp_path, play)


def test_a_profile_that_is_being_removed_cannot_be_switched_to(tmp_path: Path) -> None:
    """Nor removed or renamed once more, until it is gone."""

    async def play(service: Service) -> None:
        (tmp_path / "profiles" / "a.ovpn").write_bytes(WHOLE)
        ask = service._answers.answer
        async with service._answers._storing:  # the store is busy
            removing = asyncio.create_task(ask(Request("remove", "a")))
            await asyncio.sleep(0)
            for request in (Request("switch", "a"), Request("remove", "a"), Request("rename", "a", to="b")):
                with pytest.raises(Refused, match="no such profile"):
                    await ask(request)
        assert await removing == {"profile": "a"}
        assert service._tunnels[0].profile is None and service._profiles.names() == []

    with_service(tmp_path, play)


def test_a_profile_on_trial_is_not_remembered(tmp_path: Path) -> None:
    """Also if it was chosen while the old one was just connecting: a new start begins with the old one."""

    async def play(service: Service) -> None:
        tunnel = service._tunnels[0]
        tunnel.profile = "old"
        tunnel.switch("new", rollback=True)
        tunnel.state = State.CONNECTED
        service._tell(0)
        assert service._choices.chosen.tunnels == {0: "old"}

    with_service(tmp_path, play)


# --- systemd ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_notifying(abstract: bool, tmp_path: Path) -> None:
    path = f"@qmv-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path.replace("@", "\0", 1))
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000"})
        notifier.send(READY="1", STATUS="a\nSTOPPING=1")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=a\\x0aSTOPPING=1"
        assert notifier.watchdog == 15.0


def test_no_systemd(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": str(tmp_path / "none")}):
        notifier = Notifier(environ)
        notifier.send(READY="1")
        assert notifier.watchdog == 0
    assert Notifier({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}).watchdog == 0
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog == 0


# --- what is installed ------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (INSTALL / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).extend(value.split() if key in ("After", "Before", "Requires") else [value])
    return found


def test_the_early_unit_needs_neither_python_nor_the_service() -> None:
    early = unit("qubes-miragevpn-lockdown.service")
    assert early["DefaultDependencies"] == ["no"] and early["Type"] == ["oneshot"]
    assert {"network-pre.target", "qubes-network.service", "qubes-firewall.service"} <= set(early["Before"])
    nft, script = early["ExecStart"]
    assert early["ExecStartPre"] == [f"-{script}"], "a table that does not load leaves the other barriers"
    assert nft.split()[:2] == ["/usr/sbin/nft", "-f"] and Path(nft.split()[2]).name == "qubes-miragevpn-lockdown.nft"
    assert (INSTALL / "nft" / Path(nft.split()[2]).name).is_file()
    path = INSTALL / Path(script).name
    assert path.read_text().startswith("#!/bin/sh\n") and "miragevpn service" not in path.read_text()


def test_forwarding_waits_for_the_lockdown() -> None:
    drop_in = unit("qubes-network.service.d/30-qubes-miragevpn.conf")
    assert drop_in["Requires"] == drop_in["After"] == ["qubes-miragevpn-lockdown.service"]


def test_units_run_only_where_asked_for() -> None:
    for name in ("qubes-miragevpn.service", "qubes-miragevpn-lockdown.service"):
        assert unit(name)["ConditionPathExists"] == [
            "/run/qubes-service/miragevpn",
            "!/run/qubes/this-is-templatevm",
        ]


def test_shell_programs_parse() -> None:
    scripts = [path for path in INSTALL.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")]
    assert len(scripts) == 4
    for path in scripts:
        assert path.stat().st_mode & 0o111, path
        subprocess.run(["sh", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("present", "installed", "expected"),
    [
        (True, True, "lockdown"),
        (False, True, "lockdown all"),
        (True, False, ""),
        (False, False, "nft -f -: policy drop"),
    ],
)
def test_the_firewall_hook(present: bool, installed: bool, expected: str, tmp_path: Path) -> None:
    """A table that is there is left alone: qubes-firewall restarts while a tunnel is open. No feature: nothing.

    Where Debian kept the hook of a removed package, a qube with the feature is closed still.
    """
    loaded = 'echo "nft $*: $(grep -o "policy drop")"'
    (tmp_path / "nft").write_text(f'#!/bin/sh\n[ "$1" = list ] && exit {0 if present else 1}\n{loaded}\n')
    (tmp_path / "lockdown").write_text('#!/bin/sh\necho lockdown "$@"\n')
    (tmp_path / "nft").chmod(0o755)
    (tmp_path / "lockdown").chmod(0o755 if installed else 0o644)
    hook = (INSTALL / "qubes-firewall.d" / "30-qubes-miragevpn").read_text()
    flag = tmp_path / "flag"
    hook = hook.replace("/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown", str(tmp_path / "lockdown"))
    hook = hook.replace("/run/qubes-service/miragevpn", str(flag))
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run() -> str:
        done = subprocess.run(["sh", "-c", hook], env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == ""
    flag.touch()
    assert run() == expected


def test_the_firewall_hook_is_kept_where_it_outlives_the_package(tmp_path: Path) -> None:
    """In a VPN qube that has a /rw, and nowhere else; an older copy is replaced, and no network is touched."""
    script = (INSTALL / "qubes-miragevpn-lockdown").read_text()
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n# new\n")
    hook.chmod(0o755)
    script = script.replace("FLAGS=/run/qubes-service\n", f"FLAGS={tmp_path}/flags\n")
    script = script.replace("HOOK=/etc/qubes/qubes-firewall.d/30-qubes-miragevpn\n", f"HOOK={hook}\n")
    for tool in ("ip", "nft"):
        (tmp_path / tool).write_text("#!/bin/sh\necho touched\n")
        (tmp_path / tool).chmod(0o755)
    kept = tmp_path / "rw" / "qubes-firewall.d"

    def keep() -> None:
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MIRAGEVPN_KEPT": str(kept)}
        done = subprocess.run(["sh", "-c", script, "sh", "keep"], env=environ, capture_output=True, check=True)
        assert done.stdout == done.stderr == b""

    (tmp_path / "flags").mkdir()
    (tmp_path / "flags" / "miragevpn").touch()
    keep()
    assert not kept.exists(), "no /rw/config: a machine that is no qube"
    kept.parent.mkdir()
    keep()
    keep()
    (copy,) = kept.iterdir()
    assert copy.name == "30-qubes-miragevpn" and copy.read_text() == hook.read_text() and os.access(copy, os.X_OK)
    copy.write_text("old")
    (tmp_path / "flags" / "miragevpn").unlink()
    keep()
    assert copy.read_text() == "old", "no VPN qube"


def test_a_template_that_has_lost_the_package_does_not_say_that_it_has_it(tmp_path: Path) -> None:
    """Debian keeps the script that tells dom0; what dom0 then made of the template would not be closed."""
    lockdown = tmp_path / "lockdown"
    (tmp_path / "qvm-features-request").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "qvm-features-request").chmod(0o755)
    script = (INSTALL / "post-install.d" / "30-qubes-miragevpn.sh").read_text()
    script = script.replace("/usr/lib/qubes-miragevpn/qubes-miragevpn-lockdown", str(lockdown))

    def told() -> str:
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=True).stdout

    assert told() == ""
    lockdown.touch(mode=0o755)
    assert told() == "supported-service.miragevpn=1\n"
