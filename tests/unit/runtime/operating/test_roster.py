# SPDX-License-Identifier: BSD-2-Clause
"""The forms in which a server's clients are told, and that a client's name cannot forge any of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qubes_miragevpn.runtime.operating import asking
from qubes_miragevpn.runtime.operating.roster import Member, Roster, as_json, prometheus, status

ALICE = Member(
    number=3, name="alice", username="al", endpoint="192.0.2.7:1194", ipv4="10.8.0.2", ipv6="fd00::2",
    bytes_in=10, bytes_out=20, since=1_700_000_000, cipher="AES-256-GCM",
)  # fmt: skip
ROSTER = Roster("miragevpn 1", 1_700_000_060, (ALICE, replace(ALICE, number=4, name="bob", ipv6="", username="")))


@pytest.mark.parametrize("version", [2, 3])
def test_rows_have_as_many_fields_as_their_header(version: int) -> None:
    rows = [line.split("," if version == 2 else "\t") for line in status(ROSTER, version).splitlines()]
    headers = {row[1]: len(row) - 1 for row in rows if row[0] == "HEADER"}
    told = [row for row in rows if row[0] in headers]
    assert len(told) == 2 + 3 and all(len(row) == headers[row[0]] for row in told)


def test_where_a_client_of_ipv6_is_has_no_port() -> None:
    """As openvpn writes it; brackets and a port stop tools that read the field as an address."""
    found = Roster("t", 1, (replace(ALICE, endpoint="[2001:db8::7]:1194"),))
    for version, separator in ((1, ","), (2, ","), (3, "\t")):
        assert f"{separator}2001:db8::7{separator}" in status(found, version) and "[" not in status(found, version)
    assert 'address="[2001:db8::7]:1194"' in prometheus(found)


def test_what_is_written_is_what_is_read() -> None:
    assert asking.read(status(ROSTER, 3).encode()) == ROSTER
    assert json.loads(as_json(ROSTER))["clients"][0]["ipv6"] == "fd00::2"


@pytest.mark.parametrize("name", ["a,b", "a\tb", "x\nCLIENT_LIST,eve", 'q"} 1\nmiragevpn_clients 0 #', "\x1b[31m", "é"])
def test_a_name_adds_no_field_and_no_line(name: str) -> None:
    forged, plain = (Roster("t", 1, (replace(ALICE, name=each),)) for each in (name, "plain"))
    for version, separator in ((1, ","), (2, ","), (3, "\t")):
        shape = [line.count(separator) for line in status(plain, version).splitlines()]
        assert [line.count(separator) for line in status(forged, version).splitlines()] == shape
        assert "\x1b" not in status(forged, version)
    lines = prometheus(forged).splitlines()
    assert len(lines) == len(prometheus(plain).splitlines())
    assert lines[2] == "miragevpn_clients 1" and all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "reply",
    [b"", b"hello", b"TITLE\tx\nTIME\tx\t-1\nEND\n", b"TITLE\tx\nCLIENT_LIST" + b"\tx" * 12 + b"\nEND\n", b"END"],
)
def test_what_is_no_answer(reply: bytes) -> None:
    with pytest.raises(OSError):
        asking.read(reply)
