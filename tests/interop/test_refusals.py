# SPDX-License-Identifier: BSD-2-Clause
"""Whoever is wrong is refused, the log says why, and our client ends with the documented exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.peers import OPENVPN, OURS, Case, client_config, server_config

ONCE = ("connect-retry-max 1", "connect-retry 1 1", "hand-window 5", "server-poll-timeout 5")
"""A client that gives up after one round instead of trying for ever."""


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_our_client_refuses_a_foreign_server(bench: Bench, tls: str) -> None:
    case = Case(tls=tls, client_lines=ONCE)
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN, identity=bench.pki.foreign_server))
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said(r"ended: certificate refused: 'CN=vpn\.example'.*issuer")


def test_our_client_refuses_another_name(bench: Bench) -> None:
    case = Case(client_lines=ONCE)
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS, name="other.example"))
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said(r"ended: certificate refused: .*wants name 'other\.example', it has 'vpn\.example'")


def test_our_client_refuses_a_client_certificate_as_server(bench: Bench) -> None:
    case = Case(client_lines=ONCE)
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN, identity=bench.pki.client))
    client = bench.client(OURS, client_config(case, bench.pki, OURS, name="qube-one"))
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said(r"ended: certificate refused: .*key usage")


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_client_with_a_foreign_certificate(bench: Bench, proto: str) -> None:
    """openvpn 2.6 tells why in its own log only: to the client it just goes silent, or closes the connection."""
    case = Case(proto=proto, tls="1.3", client_lines=ONCE)
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS, identity=bench.pki.foreign_client))
    assert client.wait_exit() == ExitCode.CONNECTION
    client.must_have_said("said nothing to our certificate: it may not accept it")
    server.wait_log("VERIFY ERROR")


def test_our_client_with_a_foreign_certificate_is_told_so_by_our_server(bench: Bench) -> None:
    case = Case(client_lines=ONCE)
    bench.server(OURS, server_config(case, bench.pki, OURS))
    client = bench.client(OURS, client_config(case, bench.pki, OURS, identity=bench.pki.foreign_client))
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said(r"ended: the server refuses our certificate: .*\(unknown ca\)")


@pytest.mark.parametrize("wrap", ["tls-auth", "tls-crypt"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_client_with_another_static_key(bench: Bench, proto: str, wrap: str) -> None:
    case = Case(proto=proto, wrap=wrap, client_lines=ONCE)
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN))
    client = bench.client(OURS, client_config(case, bench.pki, OURS, static=bench.pki.foreign_static))
    assert client.wait_exit() == ExitCode.CONNECTION
    client.must_have_said("tls-crypt key is another" if proto == "udp" else "the peer closed the connection")
    server.wait_log("packet authentication failed|HMAC authentication failed")


def _password_server(bench: Bench, case: Case) -> None:
    """An openvpn server that knows one user."""
    script = bench.folder / "check"
    script.write_text('#!/bin/sh\n[ "$(cat "$1")" = "$(printf "ada\\nright")" ]\n', encoding="ascii")
    script.chmod(0o755)
    lines = (f"auth-user-pass-verify {script} via-file", "script-security 2")
    bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN) + "\n".join(lines) + "\n")


def _login(folder: Path, password: str) -> str:
    path = folder / "login"
    path.write_text(f"ada\n{password}\n", encoding="ascii")
    path.chmod(0o600)
    return f"auth-user-pass {path}"


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_client_with_the_right_password(bench: Bench, proto: str) -> None:
    case = Case(proto=proto, client_lines=(*ONCE, _login(bench.folder, "right")))
    _password_server(bench, case)
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    client.wait_up()
    bench.exchange(10_000)
    assert client.stop() == 0


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_client_with_a_wrong_password(bench: Bench, proto: str) -> None:
    case = Case(proto=proto, client_lines=(*ONCE, _login(bench.folder, "wr0ng-secret")))
    _password_server(bench, case)
    client = bench.client(OURS, client_config(case, bench.pki, OURS))
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said(r"ended: .*refused .*password")
    assert "wr0ng-secret" not in client.log


def test_our_client_finds_nobody(bench: Bench) -> None:
    client = bench.client(OURS, client_config(Case(client_lines=ONCE), bench.pki, OURS))
    assert client.wait_exit() == ExitCode.CONNECTION
    client.must_have_said("no answer within 5 s")


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_our_server_refuses_a_foreign_client(bench: Bench, tls: str) -> None:
    case = Case(tls=tls)
    server = bench.server(OURS, server_config(case, bench.pki, OURS))
    client = bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN, identity=bench.pki.foreign_client))
    server.wait_log(r"192\.0\.2\.2:\d+ certificate refused: 'CN=qube-one'.*issuer")
    client.kill()
    good = bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN))
    good.wait_up()
    bench.exchange(10_000)


@pytest.mark.parametrize("wrap", ["tls-auth", "tls-crypt"])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_our_server_ignores_another_static_key(bench: Bench, proto: str, wrap: str) -> None:
    """Not one packet in answer: the client's first packet is not authentic. Why is told in the debug log only."""
    case = Case(proto=proto, wrap=wrap)
    server = bench.server(OURS, server_config(case, bench.pki, OURS), debug=True)
    client = bench.client(
        OPENVPN, client_config(case, bench.pki, OPENVPN, static=bench.pki.foreign_static) + "hand-window 3\n"
    )
    client.wait_log("TLS key negotiation failed|Connection reset|connection-reset|TLS Error")
    assert "TLS: Initial packet" not in client.log
    server.must_have_said("dropped.*(tls-auth|tls-crypt)")
    client.kill()
    bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN)).wait_up()
    assert server.process.poll() is None


def test_openvpn_refuses_our_server_under_another_name(bench: Bench) -> None:
    case = Case()
    server = bench.server(OURS, server_config(case, bench.pki, OURS))
    client = bench.client(OPENVPN, client_config(case, bench.pki, OPENVPN, name="other.example"))
    client.wait_log("VERIFY X509NAME ERROR")
    assert server.process.poll() is None
