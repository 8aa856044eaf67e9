# SPDX-License-Identifier: BSD-2-Clause
"""``replay-persist``: the file, and that what it says is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.crypto.replay import ControlReplay, Replayed
from qubes_miragevpn.runtime.plain import remembered
from qubes_miragevpn.runtime.plain.remembered import Remembered


def test_what_was_seen_is_refused_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    first = Remembered(path)
    window = ControlReplay(64, first.numbering)
    for time, number in ((1000, 5), (1000, 3), (1001, 1), (1001, 7), (1001, 6)):
        window.check(time, number)
        window.mark(time, number)
    first.save()
    assert path.read_bytes() == b"miragevpn-seen 1001 7\n" and path.stat().st_mode & 0o777 == 0o600
    again = ControlReplay(64, Remembered(path).numbering)
    for time, number in ((1000, 9), (1001, 1), (1001, 5), (1001, 7)):
        with pytest.raises(Replayed):
            again.check(time, number)
    again.check(1001, 8)
    again.mark(1001, 8)
    again.check(1002, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        b"miragevpn-seen 1 2",
        b"miragevpn-seen 1 99999999999\n",
        b"miragevpn-seen 4294967296 1\n",
        b"\0" * 16,
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seen"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a file of this program's"):
        Remembered(path)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_to_is_an_error_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "no-such-folder" / "seen", tmp_path):
        with pytest.raises(ConfigError, match="replay-persist"):
            Remembered(path)


def test_it_is_saved_while_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SAVE_EVERY", 0.0)
    path = tmp_path / "seen"
    kept = Remembered(path)

    async def run() -> None:
        task = asyncio.create_task(kept.keep())
        kept.numbering.time = 77
        while path.read_bytes() != b"miragevpn-seen 77 0\n":
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 5))
