# SPDX-License-Identifier: BSD-2-Clause
"""Both ends of the wire contract against each other: the tool's calls read by the service, its answers by the tool.

Neither imports the other; what they share is doc/rpc.md. Here the arguments that the tool makes go through the
service's own checks, and what the service really answers goes through the tool's readers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.admin.commands import tunnel
from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.main import parser
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.service import MAX_PROFILE, MAX_REPLY, MAX_SECRET, Outcome
from qubes_miragevpn.qube.rpc import messages
from qubes_miragevpn.qube.rpc.control import Refused
from qubes_miragevpn.qube.rpc.events import Listener
from qubes_miragevpn.qube.rpc.services import check_call, find
from qubes_miragevpn.qube.service import Service
from qubes_miragevpn.qube.states import State
from tests.unit.qube.profiles.test_store import WHOLE
from tests.unit.qube.test_service import with_service

ENVIRONMENT = {"QREXEC_REMOTE_DOMAIN": "dom0"}


async def asked(service: Service, name: str, argument: str, payload: bytes, reader: Callable[[Any], Any]) -> Any:
    """A qrexec call as `miragevpn rpc` carries it out, without its processes."""
    request = messages.with_payload(check_call(name, [argument] if argument else [], ENVIRONMENT), payload)
    try:
        code, answer = 0, await service._answers.answer(request)
    except Refused as error:
        code, answer = 7, {"error": "refused", **({"reason": str(error)} if find(name).explains else {})}
    output = json.dumps(answer).encode() + b"\n"
    assert len(output) <= MAX_REPLY
    return replies.take(Outcome(code, output), "sys-vpn", name, reader)


def test_commands(tmp_path: Path) -> None:
    """Every command that asks a VPN qube, in an order that makes sense, and what is shown in the end."""
    words = [
        ["import", "a", "file"], ["import", "b", "file"], ["profiles"], ["credentials", "a"], ["switch", "a"],
        ["switch", "b", "vpn1", "--rollback"], ["status"], ["connect"], ["connect", "vpn1"], ["disconnect", "vpn1"],
        ["remove-tunnel", "vpn1", "--default"], ["disconnect"], ["delete", "b"], ["credentials", "a", "--forget"],
        ["log"],
    ]  # fmt: skip
    assert {each[0] for each in words} | {"answer"} == set(tunnel.ROWS)

    async def play(service: Service) -> None:
        service._profiles.tidy()
        shown = []
        for each in words:
            arguments = parser().parse_args(each)
            row = tunnel.ROWS[arguments.command]
            payload = {"import": WHOLE, "credentials": b"" if "--forget" in each else b"me\nword\n"}.get(each[0], b"")
            answer = await asked(service, row.service, row.argument(arguments), payload, row.reader)
            shown.append(row.show(answer, arguments))
        assert shown[2].split() == ["a", "b"]
        assert shown[3] == "credentials of a: set" and shown[13] == "credentials of a: forgotten"
        assert shown[6].splitlines()[0].split()[0] == "vpn0" and "vpn1" in shown[6]

    with_service(tmp_path, play)


def test_details_of_a_tunnel_that_asks_and_fails(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        service._tunnels[0].state, service._tunnels[0].reason = State.FAILED, "203.0.113.9 said no"
        service._tunnels[0].question = "Code?"
        details = await asked(service, "miragevpn.Details", "", b"", replies.details)
        assert (details.tunnels["vpn0"].state, details.tunnels["vpn0"].question) == ("failed", "Code?")
        await asked(service, "miragevpn.Assign", "10.137.0.20+vpn3", b"", replies.done)
        details = await asked(service, "miragevpn.Details", "", b"", replies.details)
        assert details.assigned == {"10.137.0.20": "vpn3"}

    with_service(tmp_path, play)


def test_refusals(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        service._profiles.tidy()
        with pytest.raises(Failure, match=r"a\.ovpn:2"):
            await asked(service, "miragevpn.ImportProfile", "a", b"client\nno-such-directive\n", replies.warnings)
        with pytest.raises(Failure, match="the server has asked nothing"):
            await asked(service, "miragevpn.Answer", "", b"123456\n", replies.done)
        with pytest.raises(Failure, match=r"refused miragevpn\.Switch\n"):
            await asked(service, "miragevpn.Switch", "gone", b"", replies.status)

    with_service(tmp_path, play)


def test_events(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        service._profiles.tidy()
        listener = await service._answers.answer(check_call("miragevpn.Events", [], ENVIRONMENT))
        assert isinstance(listener, Listener)
        await asked(service, "miragevpn.Assign", "10.137.0.20+vpn1", b"", replies.done)
        await asked(service, "miragevpn.ImportProfile", "a", WHOLE, replies.warnings)
        kinds = []
        for _ in range(3):
            value = await asyncio.wait_for(listener.next(), 5)
            kinds.append(replies.take_line(json.dumps(value).encode() + b"\n", "sys-vpn").kind)
        assert kinds == ["tunnel", "assigned", "profiles"]
        listener.close()

    with_service(tmp_path, play)


def test_the_log(tmp_path: Path) -> None:
    async def play(service: Service) -> None:
        for number in range(300):
            service._recent.handle(
                logging.makeLogRecord({"name": "miragevpn.x", "msg": f"line {number} \x1b[2J", "levelno": 20})
            )
        lines = await asked(service, "miragevpn.Log", "", b"", replies.log)
        assert len(lines) == 200 and "line 299" in lines[-1] and "\x1b" not in "".join(lines)

    with_service(tmp_path, play)


def test_the_bounds_of_both_ends() -> None:
    assert MAX_REPLY == messages.MAX_REPLY
    assert MAX_PROFILE == messages.MAX_IMPORT == find("miragevpn.ImportProfile").payload
    assert MAX_SECRET == messages.MAX_CREDENTIALS == find("miragevpn.SetCredentials").payload
    assert {state.value for state in State} == set(replies.STATES)
    assert replies.TUNNEL.pattern == messages.TUNNEL_NAME.pattern
