# SPDX-License-Identifier: BSD-2-Clause
"""openvpn's client, and ours, log in at our server: a password file, a program, tokens, and no certificate at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.runtime.operating.logins import passwords
from tests.interop.conftest import Bench
from tests.interop.login.desk import login_file
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config

UDP = Case(wrap="tls-crypt")
WITHOUT = ("cert", "key")


def our_server(bench: Bench, *lines: str) -> Peer:
    passwords.write(bench.folder / "users", "ada", Secret(b"right"))
    return bench.server(OURS, server_config(UDP, bench.pki, OURS) + "\n".join(lines) + "\n")


def visitor(bench: Bench, kind: str, *lines: str, certificate: bool = True) -> Peer:
    text = client_config(UDP, bench.pki, kind)
    for name in () if certificate else WITHOUT:
        begin, end = text.index(f"<{name}>"), text.index(f"</{name}>") + len(f"</{name}>")
        text = text[:begin] + text[end:]
    return bench.client(kind, text + "\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", [OPENVPN, OURS])
def test_a_token_carries_through_renegotiations(bench: Bench, kind: str) -> None:
    """The server renews its keys every few seconds; the password was asked for once, the file is gone since."""
    server = our_server(bench, "auth-user-pass-file users", "auth-gen-token 0 60", "reneg-sec 4")
    client = visitor(bench, kind, login_file(bench.folder), "auth-nocache")
    client.wait_up()
    (bench.folder / "users").unlink()
    bench.exchange(5_000)
    server.wait("two renegotiations", lambda: renegotiated(client, kind) >= 2)
    bench.exchange(5_000)
    assert "is refused" not in server.log


def renegotiated(client: Peer, kind: str) -> int:
    if kind == OPENVPN:
        return client.log.count("Control Channel: TLSv1.3") - 1
    return client.log.count("renegotiated (key id")


@pytest.mark.parametrize("kind", [OPENVPN, OURS])
def test_a_wrong_password(bench: Bench, kind: str) -> None:
    server = our_server(bench, "auth-user-pass-file users")
    (bench.folder / "login").write_text("ada\nguess\n")
    client = visitor(bench, kind, "auth-user-pass login")
    client.wait_exit()
    client.must_have_said("AUTH_FAILED" if kind == OPENVPN else "the server refused user name, password")
    server.wait_log(r"qube-one/192\.0\.2\.2:\d+ is refused: wrong password")


def test_a_program_and_no_certificate(bench: Bench) -> None:
    """The name and the password are all there is; the program says yes after a while, and to nobody else."""
    judge = Path(bench.folder / "judge")
    judge.write_text('#!/bin/sh\n(sleep 1; [ "$username/$password" = ada/right ] && echo 1 || echo 0)'
                     ' >"$auth_control_file" 2>/dev/null & exit 2\n')  # fmt: skip
    judge.chmod(0o755)
    server = our_server(bench, f"auth-user-pass-verify {judge} via-env", "verify-client-cert none")
    client = visitor(bench, OPENVPN, login_file(bench.folder), certificate=False)
    client.wait_up()
    bench.exchange(5_000)
    server.wait_log(r"ada/192\.0\.2\.2:\d+ has 10\.99\.0\.2")
