# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn client [FILE] [--OPTION ...]`: what is read for it, and what help it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from qubes_miragevpn.cli.words import ask_password, read_words
from qubes_miragevpn.config.loader import load_client
from tests.unit.config.texts import CERTIFICATE

OPTIONS = ("--auth-user-pass", "--remote-cert-tls", "server")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "c.ovpn").write_text("client\nremote a\nca ca.crt\nverb 1\n")
    (tmp_path / "far" / "empty").write_text("")
    (tmp_path / "far" / "ca.crt").write_text(CERTIFICATE)
    (tmp_path / "near.crt").write_text(CERTIFICATE * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_file_and_options(place: Path) -> None:
    named = read_words(["far/c.ovpn", *OPTIONS, "--verb", "5"])
    config = load_client(named.text, file=named.file, read_file=named.read_file, surroundings=named.surroundings).config
    assert named.file == "far/c.ovpn" and config.common.verb == 5
    assert config.common.peer.ca_pem.decode() == CERTIFICATE, "counts from where the file lies"


def test_options_alone(place: Path) -> None:
    named = read_words(["--client", "--remote", "a", "--ca", "near.crt", *OPTIONS])
    config = load_client(named.text, file=named.file, read_file=named.read_file, surroundings=named.surroundings).config
    assert named.file == "command line"
    assert config.common.peer.ca_pem.decode() == CERTIFICATE * 2, "counts from the current directory"


@pytest.mark.parametrize("command", ["client", "server"])
@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(command: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, word]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert f"usage: miragevpn {command} [FILE] [--OPTION ARGUMENT ...]" in shown and "outranks FILE" in shown


@pytest.mark.parametrize("command", ["client", "server"])
def test_mistakes_are_one_line(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        ([], "no file and no option is given"),
        (["nowhere"], "nowhere: cannot be read: No such file"),
        (["far/c.ovpn", "verb"], "command line: 'verb' is not an option"),
        (["far/empty", "--nonsense"], "command line: unknown directive 'nonsense'"),
    ):
        assert main([command, *words]) == ExitCode.CONFIG
        shown = capsys.readouterr()
        assert said in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_nobody_is_asked_without_a_terminal() -> None:
    assert ask_password("Password: ") is None


def test_a_device_is_no_file() -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        read_words(["/dev/zero"])
