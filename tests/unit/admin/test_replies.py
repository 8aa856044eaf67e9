# SPDX-License-Identifier: BSD-2-Clause
"""What a VPN qube answers is believed only as far as it is exactly what it may be, and none reaches a terminal raw."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.service import Outcome
from qubes_miragevpn.qube.rpc.services import SERVICES

STATUS = {
    "state": "connected", "profile": "office", "since": "2026-01-02T03:04:05Z", "bytes_in": 7, "bytes_out": 8,
    "reason": "", "backend": "reference",
}  # fmt: skip
DETAILS = {
    "tunnels": {"vpn0": {**STATUS, "question": "Code?"}, "vpn15": {**STATUS, "profile": None, "question": ""}},
    "downstream": {"vif12.0": ["10.137.0.20", "fd09:24ef:4179::a89:14"]},
    "assigned": {"10.137.0.20": "vpn1"},
}
PROFILES = {"profiles": ["a", "b-2.x"], "current": "a", "default": None}
READERS = {
    "status": (replies.status, STATUS),
    "details": (replies.details, DETAILS),
    "profiles": (replies.profiles, PROFILES),
    "tunnel event": (replies.event, {"event": "tunnel", "tunnel": "vpn1", **STATUS, "question": ""}),
    "assigned event": (replies.event, {"event": "assigned", "address": "10.137.0.20", "tunnel": "default"}),
    "profiles event": (replies.event, {"event": "profiles", "profiles": ["a"]}),
    "warnings": (replies.warnings, {"profile": "a", "warnings": ["weak"]}),
    "log": (replies.log, {"lines": ["2026-01-02T03:04:05Z info control: up"]}),
    "credentials": (replies.credentials, {"profile": "a", "credentials": "set"}),
}


def taken(reply: Any, reader: Any, code: int = 0) -> Any:
    output = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return replies.take(Outcome(code, output), "sys-vpn", "miragevpn.Status", reader)


@pytest.mark.parametrize("name", READERS)
def test_good_replies(name: str) -> None:
    reader, reply = READERS[name]
    assert taken(reply, reader)
    assert taken({**reply, "of a later version": [1, {"x": None}]}, reader) == taken(reply, reader)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "open"), ("state", None), ("state", ["closed"]), ("profile", ""), ("profile", "../x"), ("profile", 3),
        ("profile", "x" * 65), ("profile", "a\x1b[2J"), ("since", "now"), ("since", "2026-01-02T03:04:05Z\n"),
        ("since", "2026-19-39T29:59:69Z"), ("since", "2026-02-30T00:00:00Z"),
        ("bytes_in", -1), ("bytes_in", True), ("bytes_in", 1 << 63), ("bytes_in", "7"), ("bytes_out", 1.0),
        ("reason", None), ("reason", {}), ("backend", "x" * 33), ("backend", "\x07"),
    ],
)  # fmt: skip
def test_a_field_that_is_odd(key: str, value: Any) -> None:
    with pytest.raises(Failure, match="is refused"):
        taken({**STATUS, key: value}, replies.status)
    lacking = {name: each for name, each in STATUS.items() if name != key}
    with pytest.raises(Failure, match=f"without {key}"):
        taken(lacking, replies.status)


@pytest.mark.parametrize(
    "odd",
    [
        {"tunnels": {"vpn16": STATUS}}, {"tunnels": {"vpn0": []}}, {"tunnels": []},
        {"tunnels": {"vpn0": {**STATUS, "state": "\x1b]0;x\x07"}}},
        {"downstream": {"vif1.0\x1b[0m": []}}, {"downstream": {"eth0": []}}, {"downstream": {"vif1.0": ["10.0.0.256"]}},
        {"downstream": {"vif1.0": ["10.137.0.1"] * 17}}, {"downstream": {f"vif{n}.0": [] for n in range(257)}},
        {"assigned": {"fe80::1%eth0": "vpn0"}}, {"assigned": {"10.137.0.1": "default"}}, {"assigned": None},
    ],
)  # fmt: skip
def test_details_that_are_odd(odd: dict[str, Any]) -> None:
    with pytest.raises(Failure, match="is refused"):
        taken({**DETAILS, **odd}, replies.details)


@pytest.mark.parametrize(
    "output",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"state": NaN}', b'{"bytes_in": 1e400}', b"[" * 100_000,
        b'{"bytes_in": ' + b"9" * 10_000 + b"}", '{"state": "ü"}'.encode(),
    ],
)  # fmt: skip
def test_output_that_is_no_reply(output: bytes) -> None:
    with pytest.raises(Failure, match="is refused"):
        taken(output, replies.status)


def test_texts_are_harmless() -> None:
    reply = {**STATUS, "reason": "\x1b[2J\x9b31m\r\n" + "x" * 10_000}
    status = taken(reply, replies.status)
    assert status.reason.startswith(r"\x1b[2J\xc2\x9b31m\x0d\x0axxx") and len(status.reason) < 600
    assert all(0x20 <= ord(each) < 0x7F for each in status.reason)


def test_too_many() -> None:
    with pytest.raises(Failure):
        taken({**PROFILES, "profiles": ["a"] * 1001}, replies.profiles)
    with pytest.raises(Failure):
        taken({"lines": [""] * 501}, replies.log)


@pytest.mark.parametrize(
    ("code", "reply", "exit_code", "said"),
    [
        (6, {"error": "no service"}, 6, "does not run"),
        (7, {"error": "refused"}, 7, "refused miragevpn.Status\n"),
        (7, {"error": "refused", "reason": "line 3: \x1b[2J"}, 7, r"refused miragevpn.Status: line 3: \x1b[2J"),
        (1, {"error": "refused"}, 7, "refused"),
        (7, b"garbage", 6, "is refused"),
        (7, {"error": "refused", "reason": 5}, 6, "is refused"),
    ],
)
def test_refusals(code: int, reply: Any, exit_code: int, said: str) -> None:
    with pytest.raises(Failure) as caught:
        taken(reply, replies.status, code)
    assert caught.value.code == exit_code and said in str(caught.value)


def test_replies_mutated_at_random_pass_or_are_refused() -> None:
    """No reply makes anything but a value or a `Failure`, and what passes is printable throughout."""
    chance = random.Random(8)
    odd = [None, True, -1, 1 << 70, 0.5, "", "\x1b[2J", "x" * 600, [], {}, [[]], {"": 1}, "vpn3", "10.0.0.1"]

    def mutated(value: Any) -> Any:
        if chance.random() < 0.15:
            return copy.deepcopy(chance.choice(odd))
        if isinstance(value, dict):
            return {chance.choice([key, key, key, key, "\x1b"]): mutated(each) for key, each in value.items()}
        if isinstance(value, list):
            return [mutated(each) for each in value]
        return value

    passed = 0
    for _ in range(3000):
        reader, reply = chance.choice(list(READERS.values()))
        try:
            result = taken(mutated(reply), reader)
        except Failure:
            continue
        passed += 1
        assert "\x1b" not in str(result)
    assert passed > 100


def test_every_service_of_the_vpn_qube_is_in_the_list() -> None:
    """What the VPN qube offers, the tool can ask, and nothing besides."""
    from qubes_miragevpn.admin.talking.allowed import CALLS

    assert {row.method for row in CALLS if not row.is_admin} == {row.name for row in SERVICES}
