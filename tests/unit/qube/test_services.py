# SPDX-License-Identifier: BSD-2-Clause
"""The qrexec services: their table, the programs run as the agent runs them, and what dom0 is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.cli import rpc
from qubes_miragevpn.qube.rpc.control import ControlServer, Refused
from qubes_miragevpn.qube.rpc.messages import VERBS, Request
from qubes_miragevpn.qube.rpc.services import SERVICES, BadCall, check_call, find

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = REPOSITORY / "qubes-rpc"
POLICY = REPOSITORY / "install" / "dom0" / "90-default-miragevpn.policy"


LOCAL = {"rename", "default"}
"""Verbs for those alone who are in sys-vpn."""

ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "status": {"": {}, "vpn1": {"tunnel": "vpn1"}},
    "details": {"": {}},
    "profiles": {"": {}},
    "switch": {
        "se-1.fast_2": {"name": "se-1.fast_2"},
        "se-1+rollback": {"name": "se-1", "rollback": True},
        "se-1+vpn15": {"name": "se-1", "tunnel": "vpn15"},
        "vpn1+vpn1+rollback": {"name": "vpn1", "tunnel": "vpn1", "rollback": True},
    },
    "connect": {"": {}, "vpn1": {"tunnel": "vpn1"}},
    "disconnect": {"": {}, "vpn1": {"tunnel": "vpn1"}},
    "assign": {
        "10.137.0.21+vpn1": {"address": "10.137.0.21", "tunnel": "vpn1"},
        "10.137.0.21+default": {"address": "10.137.0.21"},
    },
    "remove-tunnel": {"vpn1": {"tunnel": "vpn1"}, "vpn15+default": {"tunnel": "vpn15", "release": True}},
    "answer": {"": {}, "vpn1": {"tunnel": "vpn1"}},
    "events": {"": {}},
    "log": {"": {}},
    "import": {"se-1": {"name": "se-1"}},
    "remove": {"se-1": {"name": "se-1"}},
    "credentials": {"se-1": {"name": "se-1"}},
}
"""Good arguments of every service, by verb, and the fields that they become."""


def environment(name: str, argument: str = "", caller: str = "work") -> dict[str, str]:
    return {
        "QREXEC_REMOTE_DOMAIN": caller,
        "QREXEC_SERVICE_FULL_NAME": f"{name}+{argument}",
        "QREXEC_SERVICE_ARGUMENT": argument,
    }


# --- the table --------------------------------------------------------------------------------------------


def test_every_verb_has_one_service_and_a_program() -> None:
    assert {row.verb for row in SERVICES} | LOCAL == set(VERBS)
    assert not LOCAL & {row.verb for row in SERVICES}
    assert {row.name for row in SERVICES} == {path.name for path in PROGRAMS.iterdir()}


def test_the_programs_are_two_lines() -> None:
    for row in SERVICES:
        path = PROGRAMS / row.name
        assert path.read_text() == f'#!/bin/sh\nexec "${{MIRAGEVPN:-miragevpn}}" rpc {row.name} "$@"\n'
        assert path.stat().st_mode & 0o111 == 0o111  # what else there is depends on the umask of the clone


def test_the_policy_is_the_tables() -> None:
    """Deny by default, and ask where the table says so; qubes-policy refuses a comment behind a rule."""
    lines = [line.split() for line in POLICY.read_text().splitlines() if line and not line.startswith("#")]
    for row in SERVICES:
        mine = [line for line in lines if line[0] == row.name]
        assert mine == [[row.name, "*", "@anyvm", "@anyvm", "deny"]] and row.policy == "deny"
    assert {line[0] for line in lines} == {row.name for row in SERVICES}
    assert "#" not in "".join("".join(line) for line in lines)


def test_the_policy_has_an_example_for_every_service() -> None:
    """Commented out, and a rule as it stands behind the comment sign."""
    lines = [line[1:].split() for line in POLICY.read_text().splitlines() if line.startswith("# miragevpn.")]
    assert sorted(line[0] for line in lines) == sorted(row.name for row in SERVICES)
    for line in lines:
        _, argument, source, target, action, *options = line
        assert argument == "*" or argument.startswith("+")
        assert source in ("mgmt-vpn", "@tag:miragevpn-client") and target in ("@default", "@tag:miragevpn")
        assert (action, options) in (
            ("allow", []), ("allow", ["target=sys-vpn"]), ("ask", ["default_target=sys-vpn"])
        ), line  # fmt: skip


def test_every_service_has_a_configuration() -> None:
    """The same for each: no session is waited for, and nobody but the default user runs it."""
    assert (REPOSITORY / "install" / "vm" / "rpc-config" / "miragevpn").read_text() == "wait-for-session=0\n"
    told = subprocess.run(
        ["make", "--no-print-directory", "-n", "install-vm", "DESTDIR=/x", "PYTHON_SITE=/y"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = next(line for line in told.splitlines() if line.startswith("for service in "))
    assert set(names.removeprefix("for service in ").split(";")[0].split()) == {row.name for row in SERVICES}
    assert "install/vm/rpc-config/miragevpn /x/etc/qubes/rpc-config/$service" in told


def test_the_document_is_the_tables() -> None:
    """The wire contract names every service with its argument, its limit and its default policy."""
    lines = (REPOSITORY / "doc" / "rpc.md").read_text().splitlines()
    for row in SERVICES:
        argument = f"`{row.argument}`" if row.argument else "none"
        assert f"| `{row.name}` | {argument} | {row.payload} | {row.policy} | {row.reply} |" in lines
    assert sum(line.startswith("| `miragevpn.") for line in lines) == len(SERVICES)


# --- what is checked of a call ----------------------------------------------------------------------------


@pytest.mark.parametrize("row", SERVICES, ids=lambda row: row.name)
def test_good_calls(row: Any) -> None:
    for argument, fields in ARGUMENTS[row.verb].items():
        words = [argument] if argument else []
        expected = Request(row.verb, **fields, caller="work")
        assert check_call(row.name, words, environment(row.name, argument)) == expected
        assert check_call(row.name, words, {"QREXEC_REMOTE_DOMAIN": "work"}) == expected, "an agent older than 4.1"


BAD_CALLS = {
    "another service": ("miragevpn.Nothing", [], environment("miragevpn.Nothing")),
    "no caller": ("miragevpn.Status", [], {}),
    "an odd caller": ("miragevpn.Status", [], environment("miragevpn.Status", caller="a;b")),
    "a long caller": ("miragevpn.Status", [], environment("miragevpn.Status", caller="a" * 65)),
    "an argument too many": ("miragevpn.Status", ["x"], environment("miragevpn.Status", "x")),
    "two arguments": ("miragevpn.Switch", ["a", "b"], environment("miragevpn.Switch", "a")),
    "no argument": ("miragevpn.Switch", [], environment("miragevpn.Switch")),
    "dots": ("miragevpn.Switch", [".."], environment("miragevpn.Switch", "..")),
    "inner dots": ("miragevpn.Switch", ["a..b"], environment("miragevpn.Switch", "a..b")),
    "an option": ("miragevpn.Switch", ["--json"], environment("miragevpn.Switch", "--json")),
    "a path": ("miragevpn.Switch", ["a/b"], environment("miragevpn.Switch", "a/b")),
    "a line break": ("miragevpn.Switch", ["a\n"], environment("miragevpn.Switch", "a\n")),
    "a long one": ("miragevpn.Switch", ["a" * 65], environment("miragevpn.Switch", "a" * 65)),
    "a word that is not known": ("miragevpn.Switch", ["a+roll"], environment("miragevpn.Switch", "a+roll")),
    "a word too many": ("miragevpn.Switch", ["a+rollback+x"], environment("miragevpn.Switch", "a+rollback+x")),
    "words in another order": (
        "miragevpn.Switch",
        ["a+rollback+vpn1"],
        environment("miragevpn.Switch", "a+rollback+vpn1"),
    ),
    "a tunnel too many": ("miragevpn.Connect", ["vpn16"], environment("miragevpn.Connect", "vpn16")),
    "no tunnel": ("miragevpn.Assign", ["10.137.0.1"], environment("miragevpn.Assign", "10.137.0.1")),
    "no address": ("miragevpn.Assign", ["work+vpn1"], environment("miragevpn.Assign", "work+vpn1")),
    "an odd address": ("miragevpn.Assign", ["10.137.1+vpn1"], environment("miragevpn.Assign", "10.137.1+vpn1")),
    "an empty word": ("miragevpn.Switch", ["a+"], environment("miragevpn.Switch", "a+")),
    "words where one goes": ("miragevpn.ImportProfile", ["a+b"], environment("miragevpn.ImportProfile", "a+b")),
    "another in the environment": ("miragevpn.Switch", ["a"], environment("miragevpn.Switch", "b")),
    "another name": ("miragevpn.Status", [], environment("miragevpn.Connect")),
}


@pytest.mark.parametrize(("name", "words", "environ"), BAD_CALLS.values(), ids=list(BAD_CALLS))
def test_bad_calls(name: str, words: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(BadCall):
        check_call(name, words, environ)


# --- the programs -----------------------------------------------------------------------------------------


class Fake:
    """A service on a thread: answers every request with what it was, and refuses the profile "gone"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[Request] = []
        self._ready, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._ready.wait()

    async def _answer(self, request: Request) -> Any:
        self.requests.append(request)
        if request.name == "gone":
            raise Refused("there is no such profile")
        return {"verb": request.verb}

    async def _run(self) -> None:
        server = ControlServer(self.path, "", self._answer)
        await server.start()
        self._ready.set()
        await asyncio.to_thread(self._end.wait)
        await server.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    made = Fake(tmp_path / "control.sock")
    yield made
    made.close()


def run_program(
    tmp_path: Path, name: str, argument: str = "", caller: str = "work", data: bytes = b""
) -> tuple[int, str, str]:
    """As the agent does: through a login shell, argv[1] only if there is an argument, and its environment."""
    entry = tmp_path / "bin" / "miragevpn"
    if not entry.exists():
        entry.parent.mkdir()
        entry.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m qubes_miragevpn "$@"\n')
        entry.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@"', str(PROGRAMS / name), *([argument] if argument else [])],
        env={
            "PATH": f"{entry.parent}:{os.environ['PATH']}",
            "MIRAGEVPN_CONTROL_SOCKET": str(tmp_path / "control.sock"),
            **environment(name, argument, caller),
        },
        input=data, capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("row", SERVICES, ids=lambda row: row.name)
def test_programs(row: Any, fake: Fake, tmp_path: Path) -> None:
    argument, fields = next(iter(ARGUMENTS[row.verb].items()))
    code, output, complaint = run_program(tmp_path, row.name, argument, data=b"handed in")
    assert (json.loads(output.splitlines()[0]), complaint) == ({"verb": row.verb}, "")
    # the stand-in answers once and closes; one who listens is told that the service ended
    assert code == (ExitCode.NO_SERVICE if row.verb == "events" else ExitCode.OK)
    payload = b"handed in" if row.payload else b""
    assert fake.requests == [Request(row.verb, **fields, caller="work", payload=payload)]


@pytest.mark.parametrize(
    ("name", "argument", "caller"),
    [
        ("miragevpn.Status", "x", "work"),
        ("miragevpn.Switch", "", "work"),
        ("miragevpn.Switch", "--help", "work"),
        ("miragevpn.Switch", "--debug", "work"),
        ("miragevpn.Switch", "-h", "work"),
        ("miragevpn.Switch", "--", "work"),
        ("miragevpn.Switch", "..", "work"),
        ("miragevpn.Connect", "", "no body"),
    ],
)
def test_refusals_say_little(name: str, argument: str, caller: str, fake: Fake, tmp_path: Path) -> None:
    """The same few words for every reason, and nothing on standard error, which the caller would read."""
    assert run_program(tmp_path, name, argument, caller) == (ExitCode.REFUSED, '{"error": "refused"}\n', "")
    assert fake.requests == []


def test_a_refusal_of_the_service(fake: Fake, tmp_path: Path) -> None:
    assert run_program(tmp_path, "miragevpn.Switch", "gone") == (ExitCode.REFUSED, '{"error": "refused"}\n', "")


def test_a_refusal_of_what_was_handed_in_is_explained(fake: Fake, tmp_path: Path) -> None:
    """It is about the caller's own input, and without a reason nobody could mend it."""
    code, output, complaint = run_program(tmp_path, "miragevpn.ImportProfile", "gone", data=b"x")
    assert (code, complaint) == (ExitCode.REFUSED, "")
    assert json.loads(output) == {"error": "refused", "reason": "there is no such profile"}


def test_who_listens_and_leaves_is_let_go(fake: Fake, tmp_path: Path) -> None:
    """The program ends when nobody reads its output any more, though nothing happens."""
    from qubes_miragevpn.qube.rpc.client import listen

    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        found = listen(tmp_path / "silent.sock", Request("events"), writer)
        os.close(reader)
        assert list(found) == []
    os.close(writer)


def test_few_hand_something_in_at_once(tmp_path: Path) -> None:
    """Callers that stall fill no memory, and leave dom0 its places; who ends makes room."""
    service = tmp_path / "control.sock"
    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        for number in range(rpc.MAX_INPUTS):
            (stack if number else first).enter_context(rpc._place(service, False))
        with pytest.raises(BadCall, match="too many"), rpc._place(service, False):
            pass
        for _ in range(rpc.FOR_DOM0):
            stack.enter_context(rpc._place(service, True))
        with pytest.raises(BadCall, match="too many"), rpc._place(service, True):
            pass
        with rpc._place(tmp_path / "another.sock", False):
            first.close()
        stack.enter_context(rpc._place(service, False))


def test_input_is_bounded(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("miragevpn.ImportProfile", "miragevpn.SetCredentials"):
        data = b"x" * (VERBS[find(name).verb].payload + 1)
        assert run_program(tmp_path, name, "a", data=data) == (ExitCode.REFUSED, '{"error": "refused"}\n', "")
    assert fake.requests == []
    reader, writer = os.pipe()
    monkeypatch.setattr(rpc, "INPUT_TIME", 0.05)
    monkeypatch.setattr(sys, "stdin", os.fdopen(reader, "rb"))
    os.write(writer, b"never the end")
    with pytest.raises(BadCall, match="in time"):
        rpc._input(100)
    os.close(writer)
    sys.stdin.close()


def test_no_service(tmp_path: Path) -> None:
    assert run_program(tmp_path, "miragevpn.Status") == (ExitCode.NO_SERVICE, '{"error": "no service"}\n', "")


def test_commands(fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same verbs for people."""
    from qubes_miragevpn.cli.main import main

    monkeypatch.setenv("MIRAGEVPN_CONTROL_SOCKET", str(fake.path))
    assert main(["status"]) == 0 and capsys.readouterr().out == "verb       status\n"
    assert main(["switch", "--json", "se-1"]) == 0 and json.loads(capsys.readouterr().out) == {"verb": "switch"}
    assert main(["switch", "gone"]) == ExitCode.REFUSED and "no such profile" in capsys.readouterr().err
    assert main(["switch", "../x"]) == ExitCode.CONFIG
    monkeypatch.setenv("MIRAGEVPN_CONTROL_SOCKET", f"{fake.path}.none")
    assert main(["connect"]) == ExitCode.NO_SERVICE and "not running" in capsys.readouterr().err
    assert fake.requests == [Request("status"), Request("switch", "se-1"), Request("switch", "gone")]
