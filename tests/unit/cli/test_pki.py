# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn pki`: files that load, names that are safe, nothing lost, and nothing issued that cannot be revoked."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.cli import words
from qubes_miragevpn.cli.main import main
from qubes_miragevpn.config.loader import load_client, load_server
from qubes_miragevpn.crypto.authority import Authority, Purpose, describe, revoked
from qubes_miragevpn.runtime.files import profile_reader

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["pki", *arguments])


def verified(folder: Path, name: str) -> str:
    """What openssl thinks of the certificate of `name`: "" or the reason."""
    ran = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", folder / "ca.crt",
         "-CRLfile", folder / "crl.pem", folder / "issued" / f"{name}.crt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_a_private_server_in_three_commands(run: Run, tmp_path: Path) -> None:
    assert run("init", "vpn") == ExitCode.OK
    options = ("--dns", "10.8.0.1", "--port", "443", "--proto", "tcp")
    assert run("server", "vpn", "vpn.example.org", *options) == ExitCode.OK
    assert run("client", "vpn", "alice") == ExitCode.OK
    for path in (tmp_path / "alice.ovpn", *(tmp_path / "vpn").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    folder = tmp_path / "vpn"
    read = profile_reader(folder, confined=True)
    server = load_server((folder / "server.conf").read_bytes(), file="server.conf", read_file=read).config
    assert (str(server.network), server.listen.port) == ("10.8.0.0/24", 443)
    assert server.push[-2:] == ("redirect-gateway def1", "dhcp-option DNS 10.8.0.1")
    profile = (tmp_path / "alice.ovpn").read_bytes()
    client = load_client(profile, file="alice.ovpn", read_file=lambda path: b"").config
    assert [(each.host, each.port) for each in client.remotes] == [("vpn.example.org", 443)]
    for name, purpose in (("alice", Purpose.CLIENT), ("vpn.example.org", Purpose.SERVER)):
        certificate = (folder / "issued" / f"{name}.crt").read_bytes()
        assert verified(folder, name) == ""
        assert (describe(certificate).name, describe(certificate).purpose) == (name, purpose)
    assert b"PRIVATE KEY" not in b"".join(path.read_bytes() for path in (folder / "issued").iterdir())


@pytest.mark.parametrize("name", ["", "é" * 40])
def test_an_authority_has_a_name_that_fits(run: Run, name: str, tmp_path: Path) -> None:
    assert run("init", "vpn", "--name", name) == ExitCode.CONFIG
    assert not list(tmp_path.iterdir())


def test_revoking(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("init vpn", "server vpn 192.0.2.1", "client vpn a", "client vpn b", "revoke vpn a", "revoke vpn a"):
        assert run(*line.split()) == ExitCode.OK
    assert "a is refused from now on\na was revoked before\n" in capsys.readouterr().out
    folder = tmp_path / "vpn"
    assert "revoked" in verified(folder, "a") and verified(folder, "b") == ""
    run("list", "vpn")
    shown = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert shown == [["192.0.2.1", "server", "valid"], ["a", "client", "revoked"], ["b", "client", "valid"]]
    # a name comes back with another certificate; the old one stays revoked
    assert run("client", "vpn", "a", "-o", "again.ovpn") == ExitCode.OK
    assert len(revoked((folder / "crl.pem").read_bytes())) == 1


def test_again_revokes_what_was_there(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("init vpn", "server vpn one.example", "client vpn a -o 1.ovpn"):
        assert run(*line.split()) == ExitCode.OK
    old = (tmp_path / "vpn" / "issued" / "a.crt").read_bytes()
    assert run("client", "vpn", "a", "-o", "2.ovpn") == ExitCode.CONFIG
    assert run("server", "vpn", "two.example") == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "--again revokes it" in said and "there is a server already (--again replaces it)" in said
    assert run("client", "vpn", "a", "-o", "2.ovpn", "--again") == ExitCode.OK
    assert run("server", "vpn", "two.example", "--again") == ExitCode.OK
    gone = {serial for serial, _ in revoked((tmp_path / "vpn" / "crl.pem").read_bytes())}
    assert describe(old).serial in gone and len(gone) == 2
    assert "remote two.example 1194 udp" not in (tmp_path / "2.ovpn").read_text()
    assert run("client", "vpn", "b") == ExitCode.OK and "remote two.example 1194" in (tmp_path / "b.ovpn").read_text()


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "a b", "x" * 64, "é", "a\n"])
def test_names_that_are_none(run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "vpn")
    run("server", "vpn", "192.0.2.1")
    assert run("client", "vpn", "-o", "x.ovpn", "--", name) == ExitCode.CONFIG
    assert "not a name" in capsys.readouterr().err


def test_nothing_is_overwritten(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vpn").mkdir()
    (tmp_path / "vpn" / "precious").touch()
    assert run("init", "vpn") == ExitCode.CONFIG
    assert run("client", "vpn", "a") == ExitCode.CONFIG
    assert run("client", "nowhere", "a") == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "something is there already" in said and said.count("no authority is here") == 2
    assert run("init", "new") == ExitCode.OK
    assert run("client", "new", "a") == ExitCode.CONFIG
    assert "there is no server yet (miragevpn pki server new ADDRESS)" in capsys.readouterr().err
    assert run("server", "new", "192.0.2.1") == ExitCode.OK
    (tmp_path / "a.ovpn").touch()
    assert run("client", "new", "a") == ExitCode.CONFIG
    assert not (tmp_path / "new" / "issued" / "a.crt").exists(), "nothing was issued for nothing"


def test_an_encrypted_key(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["open sesame", "open sesame", "open sesame", "wrong"])
    monkeypatch.setattr(words, "ask_password", lambda _: Secret(next(answers).encode()))
    assert run("init", "vpn", "--password") == ExitCode.OK
    assert b"ENCRYPTED" in (tmp_path / "vpn" / "ca.key").read_bytes()
    assert run("server", "vpn", "192.0.2.1") == ExitCode.OK
    assert run("client", "vpn", "a") == ExitCode.CONFIG
    monkeypatch.setattr(words, "ask_password", lambda _: None)
    assert run("client", "vpn", "a") == ExitCode.CONFIG


def test_a_certificate_ends_with_its_authority() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    numbers = iter(range(1, 256))

    def entropy(size: int) -> bytes:
        return bytes([next(numbers)]) * size

    authority = Authority.make("CA", now, timedelta(days=10), entropy)
    issued = authority.issue("a", Purpose.CLIENT, now, timedelta(days=100), entropy)
    assert describe(issued.certificate).expires == now + timedelta(days=10)
    with pytest.raises(ConfigError, match="has expired"):
        authority.issue("b", Purpose.CLIENT, now + timedelta(days=11), timedelta(days=1), entropy)
    other = Authority.make("CA", now, timedelta(days=10), entropy)
    with pytest.raises(ConfigError, match="does not belong"):
        Authority.load(authority.certificate, other.private_key(None).reveal(), None)
