# SPDX-License-Identifier: BSD-2-Clause
"""The command line as a whole: exit codes, one-line errors, what is imported for it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from qubes_miragevpn.base.errors import ConfigError, MisuseError, PeerError, SystemRefused
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli import main as main_module
from qubes_miragevpn.cli.main import COMMANDS, main
from tests.unit.config.trust import Made

ROOT = Path(__file__).parents[3]


def raising(error: BaseException) -> Any:
    """A command module whose only command, `status`, raises."""

    def run(_: object) -> int:
        raise error

    def add_parser(subparsers: Any) -> None:
        subparsers.add_parser("status").set_defaults(run=run)

    return SimpleNamespace(add_parser=add_parser)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no remote", file="a.ovpn", line=7, fix="add one"), 2, "miragevpn: a.ovpn:7: no remote (add one)"),
        (SystemRefused("no permission", "run as root"), 4, "miragevpn: no permission: run as root"),
        (PeerError("it hung up"), 5, "miragevpn: it hung up"),
        (FileNotFoundError(2, "No such file", "x"), 4, "miragevpn: x: No such file"),
        (MisuseError("peer 4 is not known"), 70, "miragevpn: internal error: MisuseError: peer 4 is not known"),
        (KeyError("two\nlines"), 70, "miragevpn: internal error: KeyError: 'two\\nlines'"),
        (KeyboardInterrupt(), 0, ""),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
    ],
)
def test_what_went_wrong_is_one_line_and_an_exit_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main_module.importlib, "import_module", lambda _: raising(error))
    monkeypatch.setattr(main_module.os, "dup2", lambda *_: None)
    assert main(["status"]) == code
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[:1] == ([said] if said else [])
    assert "Traceback" not in shown.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main_module.importlib, "import_module", lambda _: raising(KeyError("x")))
    assert main(["--debug", "status"]) == ExitCode.INTERNAL
    assert "Traceback" in capfd.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [command for command in COMMANDS if f"\n    {command}" not in text] == ["rpc"]
    assert "SUPPRESS" not in text
    for code in ExitCode:
        assert f"{code.value} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: miragevpn {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["stats"], ["--nonsense"], ["check"], ["genkey", "a", "b", "c"]])
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == ExitCode.CONFIG
    assert "usage: miragevpn" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"miragevpn {(ROOT / 'version').read_text().strip()}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["status"]])
def test_heavy_modules_are_not_imported_for_light_work(words: list[str]) -> None:
    heavy = ["cryptography", "OpenSSL", "pyroute2", "dbus_next"]
    heavy += ["asyncio", "qubes_miragevpn.protocol", "qubes_miragevpn.runtime"]
    code = (
        "import sys; from qubes_miragevpn.cli.main import main; main(sys.argv[2:]);"
        "bad = set(sys.argv[1].split()) & set(sys.modules); sys.exit(f'imported: {bad}' if bad else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MIRAGEVPN_CONTROL_SOCKET": "/nowhere/control"}
    command = [sys.executable, "-c", code, " ".join(heavy), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_profile_that_is_not_there() -> None:
    command = [sys.executable, "-m", "qubes_miragevpn", "client", "/nowhere/a.ovpn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "miragevpn: /nowhere/a.ovpn: cannot be read: No such file or directory\n"


def test_no_words_of_libraries_to_programmers(tmp_path: Path) -> None:
    """Such as that a certificate has the serial number 0, which authorities of providers do have."""
    made = Made("authority")
    der = made.certificate.public_bytes(Encoding.DER).replace(b"\x02\x01\x05", b"\x02\x01\x00", 1)
    text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
    path = tmp_path / "c.ovpn"
    path.write_text(f"client\nremote 192.0.2.1\nremote-cert-tls server\nauth-user-pass\n<ca>\n{text}</ca>\n")
    command = [sys.executable, "-m", "qubes_miragevpn", "check", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m qubes_miragevpn genkey | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):  # whether the pipe is broken in time is a race; the result is the same
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
