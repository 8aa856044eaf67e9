# SPDX-License-Identifier: BSD-2-Clause
"""Our client's login at an openvpn 2.6 server, judged by its management interface and by a script."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from tests.interop.conftest import Bench
from tests.interop.login.desk import Desk, Person, login_file
from tests.interop.peers import OPENVPN, OURS, Case, Peer, client_config, server_config

UDP, TCP = Case(wrap="tls-crypt"), Case(proto="tcp", wrap="tls-crypt-v2")
CASES = pytest.mark.parametrize("case", [UDP, TCP], ids=["udp", "tcp"])


@pytest.fixture
def closing() -> Iterator[list[Desk | Person]]:
    opened: list[Desk | Person] = []
    yield opened
    for each in opened:
        each.close()


def at_the_desk(bench: Bench, closing: list[Desk | Person], case: Case, *lines: str) -> tuple[Desk, Peer]:
    """A desk, and our client with name and password from a file."""
    desk = Desk(bench, case)
    closing.append(desk)
    config = client_config(case, bench.pki, OURS) + "\n".join((login_file(bench.folder), *lines)) + "\n"
    return desk, bench.client(OURS, config)


@CASES
def test_denied_with_a_reason(bench: Bench, closing: list[Desk | Person], case: Case) -> None:
    desk, client = at_the_desk(bench, closing, case)
    visit = desk.visit()
    assert (visit.username, visit.password) == ("ada", "right")
    desk.deny(visit, "account closed")
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said("ended: the server refused user name, password or certificate: account closed")


@CASES
def test_not_now(bench: Bench, closing: list[Desk | Person], case: Case) -> None:
    desk, client = at_the_desk(bench, closing, case)
    desk.deny(desk.visit(), "TEMP[backoff 2,advance no]:come back")
    client.wait_log("the server cannot log us in at the moment: come back")
    client.wait_log("next try in 2 s")
    desk.accept(desk.visit())
    client.wait_up()
    bench.exchange(5_000)


@CASES
def test_a_question_before_the_login(bench: Bench, closing: list[Desk | Person], case: Case) -> None:
    desk = Desk(bench, case)
    person = Person.of(bench, case, login_file(bench.folder))
    closing += [desk, person]
    state = "Om01u7Fh4LrGBS7uh0SWmzwabUiGiW6l"
    desk.deny(desk.visit(), f"CRV1:R,E:{state}:{base64.b64encode(b'ada').decode()}:Please enter token PIN")
    person.type("Please enter token PIN ", "8675309")
    visit = desk.visit()
    assert (visit.username, visit.password) == ("ada", f"CRV1::{state}::8675309")
    desk.accept(visit)
    person.client.wait_up()
    bench.exchange(5_000)


@CASES
def test_a_question_during_the_login(bench: Bench, closing: list[Desk | Person], case: Case) -> None:
    desk = Desk(bench, case)
    person = Person.of(bench, case, login_file(bench.folder))
    closing += [desk, person]
    visit = desk.visit()
    desk.say(f'client-pending-auth {visit.client} {visit.key} "CR_TEXT:R:Code from the app?" 90')
    person.type("Code from the app\\? ", "424242")
    person.client.must_have_said("waits for the login to be completed, 90 s at most")
    answer = desk.visit()
    assert answer.event == "CR_RESPONSE" and base64.b64decode(answer.rest) == b"424242"
    desk.accept(visit)
    person.client.wait_up()
    bench.exchange(5_000)
    assert "424242" not in person.client.log


def test_an_address_to_open(bench: Bench, closing: list[Desk | Person]) -> None:
    desk, client = at_the_desk(bench, closing, UDP)
    visit = desk.visit()
    desk.say(f'client-pending-auth {visit.client} {visit.key} "WEB_AUTH::https://login.example/?id=7" 30')
    client.wait_log("log in with a browser, at https://login\\.example/\\?id=7")
    desk.accept(visit)
    client.wait_up()


def test_nobody_to_answer(bench: Bench, closing: list[Desk | Person]) -> None:
    desk, client = at_the_desk(bench, closing, UDP)
    desk.deny(desk.visit(), "CRV1:R,E:state:YWRh:Please enter token PIN")
    assert client.wait_exit() == ExitCode.AUTH
    client.must_have_said("ended: a question of the login has no answer: nobody is there to be asked: .*token PIN")


@pytest.mark.parametrize("form", ["scrv1", "concat"])
def test_static_challenge(bench: Bench, closing: list[Desk | Person], form: str) -> None:
    desk = Desk(bench, UDP)
    extra = "" if form == "scrv1" else " concat"
    person = Person.of(bench, UDP, "auth-user-pass", f'static-challenge "One-time code:" 1{extra}')
    closing += [desk, person]
    person.type("User name: ", "ada")
    person.type("Password: ", "right")
    person.type("One-time code: ", "123")
    visit = desk.visit()
    encoded = [base64.b64encode(text).decode() for text in (b"right", b"123")]
    assert visit.username == "ada"
    assert visit.password == (f"SCRV1:{encoded[0]}:{encoded[1]}" if form == "scrv1" else "right123")
    desk.accept(visit)
    person.client.wait_up()


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_a_servers_token(bench: Bench, proto: str) -> None:
    """openvpn's own tokens, through renegotiations: the script sees the password once."""
    case = Case(proto=proto, server_lines=("reneg-sec 2",))
    seen = bench.folder / "seen"
    script = bench.folder / "check"
    script.write_text(f'#!/bin/sh\necho "$(cat "$1" | tr "\\n" " ")" >> {seen}\nexit 0\n', encoding="ascii")
    script.chmod(0o755)
    lines = (f"auth-user-pass-verify {script} via-file", "script-security 2", "auth-gen-token 3600 600")
    server = bench.server(OPENVPN, server_config(case, bench.pki, OPENVPN) + "\n".join(lines) + "\n")
    client = bench.client(OURS, client_config(case, bench.pki, OURS) + login_file(bench.folder) + "\n")
    client.wait_up()
    server.wait("renegotiations", lambda: server.log.count("Control Channel: TLSv") > 2)
    bench.exchange(5_000)
    assert seen.read_text().split("\n")[:-1] == ["ada right "], seen.read_text()
    assert "SESS_ID" not in client.log
    assert client.stop() == 0
