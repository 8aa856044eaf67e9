# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn check`: what it says, what it returns, and that it shows nothing of a file it reads."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli.main import main
from tests.unit.cli.identity import make_identity
from tests.unit.config.texts import STATIC, STATIC_KEY_FILE
from tests.unit.config.trust import Made

CLIENT = """client
remote vpn.example.org 443 tcp
remote 192.0.2.7
remote-random
ca ca.crt
cert ca.crt
key own.key
remote-cert-tls server
verify-x509-name vpn name-prefix
tls-auth ta.key 1
auth-user-pass login
keepalive 10 60
route 10.0.0.0 255.0.0.0
redirect-gateway def1
dhcp-option DNS 9.9.9.9
dhcp-option DOMAIN corp.example
"""
SERVER = """port 443
server 10.8.0.0 255.255.255.0
topology subnet
ca ca.crt
cert ca.crt
key own.key
keepalive 10 60
tls-auth ta.key 0
push "redirect-gateway def1"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with keys, certificates and two configurations."""
    certificate, key = make_identity("vpn")
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "own.key").write_bytes(key)
    (tmp_path / "ta.key").write_text(STATIC_KEY_FILE)
    (tmp_path / "login").write_text("alice\nsecret-password\n")
    (tmp_path / "client.ovpn").write_text(CLIENT)
    (tmp_path / "server.conf").write_text(SERVER)
    return tmp_path


def test_a_client_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(place / "client.ovpn")]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        f"{place}/client.ovpn: usable as a client",
        "  servers           vpn.example.org port 443, tcp",
        "                    192.0.2.7 port 1194, udp over ipv4",
        "  order             random",
        "  control channel   tls-auth: authenticated by a shared key (SHA1, direction 1)",
        "                    TLS 1.2 or newer",
        "  peer must have    a certificate under the profile's CA",
        "                    a server's certificate",
        "                    a name that begins with 'vpn'",
        "  data ciphers      AES-256-GCM, AES-128-GCM, CHACHA20-POLY1305",
        "  keep-alive        a sign of life after 10 s; connect again after 60 s of silence",
        "  interface         tun, MTU 1500, mssfix 1492",
        "  log in            with the profile's certificate",
        "                    with user name and password, from the profile",
        "  routes            everything into the tunnel (def1)",
        "                    10.0.0.0/8",
        "  DNS               9.9.9.9",
        "                    search corp.example",
    ]


def test_proxies_are_told_without_their_passwords(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pass").write_text("bob\nproxy-password\n")
    (place / "client.ovpn").write_text(CLIENT + "proto-force tcp\nhttp-proxy 192.0.2.8 3128 pass\n")
    assert main(["check", str(place / "client.ovpn")]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "vpn.example.org port 443, tcp, through the HTTP proxy 192.0.2.8 port 3128 with a login\n" in out
    assert "proxy-password" not in out and "bob" not in out


def test_a_static_key_is_told_with_what_it_means(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "point.conf").write_text(
        "dev tun\nremote 192.0.2.7\nsecret ta.key 1\ncipher AES-256-CBC\nifconfig 10.1.0.2 10.1.0.1\n"
        "allow-deprecated-insecure-static-crypto\n"
    )
    assert main(["check", str(place / "point.conf")]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith(f"{place}/point.conf: usable as a static-key peer\n")
    assert "  other end         192.0.2.7 port 1194, udp over ipv4\n" in out
    assert "whoever learns it can read all that was recorded" in out and "AES-256-CBC with an HMAC of SHA1" in out


def test_a_server_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--strict", str(place / "server.conf")]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith(f"{place}/server.conf: usable as a server\n  listens on        every address port 443, udp\n")
    assert "  pushes            ping 10\n                    ping-restart 60\n" in out
    assert "the client is dropped after 120 s of silence" in out


def test_warnings_and_errors_have_their_place(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "client.ovpn").write_text(CLIENT + "fast-io\nremote\nfoo\n")
    assert main(["check", str(place / "client.ovpn")]) == ExitCode.CONFIG
    assert capsys.readouterr().out.splitlines() == [
        f"{place}/client.ovpn: not usable as a client",
        "warnings:",
        f"  {place}/client.ovpn:17: 'fast-io' has no effect: it tunes openvpn's own event loop",
        "errors:",
        f"  {place}/client.ovpn:18: 'remote' needs host: write remote HOST [PORT] [PROTOCOL]",
        "      | remote",
        f"  {place}/client.ovpn:19: unknown directive 'foo' (remove the line if the connection does not need it)",
    ]


def test_exit_codes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doubtful = place / "doubtful.ovpn"
    doubtful.write_text(CLIENT + "fast-io\n")
    assert main(["check", str(doubtful)]) == ExitCode.OK
    assert main(["check", "--strict", str(doubtful)]) == ExitCode.WARNINGS
    assert main(["check", "--strict", str(doubtful), str(place / "nowhere")]) == ExitCode.CONFIG
    assert main(["check", "--strict", str(place / "client.ovpn"), str(place / "server.conf")]) == ExitCode.OK
    assert main(["check", "--role", "server", str(place / "client.ovpn")]) == ExitCode.CONFIG
    assert main(["check"]) == ExitCode.CONFIG
    capsys.readouterr()


def test_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = place / "bad.ovpn"
    bad.write_text("fast-io\nfoo\nverb x\n")
    assert main(["check", "--json", str(place / "client.ovpn"), str(bad)]) == ExitCode.CONFIG
    first, second = json.loads(capsys.readouterr().out)
    assert first["usable"] and first["role"] == "client" and first["errors"] == []
    assert first["summary"]["servers"] == ["vpn.example.org port 443, tcp", "192.0.2.7 port 1194, udp over ipv4"]
    assert not second["usable"] and second["summary"] == {}
    assert second["errors"][:1] == [
        {
            "file": str(bad),
            "line": 2,
            "text": "",  # nobody knows whether it is a secret
            "problem": "unknown directive 'foo'",
            "fix": "remove the line if the connection does not need it",
        }
    ]
    assert second["errors"][1]["text"] == "verb x"


def test_a_key_of_another_certificate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "own.key").write_bytes(make_identity("other")[1])
    assert main(["check", str(place / "client.ovpn")]) == ExitCode.CONFIG
    assert "the private key belongs to none of the certificates" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["tls-cipher NONE-SUCH", "tls-groups none-such", "ecdh-curve none-such"])
def test_what_the_tls_library_refuses_has_its_line(place: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    path = place / "client.ovpn"
    path.write_text(CLIENT + line + "\n")
    assert main(["check", str(path)]) == ExitCode.CONFIG
    where, text = capsys.readouterr().out.splitlines()[-2:]
    assert where.startswith(f"  {path}:17: '{line.split()[0]}': ") and where.endswith(")"), "the line, why, and the fix"
    assert text == f"      | {line}"


def test_no_secret_is_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ("", "tls-crypt login\n", "ca own.key\n", "cert login\n", "key login\n", "tls-auth own.key\n"):
        (place / "client.ovpn").write_text(CLIENT + extra)
        for form in ([], ["--json"]):
            main(["check", *form, str(place / "client.ovpn")])
    shown = "".join(capsys.readouterr())
    lines = [line for name in ("own.key", "ta.key") for line in (place / name).read_text().splitlines()[4:-1]]
    assert lines and not [line for line in (*lines, "secret-password", "alice") if line in shown]


@pytest.mark.parametrize("content", [b"\x00\x01", b"\x1b]0;owned\x07", b"remote \x1b[31m\n", b"", b"\xff\xfe"])
def test_any_content_is_reported_in_printable_words(
    place: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (place / "odd").write_bytes(content)
    assert main(["check", str(place / "odd")]) == ExitCode.CONFIG
    out = capsys.readouterr().out
    assert "errors:" in out and "\x1b" not in out and "\x07" not in out


def test_a_directory_or_a_device_is_no_configuration(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(place), "/dev/zero", str(place / "nowhere")]) == ExitCode.CONFIG
    assert capsys.readouterr().out.count("cannot be read") == 3


def test_several_files_are_one_line_each_and_a_summary(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.ovpn").write_text("fast-io\nfoo\nbar\n")
    (place / "doubtful.ovpn").write_text(CLIENT + "fast-io\n")
    names = [str(place / name) for name in ("client.ovpn", "bad.ovpn", "doubtful.ovpn", "nowhere")]
    assert main(["check", *names]) == ExitCode.CONFIG
    assert capsys.readouterr().out.splitlines() == [
        f"{names[0]}: usable as a client",
        f"{names[1]}: not usable: 2: unknown directive 'foo' (remove the line if the connection does not need it)"
        " (and 1 more)",
        f"{names[2]}: usable as a client, 1 warnings",
        f"{names[3]}: not usable: cannot be read: No such file or directory",
        "4 files: 2 usable, 1 of them with warnings; 2 not usable",
    ]


def test_the_offending_line_is_shown_unless_it_may_be_secret(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, shown in (
        ("tun-mtu 99999999", True),
        ("auth-user-pass a b hunter2", False),
        ("hunter2", False),
        ("http-proxy h x hunter2", False),
    ):
        (place / "client.ovpn").write_text(CLIENT + line + "\n")
        assert main(["check", str(place / "client.ovpn")]) == ExitCode.CONFIG
        out = capsys.readouterr().out
        assert ("    | tun-mtu 99999999" in out) == shown and "\x1b" not in out
        assert shown or "hunter2\n" not in out.replace("'hunter2'", "")


def test_render_hides_secrets_and_inline_is_whole(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--render", str(place / "client.ovpn")]) == ExitCode.OK
    hidden = capsys.readouterr().out
    assert "<key>\n# (secret)\n</key>" in hidden and "secret-password" not in hidden and "BEGIN CERTIFICATE" in hidden
    assert main(["check", "--inline", str(place / "client.ovpn")]) == ExitCode.OK
    whole = capsys.readouterr().out
    assert "secret-password" in whole and "PRIVATE KEY" in whole and "ta.key" not in whole
    assert main(["check", "--render", "--show-secrets", str(place / "client.ovpn")]) == ExitCode.OK
    assert capsys.readouterr().out == whole
    (place / "alone").mkdir()
    (place / "alone" / "whole.ovpn").write_text(whole)
    assert main(["check", "--inline", str(place / "alone" / "whole.ovpn")]) == ExitCode.OK
    assert capsys.readouterr().out == whole


def test_a_static_key_is_rendered_as_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "point.key").write_text(STATIC_KEY_FILE)
    (place / "point.conf").write_text(STATIC.replace("ta.key", "point.key"))
    assert main(["check", "--render", str(place / "point.conf")]) == ExitCode.OK
    assert "<secret>\n# (secret)\n</secret>" in capsys.readouterr().out
    assert main(["check", "--inline", str(place / "point.conf")]) == ExitCode.OK
    (place / "alone.conf").write_text(capsys.readouterr().out)
    (place / "point.key").unlink()
    assert main(["check", str(place / "alone.conf")]) == ExitCode.OK


def test_a_password_that_no_directive_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "door").write_text("door\nword of the door\n")
    path = place / "socks.ovpn"
    path.write_text((place / "client.ovpn").read_text() + "socks-proxy door.example.org 1080 door\n")
    assert main(["check", "--inline", str(path)]) == ExitCode.CONFIG
    assert "'socks-proxy door.example.org 1080 FILE'" in capsys.readouterr().err
    assert main(["check", "--render", str(path)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "socks-proxy door.example.org 1080 # (secret)" in out and "word of the door" not in out


def test_what_is_not_usable_is_not_rendered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.ovpn").write_text("foo\n")
    assert main(["check", "--render", str(place / "bad.ovpn")]) == ExitCode.CONFIG
    shown = capsys.readouterr()
    assert shown.out == "" and "unknown directive 'foo'" in shown.err


def test_a_certificate_that_has_expired_is_warned_of(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = Made("old", life=timedelta(days=1))
    (place / "ca.crt").write_text(old.pem)
    (place / "own.key").write_text(old.key_pem())
    assert main(["check", "--strict", str(place / "client.ovpn")]) == ExitCode.WARNINGS
    assert "the certificate 'CN=old' of 'cert' expired on 2020-01-02" in capsys.readouterr().out
