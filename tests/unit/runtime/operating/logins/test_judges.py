# SPDX-License-Identifier: BSD-2-Clause
"""The judges of logins, each with its real means: a file of hashes, a real program, PAM itself; and abuse of each."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.cli.main import main
from qubes_miragevpn.config.model import Command, LoginRules, Method, Pam, PasswordFile
from qubes_miragevpn.protocol.contract import LoginAnswered, LoginJudged, LoginPending, VerifyLogin
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.operating.logins import judge as judge_module
from qubes_miragevpn.runtime.operating.logins import passwords
from qubes_miragevpn.runtime.operating.logins.judge import Judge

Reported = LoginJudged | LoginPending


def login(username: str = "ada", password: bytes = b"right", attempt: int = 1, **more: Any) -> VerifyLogin:
    given = {"common_name": "qube-one", "endpoint": ("192.0.2.7", 4000), "facts": ("IV_VER=2.6", "bad=1"), **more}
    return VerifyLogin(1, attempt, username, Secret(password), **given)


def judged(method: Method, folder: Path, *asked: VerifyLogin, answer: bytes = b"") -> list[Reported]:
    """What is reported until there are as many verdicts as questions."""
    reported: list[Reported] = []

    async def run() -> None:
        judge = Judge(LoginRules(method), folder, reported.append)
        for each in asked:
            judge.ask(each)
        answered = False
        async with asyncio.timeout(20):
            while sum(isinstance(each, LoginJudged) for each in reported) < len(asked):
                await asyncio.sleep(0.01)
                if answer and not answered and any(isinstance(each, LoginPending) for each in reported):
                    judge.answered(LoginAnswered(1, 1, Secret(answer)))
                    answered = True
        await judge.close()

    asyncio.run(run())
    return reported


def verdict(method: Method, folder: Path, asked: VerifyLogin) -> LoginJudged:
    (found,) = judged(method, folder, asked)
    assert isinstance(found, LoginJudged)
    return found


# --- a file -----------------------------------------------------------------------------------------------


def set_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, *more: str) -> int:
    reader, writer = os.pipe()
    os.write(writer, text.encode() + b"\n")
    os.close(writer)
    with os.fdopen(reader) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        return main(["passwd", str(tmp_path / "users"), name, *more])


def test_a_password_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", 10)
    for name, text in (("ada", "wrong"), ("ada", "right"), ("bob", "pass:word # é")):
        assert set_password(tmp_path, monkeypatch, name, text) == ExitCode.OK
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
    assert "right" not in (tmp_path / "users").read_text()
    method = PasswordFile("users")
    assert verdict(method, tmp_path, login()).granted
    assert verdict(method, tmp_path, login("bob", "pass:word # é".encode())).granted
    for username, password in (("ada", b"wrong"), ("ada", b""), ("eve", b"right"), ("", b""), ("ada:", b"right")):
        refused = verdict(method, tmp_path, login(username, password))
        assert not refused.granted and refused.told == "" and refused.why
    assert set_password(tmp_path, monkeypatch, "ada", "", "--remove") == ExitCode.OK
    assert not verdict(method, tmp_path, login()).granted
    assert set_password(tmp_path, monkeypatch, "ada", "", "--remove") == ExitCode.CONFIG


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", " a", "#a", "x" * 200, "a\x85b", "a\u2028b"])
def test_names_that_a_file_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        passwords.write(tmp_path / "users", name, Secret(b"x"))
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "secret",
        "$scrypt$ln=31,r=8,p=1$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=15,r=99,p=1$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=15,r=8,p=1$" + "A" * 22 + "$" + "A" * 20,
    ],
)
def test_hashes_that_nothing_matches(hashed: str) -> None:
    assert not passwords.matches(Secret(b"secret"), hashed)


def test_who_sets_a_password_waits_for_whoever_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would have read the file, and what the first has written would be lost."""
    monkeypatch.setattr(passwords, "COST", 4)
    writer = threading.Thread(target=passwords.write, args=(tmp_path / "users", "ada", Secret(b"right")))
    with disk.alone(tmp_path):
        writer.start()
        writer.join(0.5)
        assert writer.is_alive() and not (tmp_path / "users").exists()
    writer.join(20)
    assert (tmp_path / "users").exists()


@pytest.mark.parametrize("text", [None, "ada:plain\n", "no colon\n"])
def test_a_file_that_cannot_be_read_refuses(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "users").write_text(text)
    refused = verdict(PasswordFile("users"), tmp_path, login())
    assert not refused.granted and refused.why == "it cannot be judged"


# --- a program --------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Command]:
    def write(text: str, *, by_file: bool = False) -> Command:
        path = tmp_path / "judge"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return Command((str(path), "--strict"), by_file)

    return write


@pytest.mark.parametrize("by_file", [False, True])
def test_a_program_is_told_what_it_needs(tmp_path: Path, program: Callable[..., Command], by_file: bool) -> None:
    said = '"$username" "$common_name" "$untrusted_ip" "$untrusted_port" "$script_type" "$IV_VER" "$bad" "$1"'
    read = '{ read -r name; read -r word; } <"$2"; ' if by_file else 'word="$password"; '
    found = program(f"{read} printf '%s|' {said} \"$word\" >{tmp_path}/told; env >{tmp_path}/env", by_file=by_file)
    assert verdict(found, tmp_path, login()).granted
    told = (tmp_path / "told").read_text()
    assert told == "ada|qube-one|192.0.2.7|4000|user-pass-verify|2.6||--strict|right|"
    assert ("right" in (tmp_path / "env").read_text()) == (not by_file)
    assert not list(Path("/tmp").glob("miragevpn-login-*/login")), "the password's file is gone"


def test_a_program_that_refuses_says_why(tmp_path: Path, program: Callable[..., Command]) -> None:
    refused = verdict(program('echo "call us" >"$auth_failed_reason_file"; exit 1'), tmp_path, login())
    assert (refused.granted, refused.told) == (False, "call us")
    for text in ("exit 3", "kill -9 $$"):
        assert not verdict(program(text), tmp_path, login()).granted
    missing = verdict(Command((str(tmp_path / "none"),), by_file=False), tmp_path, login())
    assert missing.why == "it cannot be judged"


@pytest.mark.parametrize("username", ["a\nb", "a\x1b[31m", "a\x00b"])
def test_control_characters_never_reach_a_program(
    tmp_path: Path, program: Callable[..., Command], username: str
) -> None:
    refused = verdict(program(f"touch {tmp_path}/ran; exit 0"), tmp_path, login(username))
    assert not refused.granted and not (tmp_path / "ran").exists()


def test_a_verdict_that_comes_later(tmp_path: Path, program: Callable[..., Command]) -> None:
    assert verdict(program('(sleep 0.4; echo 1 >"$auth_control_file") & exit 2'), tmp_path, login()).granted
    refused = verdict(program('(echo 0 >"$auth_control_file") & exit 2'), tmp_path, login())
    assert not refused.granted


def test_a_question_and_its_answer(tmp_path: Path, program: Callable[..., Command]) -> None:
    text = """
if [ "$2" = response ]; then
    read -r answer <"$3"; [ "$answer" = NDI= ] && echo 1 >"$auth_control_file" || echo 0 >"$auth_control_file"; exit 0
fi
printf '90\\ncrtext\\nCR_TEXT:R,E:Code?\\n' >"$auth_pending_file"; exit 2"""
    for answer, granted in ((b"NDI=", True), (b"NDM=", False)):
        pending, found = judged(program(text), tmp_path, login(), answer=answer)
        assert pending == LoginPending(1, 1, 90.0, ("INFO_PRE,CR_TEXT:R,E:Code?",))
        assert isinstance(found, LoginJudged) and found.granted == granted


@pytest.mark.parametrize(
    "pending", ["x\\ny\\nz", "90\\ncrtext\\nPUSH_REPLY,route 0.0.0.0", "90\\ncrtext\\nCR_TEXT:a\\033b"]
)
def test_a_pending_file_that_is_none(tmp_path: Path, program: Callable[..., Command], pending: str) -> None:
    refused = verdict(program(f"printf '{pending}\\n' >\"$auth_pending_file\"; exit 2"), tmp_path, login())
    assert not refused.granted and refused.why == "it cannot be judged"


def test_a_program_that_does_not_end_is_ended(
    tmp_path: Path, program: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qubes_miragevpn.runtime.operating.logins.process.RUN_TIME", 2.0)
    refused = verdict(program(f"echo $$ >{tmp_path}/pid; sleep 60 & sleep 60"), tmp_path, login())
    assert (refused.granted, refused.why) == (False, "the judge took too long")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_many_at_once(tmp_path: Path, program: Callable[..., Command], monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are judged at once, so many wait, and the rest is refused at once."""
    monkeypatch.setattr(judge_module, "WAITING", 4)
    asked = [login(attempt=number) for number in range(20)]
    reported = judged(program("exit 0"), tmp_path, *asked)
    granted = [each for each in reported if isinstance(each, LoginJudged) and each.granted]
    assert len(reported) == 20 and len(granted) == judge_module.AT_ONCE + 4
    assert {each.why for each in reported if isinstance(each, LoginJudged) and not each.granted} == {
        "too many logins are being judged"
    }


def test_wrong_passwords_from_one_address_delay_nobody_elsewhere(
    tmp_path: Path, program: Callable[..., Command]
) -> None:
    """There are more than may be judged at once, and they take for ever; an honest login is judged all the same."""
    found = program('[ "$username" = ada ] && exit 0; sleep 60')
    reported: list[Reported] = []

    async def run() -> None:
        judge = Judge(LoginRules(found), tmp_path, reported.append)
        for attempt in range(64):
            judge.ask(login("guess", attempt=attempt))
        judge.ask(login("ada", attempt=64, endpoint=("198.51.100.1", 4000)))
        async with asyncio.timeout(30):
            while not reported:
                await asyncio.sleep(0.01)
        await judge.close()

    asyncio.run(run())
    assert reported == [LoginJudged(1, 64, True)]


def test_who_waits_keeps_nobody_from_being_judged(tmp_path: Path, program: Callable[..., Command]) -> None:
    """Many verdicts that come later, or never, leave room for the next one; who left is forgotten."""
    found = program('[ "$username" = quick ] && exit 0; exit 2')
    many = 2 * judge_module.AT_ONCE
    reported: list[Reported] = []

    async def run() -> None:
        judge = Judge(LoginRules(found), tmp_path, reported.append)
        for attempt in range(many):
            judge.ask(login("slow", attempt=attempt))
        judge.ask(login("quick", attempt=many))
        async with asyncio.timeout(20):
            while not reported:
                await asyncio.sleep(0.01)
        for attempt in range(many):
            judge.forget(1, attempt)
        judge.forget(1, many + 1)
        async with asyncio.timeout(20):
            while judge._tasks:
                await asyncio.sleep(0.01)
        assert judge._cases == {}
        await judge.close()

    asyncio.run(run())
    assert reported == [LoginJudged(1, many, True)]


def test_answers_are_bounded(tmp_path: Path, program: Callable[..., Command], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody guesses codes for as long as his login may take."""
    monkeypatch.setattr("qubes_miragevpn.runtime.operating.logins.program.MAX_ANSWERS", 3)
    found = program(f'[ "$2" = response ] && {{ echo >>{tmp_path}/guesses; exit 0; }}; exit 2')
    reported: list[Reported] = []

    async def run() -> None:
        judge = Judge(LoginRules(found), tmp_path, reported.append)
        judge.ask(login())
        async with asyncio.timeout(20):
            while not reported:
                judge.answered(LoginAnswered(1, 1, Secret(b"MTIz")))
                await asyncio.sleep(0.01)
        await judge.close()

    asyncio.run(run())
    assert reported == [LoginJudged(1, 1, False, "", "too many answers to one question")]
    assert (tmp_path / "guesses").read_text() == "\n" * 3


# --- PAM ----------------------------------------------------------------------------------------------------

PAM = """\
import sys
from qubes_miragevpn.runtime.operating.logins.pam import authenticate
sys.exit(authenticate({!r}, {!r}, {!r}))
"""


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("service", "password", "code"), [("lab-vpn", b"right", 0), ("lab-vpn", b"wrong", 1), ("lab-none", b"right", 1)]
)
def test_pam(tmp_path: Path, service: str, password: bytes, code: int) -> None:
    """Against the real PAM, with accounts and services of this test's own: /etc is covered for it alone."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "right"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    (tmp_path / "pam.d").mkdir()
    (tmp_path / "pam.d" / "lab-vpn").write_text("auth required pam_unix.so\naccount required pam_unix.so\n")
    (tmp_path / "pam.d" / "other").write_text("auth required pam_deny.so\naccount required pam_deny.so\n")
    passwd, shadow = tmp_path / "passwd", tmp_path / "shadow"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nada:x:4242:4242::/:/bin/false\n")
    shadow.write_text(f"root:*:19000::::::\nada:{hashed}:19000:0:99999:7:::\n")
    cover = "; ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("pam.d", "passwd", "shadow"))
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{cover}; exec "$@"', "sh", sys.executable, "-c",
         PAM.format(service, b"ada", password)],
        check=False,
    )  # fmt: skip
    assert ran.returncode == code


def test_pam_imports_nothing_from_where_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be anybody's: what lies there under a module's name is not run."""
    (tmp_path / "ctypes.py").write_text("import sys; sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    assert not verdict(Pam("lab-none"), tmp_path, login()).granted
