# SPDX-License-Identifier: BSD-2-Clause
"""What a server writes for others while it runs, and what becomes of it when the machine refuses."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.config.model import Operating, OutputFile
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.operating.console import Console
from tests.unit.runtime.operating.test_roster import ROSTER


class Driver:
    def roster(self, title: str) -> Any:
        return ROSTER


def test_a_full_disk_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, and written again when there is room."""
    tries = 0
    write = disk.write_file

    def full(*given: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*given)

    monkeypatch.setattr(disk, "write_file", full)

    async def run() -> None:
        console = Console(Operating(status=OutputFile("status", 0)), tmp_path, "miragevpn")
        driver: Any = Driver()
        console.serve(driver, "10.8.0.1")
        async with asyncio.timeout(5):
            while not (tmp_path / "status").exists():
                await asyncio.sleep(0.001)
        await console.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == [f"status: {tmp_path}/status: No space left on device"]
