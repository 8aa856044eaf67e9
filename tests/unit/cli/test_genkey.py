# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn genkey`: a key that parses, for its owner's eyes only, and no file lost."""

from __future__ import annotations

import base64
import os
import stat
import time
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from qubes_miragevpn.crypto.keyfiles import parse_client_key, parse_server_key, parse_static_key
from qubes_miragevpn.crypto.wrappedkey import issued_at, unwrap_client_key


def key_of(path: Path) -> bytes:
    return parse_static_key(path.read_bytes()).reveal()


def test_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert main(["genkey", str(tmp_path / "a")]) == ExitCode.OK
    finally:
        os.umask(before)
    assert main(["genkey", str(tmp_path / "b")]) == ExitCode.OK
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert key_of(tmp_path / "a") != key_of(tmp_path / "b")


@pytest.mark.parametrize("arguments", [["genkey"], ["genkey", "-"]])
def test_standard_output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.OK
    assert len(parse_static_key(capsys.readouterr().out.encode())) == 256


def test_a_file_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    assert main(["genkey", str(path)]) == ExitCode.CONFIG
    assert path.read_text() == "precious"
    assert "the file exists already (--force replaces it)" in capsys.readouterr().err


def test_force_replaces_in_one_step_and_not_through_a_link(tmp_path: Path) -> None:
    path, other = tmp_path / "key", tmp_path / "other"
    other.write_text("precious")
    path.symlink_to(other)
    assert main(["genkey", str(path)]) == ExitCode.CONFIG
    assert main(["genkey", "--force", str(path)]) == ExitCode.OK
    assert other.read_text() == "precious" and len(key_of(path)) == 256
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["key", "other"]


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genkey", str(tmp_path / "nowhere" / "key")]) == ExitCode.SYSTEM
    assert "No such file or directory" in capsys.readouterr().err


# --- tls-crypt-v2


def test_keys_for_tls_crypt_v2(tmp_path: Path) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    before = int(time.time())
    assert main(["genkey", "--tls-crypt-v2-server", str(server)]) == ExitCode.OK
    assert main(["genkey", "--tls-crypt-v2-client", str(server), str(client)]) == ExitCode.OK
    made = parse_client_key(client.read_bytes())
    key, metadata = unwrap_client_key(parse_server_key(server.read_bytes()), made.wrapped)
    assert key == made.key and stat.S_IMODE(client.stat().st_mode) == 0o600
    issued = issued_at(metadata)
    assert issued is not None and before <= issued <= time.time()


def test_metadata_of_ones_own(tmp_path: Path) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    assert main(["genkey", "--tls-crypt-v2-server", str(server)]) == ExitCode.OK
    assert main(["genkey", "--tls-crypt-v2-client", str(server), "--metadata", "QUJD", str(client)]) == ExitCode.OK
    wrapped = parse_client_key(client.read_bytes()).wrapped
    assert unwrap_client_key(parse_server_key(server.read_bytes()), wrapped)[1] == b"\0ABC"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metadata", "QUJD"], "belongs to --tls-crypt-v2-client"),
        (["--tls-crypt-v2-client", "nowhere"], "nowhere: cannot be read: No such file or directory"),
        (["--tls-crypt-v2-client", "server", "--metadata", "?"], "must be base64"),
        (["--tls-crypt-v2-client", "server", "--metadata", base64.b64encode(bytes(734)).decode()], "734 bytes; 733"),
        (["--tls-crypt-v2-client", "client"], "client: this is an 'OpenVPN tls-crypt-v2 client key'"),
        (["--tls-crypt-v2-server", "--tls-crypt-v2-client", "server"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["genkey", "--tls-crypt-v2-server", "server"]) == ExitCode.OK
    assert main(["genkey", "--tls-crypt-v2-client", "server", "client"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["genkey", *arguments]) == ExitCode.CONFIG
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out
