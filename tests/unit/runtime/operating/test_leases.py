# SPDX-License-Identifier: BSD-2-Clause
"""Leases that outlive the program: what is read from the file, and what is written to it."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from qubes_miragevpn.config.model import OutputFile
from qubes_miragevpn.runtime.operating.leases import LeaseFile


class Lessor:
    def __init__(self) -> None:
        self.recalled: list[tuple[str, IPv4Address | IPv6Address]] = []
        self.held = (
            ("ada", "10.8.0.2", "fd42:8::1000"),
            ("bob", "10.8.0.3", ""),
            ("a,b", "10.8.0.4", ""),
            ("\n", "10.8.0.5", ""),
        )

    def recall(self, name: str, address: IPv4Address | IPv6Address) -> None:
        self.recalled.append((name, address))

    def leases(self) -> tuple[tuple[str, str, str], ...]:
        return self.held


def lived(folder: Path, period: float) -> Lessor:
    """A whole life of a server."""
    lessor = Lessor()

    async def run() -> None:
        async with LeaseFile(OutputFile("pool", period), folder, lessor):
            await asyncio.sleep(0)

    asyncio.run(run())
    return lessor


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert not lived(tmp_path, 600).recalled
    assert (tmp_path / "pool").read_text() == "ada,10.8.0.2,fd42:8::1000\nbob,10.8.0.3,\n"
    ada, bob = ("ada", IPv4Address("10.8.0.2")), ("bob", IPv4Address("10.8.0.3"))
    assert lived(tmp_path, 600).recalled == [ada, ("ada", IPv6Address("fd42:8::1000")), bob]


def test_a_file_that_is_only_read_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "ada,10.8.0.2\nodd\n,10.8.0.3\nbob,10.8.0\n"
    (tmp_path / "pool").write_text(text)
    assert lived(tmp_path, 0).recalled == [("ada", IPv4Address("10.8.0.2"))]
    assert (tmp_path / "pool").read_text() == text and "3 lines are no leases" in caplog.text


def test_what_cannot_be_read_or_written_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pool").mkdir()
    assert not lived(tmp_path, 600).recalled
    assert "cannot be read" in caplog.text and "cannot be written" in caplog.text
