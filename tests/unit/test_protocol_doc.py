# SPDX-License-Identifier: BSD-2-Clause
"""`doc/protocol.md` says what the code does: its numbers, opcodes, bits, magic bytes and labels."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.crypto import kdf
from qubes_miragevpn.dataplane.inband import OCC_MAGIC, PING
from qubes_miragevpn.protocol.control.negotiation import POINT_PEER_ID, POINT_PEER_ID_LABEL
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import Opcode
from qubes_miragevpn.protocol.wire.peerinfo import IvProto
from qubes_miragevpn.protocol.wrap import dynamic

TEXT = (Path(__file__).parents[2] / "doc" / "protocol.md").read_text(encoding="utf-8")
LIMITS = re.findall(r"^\| [^|]+ \| (\d+) \| `([a-z0-9_.]+)\.([A-Za-z_.]+)` \|$", TEXT, flags=re.MULTILINE)
OPCODES = re.findall(r"^\| (\d+) \| ([A-Z][A-Z_0-9]+) \|", TEXT, flags=re.MULTILINE)


def test_there_are_limits() -> None:
    assert len(LIMITS) == TEXT.partition("## 12.")[2].count("\n| ") - 1 > 40


@pytest.mark.parametrize(("value", "module", "name"), LIMITS, ids=lambda text: text)
def test_limits(value: str, module: str, name: str) -> None:
    found: Any = import_module(f"qubes_miragevpn.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    assert float(value) == float(found)


def test_opcodes() -> None:
    assert {int(number): name for number, name in OPCODES} == {int(each): each.name for each in Opcode}


def test_bits_of_iv_proto() -> None:
    table = TEXT.partition("| bit | means")[2].partition("\n\n")[0]
    bits = {int(bit) for bit in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)}
    pulling = {each for each in IvProto if each.name != "NCP_P2P"}
    assert bits == {int(each).bit_length() - 1 for each in pulling}


@pytest.mark.parametrize(
    "said",
    [
        PING.hex().upper(), OCC_MAGIC.hex().upper(), kdf.EXPORTER_LABEL.decode(), dynamic.LABEL.decode(),
        POINT_PEER_ID_LABEL.decode(), f"0x{POINT_PEER_ID:X}",
        f"{earlyneg.FIRST_PACKET_ID:#010x}".replace("0x0f", "0x0F"),
    ],
)  # fmt: skip
def test_magic(said: str) -> None:
    assert said in TEXT
