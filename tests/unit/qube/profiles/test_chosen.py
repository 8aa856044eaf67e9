# SPDX-License-Identifier: BSD-2-Clause
"""What outlives the service: choices for the next boot, wishes for the next start of this one."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from qubes_miragevpn.qube.profiles.chosen import Choices, Chosen, Passing


def choices(tmp_path: Path) -> Choices:
    return Choices(tmp_path / "state" / "chosen.json", tmp_path / "passing.json")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first = choices(tmp_path)
    assert first.chosen == Chosen() and first.passing is None
    chosen = Chosen("home", {0: "home", 3: "se"}, {ip_address("10.137.0.21"): 3})
    first.remember(default="home", assignments=chosen.assignments)
    first.use(0, "home")
    first.use(3, "se")
    first.note(Passing({0: ("home", True), 3: (None, False)}))
    again = choices(tmp_path)
    assert again.chosen == chosen and again.passing == Passing({0: ("home", True), 3: (None, False)})
    assert (tmp_path / "state" / "chosen.json").stat().st_mode & 0o777 == 0o600
    assert not [path for path in tmp_path.rglob(".*")]


@pytest.mark.parametrize(
    ("told", "default", "last", "names", "expected"),
    [
        ("dom0", "mine", "last", ["dom0", "last", "mine"], "dom0"),
        ("gone", "mine", "last", ["last", "mine"], "gone"),
        ("", "mine", "last", ["last", "mine"], None),
        (None, "gone", "last", ["last", "mine"], "last"),
        (None, None, "gone", ["a", "b"], None),
        (None, None, None, ["only"], "only"),
        (None, None, None, [], None),
    ],
)
def test_what_a_boot_begins_with(
    told: str | None, default: str | None, last: str | None, names: list[str], expected: str | None, tmp_path: Path
) -> None:
    """dom0's word, be it there or not; without it the default, the last or the only one, if it is there."""
    made = choices(tmp_path)
    made.chosen = Chosen(default, {} if last is None else {0: last, 1: last})
    assert made.first_profile(0, names, told) == expected
    assert made.first_profile(1, names, told) == (last if last in names else None)


def test_a_profile_that_is_renamed_or_removed(tmp_path: Path) -> None:
    made = choices(tmp_path)
    made.chosen = Chosen("a", {0: "a", 1: "b"})
    made.renamed("a", "c")
    assert made.chosen == Chosen("c", {0: "c", 1: "b"})
    made.renamed("c", None)
    assert choices(tmp_path).chosen == Chosen(None, {1: "b"})


DAMAGES = [
    b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"default": 7, "tunnels": [], "assignments": 1}',
    b'{"default": "../x", "tunnels": {"0": "..", "99": "a", "-1": "a", "x": "a", "1": {}}, "assignments":'
    b' {"nobody": 1, "10.137.0.9": "1", "10.137.0.8": true, "10.137.0.7": 16}}',
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_counts_as_nothing(damage: bytes, tmp_path: Path) -> None:
    for path in (tmp_path / "state" / "chosen.json", tmp_path / "passing.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damage)
    made = choices(tmp_path)
    assert made.chosen == Chosen() and made.passing == Passing()


def test_a_disk_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state" / "chosen.json").mkdir(parents=True)
    choices(tmp_path).use(0, "a")
    assert "cannot be written" in caplog.text
