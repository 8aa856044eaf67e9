# SPDX-License-Identifier: BSD-2-Clause
"""What a profile may read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qubes_miragevpn.runtime.files import MAX_FILE, directory_lister, profile_reader


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    directory = tmp_path / "profile"
    (directory / "sub").mkdir(parents=True)
    (directory / "ca.crt").write_bytes(b"inside")
    (directory / "sub" / "key").write_bytes(b"deeper")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "profile-evil").write_bytes(b"outside")
    (directory / "way-out").symlink_to("../secret")
    (directory / "way-in").symlink_to("sub/key")
    (directory / "dir-out").symlink_to("..")
    os.mkfifo(directory / "fifo")
    (directory / "big").write_bytes(b"x" * (MAX_FILE + 1))
    (directory / "limit").write_bytes(b"x" * MAX_FILE)
    return directory


@pytest.mark.parametrize("confined", [True, False])
def test_reads_what_lies_inside(profile: Path, confined: bool) -> None:
    read = profile_reader(profile, confined=confined)
    assert read("ca.crt") == b"inside"
    assert read("sub/key") == b"deeper"
    assert read("sub/../ca.crt") == b"inside"
    assert read("way-in") == b"deeper"
    assert len(read("limit")) == MAX_FILE


@pytest.mark.parametrize("path", ["../secret", "way-out", "dir-out/secret", "sub/../../secret", "../profile-evil"])
def test_confinement_holds(profile: Path, path: str) -> None:
    assert profile_reader(profile, confined=False)(path) == b"outside"
    with pytest.raises(OSError) as caught:
        profile_reader(profile, confined=True)(path)
    assert caught.value.errno == errno.EACCES


def test_absolute_paths_are_for_the_unconfined(profile: Path) -> None:
    assert profile_reader(profile, confined=False)(str(profile / "ca.crt")) == b"inside"
    with pytest.raises(OSError):
        profile_reader(profile, confined=True)(str(profile / "ca.crt"))


@pytest.mark.parametrize("confined", [True, False])
@pytest.mark.parametrize(
    ("path", "code"),
    [("fifo", errno.EINVAL), ("sub", errno.EISDIR), ("big", errno.EFBIG), ("absent", errno.ENOENT), ("", errno.EINVAL)],
)
def test_refuses_what_is_no_file_of_sane_size(profile: Path, confined: bool, path: str, code: int) -> None:
    with pytest.raises(OSError) as caught:
        profile_reader(profile, confined=confined)(path)
    assert caught.value.errno in (code, errno.EINVAL)


def test_devices_and_nul_bytes(profile: Path) -> None:
    read = profile_reader(profile, confined=False)
    for path in ("/dev/zero", "ca.crt\0.pem"):
        with pytest.raises(OSError):
            read(path)
    with pytest.raises(OSError):
        profile_reader(profile, confined=True)("ca.crt\0")


@pytest.mark.parametrize("confined", [True, False])
def test_lists_a_directory_inside(profile: Path, confined: bool) -> None:
    assert directory_lister(profile, confined=confined)("sub") == ["key"]


@pytest.mark.parametrize("path", ["..", "dir-out", "sub/../.."])
def test_confinement_holds_for_directories(profile: Path, path: str) -> None:
    assert "secret" in directory_lister(profile, confined=False)(path)
    with pytest.raises(OSError) as caught:
        directory_lister(profile, confined=True)(path)
    assert caught.value.errno == errno.EACCES


def test_what_cannot_be_listed(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("ca.crt", "absent", "fifo", "", "a\0b", str(profile)):
        with pytest.raises(OSError):
            directory_lister(profile, confined=True)(path)
    monkeypatch.setattr("qubes_miragevpn.runtime.files.MAX_NAMES", 3)
    with pytest.raises(OSError) as caught:
        directory_lister(profile, confined=True)(".")
    assert caught.value.errno == errno.E2BIG
