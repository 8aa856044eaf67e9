# SPDX-License-Identifier: BSD-2-Clause
"""The commands that ask a VPN qube, over qrexec as far as a double can be it; and qubes that answer badly."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qubes_miragevpn.admin.commands import tunnel
from qubes_miragevpn.admin.main import main
from qubes_miragevpn.admin.talking import service
from tests.unit.admin.dom0 import DENIED, Dom0
from tests.unit.admin.test_replies import DETAILS, PROFILES, STATUS

VPN = "sys-vpn"


NONE = {"profiles": [], "current": None, "default": None}


def running(dom0: Dom0, state: str = "Running") -> None:
    dom0.has(VPN, "admin.vm.List", "", f"{VPN} class=AppVM state={state}\n")


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Standard input that is no terminal."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(data)))


@pytest.mark.parametrize(
    ("words", "service_name", "reply", "payload", "said"),
    [
        (["status"], "Details+", DETAILS, b"", "vpn0   connected   office               since 2026-01-02T03:04:05Z"),
        (["status", "--json"], "Details+", DETAILS, b"", '"assigned": {"10.137.0.20": "vpn1"}'),
        (["log"], "Log+", {"lines": ["one", "two\x1b[2J"]}, b"", "one\ntwo\\x1b[2J\n"),
        (["profiles"], "Profiles+", PROFILES, b"", "* a\n  b-2.x\n"),
        (["profiles"], "Profiles+", NONE, b"", "no profiles: `qvm-miragevpn import NAME SOURCE`"),
        (["profiles", "--json"], "Profiles+", PROFILES, b"", '"profiles": ["a", "b-2.x"]'),
        (["delete", "a"], "RemoveProfile+a", {"profile": "a"}, b"", "a is gone"),
        (["switch", "b"], "Switch+b", STATUS, b"", "vpn0   connected"),
        (["switch", "b", "vpn2", "--rollback"], "Switch+b+vpn2+rollback", STATUS, b"", "vpn2   connected"),
        (["connect"], "Connect+", STATUS, b"", "vpn0   connected"),
        (["disconnect", "vpn1"], "Disconnect+vpn1", STATUS, b"", "vpn1   connected"),
        (["remove-tunnel", "vpn1"], "RemoveTunnel+vpn1", {"tunnel": "vpn1"}, b"", "vpn1 is gone"),
        (["remove-tunnel", "vpn1", "--default"], "RemoveTunnel+vpn1+default", {"tunnel": "vpn1"}, b"", "vpn1 is gone"),
        (["credentials", "a"], "SetCredentials+a", {"credentials": "set"}, b"me\nword\n", "credentials of a: set"),
        (["credentials", "a", "--forget"], "SetCredentials+a", {"credentials": "forgotten"}, b"", "a: forgotten"),
        (["answer", "vpn1"], "Answer+vpn1", {"answered": True}, b"123456\n", "answered"),
    ],
)  # fmt: skip
def test_commands(
    dom0: Dom0, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    words: list[str], service_name: str, reply: Any, payload: bytes, said: str,
) -> None:  # fmt: skip
    typed(monkeypatch, payload)
    running(dom0)
    dom0.service(VPN, f"miragevpn.{service_name}", reply, payload=payload)
    assert main(words) == 0
    assert said in capfd.readouterr().out
    # In dom0 qubesadmin itself starts the qube before it calls a service; no policy speaks of that.
    beyond = dom0.beyond_policy(words[0], VPN, [], "debian-13")
    assert [key for key in beyond if key[1] != "admin.vm.Start" or not dom0.in_dom0] == []


@pytest.mark.parametrize(
    ("assigned", "said"),
    [
        ({}, "uses vpn0"),
        ({"10.137.0.20": "vpn15"}, "uses vpn15"),
        ({"10.137.0.20": "vpn1"}, "closed: there is no vpn1"),
        ({"10.137.0.20": "vpn15", "fd09:24ef:4179::a89:14": "vpn0"}, "closed: assigned to vpn0 and vpn15"),
    ],
)
def test_status_says_what_a_qube_uses_by_each_of_its_addresses(
    dom0: Dom0, capfd: pytest.CaptureFixture[str], assigned: dict[str, str], said: str
) -> None:
    """Both go where the one that was assigned goes, or nowhere; nobody is told a tunnel that is not used."""
    running(dom0)
    dom0.service(VPN, "miragevpn.Details+", {**DETAILS, "assigned": assigned})
    assert main(["status"]) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "vif12.0" in line]
    assert [line.split("vif12.0")[1].strip() for line in lines] == [said, said]


def test_import_hands_bytes_on(dom0: Dom0, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "any"
    file.write_bytes(bytes(range(256)) * 4096)  # exactly as much as may be
    running(dom0)
    dom0.service(VPN, "miragevpn.ImportProfile+a", {"profile": "a", "warnings": ["\x1b[2J"]}, payload=file.read_bytes())
    assert main(["import", "a", str(file)]) == 0
    assert capfd.readouterr().out == "warning: \\x1b[2J\nstored as a; to connect by it: qvm-miragevpn switch a\n"


def test_import_of_too_much(dom0: Dom0, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "any"
    file.write_bytes(b"x" * ((1 << 20) + 1))
    running(dom0)
    assert main(["import", "a", str(file)]) == 2
    assert "larger than" in capfd.readouterr().err


def test_a_management_qube_reads_no_other_qubes_files(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    running(dom0)
    if dom0.in_dom0:
        dom0.service("work", "qubes.VMExec+head+--c+1048577+----+a.ovpn", b"", code=1)
    assert main(["import", "a", "work:a.ovpn"]) == (2 if dom0.in_dom0 else 7)
    assert ("could not read" if dom0.in_dom0 else "only dom0") in capfd.readouterr().err


def test_a_refusal_is_explained(dom0: Dom0, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.ovpn"
    file.write_bytes(b"dev tap\n")
    running(dom0)
    reply = {"error": "refused", "reason": "a.ovpn:1: dev tap is not supported"}
    dom0.service(VPN, "miragevpn.ImportProfile+a", reply, code=7, payload=b"dev tap\n")
    assert main(["import", "a", str(file)]) == 7
    assert "a.ovpn:1: dev tap is not supported" in capfd.readouterr().err


@pytest.mark.parametrize("state", ["Halted", "Paused", "Transient"])
def test_asking_starts_no_qube(dom0: Dom0, capfd: pytest.CaptureFixture[str], state: str) -> None:
    running(dom0, state)
    assert main(["status"]) == 6
    assert f"sys-vpn does not run ({state.lower()})\n  next: qvm-start sys-vpn" in capfd.readouterr().err


def test_a_qube_that_is_not_there(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    dom0.expect("x", "admin.vm.List", "", b"2\0QubesVMNotFoundError\0\0No such domain: %s\0x\0")
    assert main(["status", "--vpn", "x"]) == 7
    assert "No such domain: x" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        (126, 7, "policy does not let this qube call miragevpn.Details"),
        (127, 6, "has no miragevpn.Details"),
        (125, 6, "could not be called"),
        (255, 6, "could not be called"),
        (6, 6, "does not run, or does not answer"),
        (7, 7, "refused miragevpn.Details"),
    ],
)
def test_exit_codes_of_qrexec(
    dom0: Dom0, capfd: pytest.CaptureFixture[str], code: int, exit_code: int, said: str
) -> None:
    running(dom0)
    dom0.service(VPN, "miragevpn.Details+", {"error": "no service"} if code < 125 else b"", code=code)
    assert main(["status"]) == exit_code
    assert said in capfd.readouterr().err


def test_a_qube_that_talks_too_much(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    running(dom0)
    dom0.service(VPN, "miragevpn.Details+", b" " * (8 << 20))
    assert main(["status"]) == 6
    assert "printed more than it may" in capfd.readouterr().err


def test_a_qube_that_never_answers(
    in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A program in the place of qrexec-client that neither reads nor ends."""
    import qubesadmin

    sleeper = in_dom0.policy.parent / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(qubesadmin.config, "QREXEC_CLIENT", str(sleeper))
    monkeypatch.setattr(service.ask, "__kwdefaults__", {**service.ask.__kwdefaults__, "seconds": 0.2})
    running(in_dom0)
    in_dom0.expect(VPN, "admin.vm.Start", "", DENIED[:0] + b"0\0")
    started = time.monotonic()
    assert main(["status"]) == 6
    assert "did not end in time" in capfd.readouterr().err
    assert time.monotonic() - started < 10


def test_watch(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    events = [
        {"event": "tunnel", "tunnel": "vpn0", **STATUS, "question": "Code\x07?"},
        {"event": "assigned", "address": "10.137.0.20", "tunnel": "default"},
        {"event": "removed", "tunnel": "vpn3"},
        {"event": "profiles", "profiles": ["a", "b"]},
    ]
    running(dom0)
    dom0.service(VPN, "miragevpn.Events+", b"".join(json.dumps(each).encode() + b"\n" for each in events))
    assert main(["status", "--watch"]) == 6
    out, err = capfd.readouterr()
    assert out.splitlines()[2:4] == [
        r"       an answer is wanted: Code\x07?",
        "       to answer: qvm-miragevpn answer vpn0",
    ]
    assert out.splitlines()[-3:] == ["10.137.0.20 uses default", "vpn3 is gone", "profiles: a b"]
    assert "tells nothing any more" in err


@pytest.mark.parametrize("line", [b"\x1b[2J\n", b"{}\n", b'{"error": "no service"}\n', b"x" * (1 << 18)])
def test_watch_ends_at_what_is_odd(dom0: Dom0, capfd: pytest.CaptureFixture[str], line: bytes) -> None:
    running(dom0)
    dom0.service(VPN, "miragevpn.Events+", line)
    assert main(["status", "--watch", "--json"]) == 6
    out, err = capfd.readouterr()
    assert out == "" and "\x1b" not in err


def test_a_password_is_not_taken_from_the_command_line(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["credentials", "a", "me", "word"]) == 2
    assert main(["answer", "vpn0", "123456"]) == 2


@pytest.mark.parametrize(("data", "said"), [(b"\n", "nothing was entered"), (b"x" * 4097, "longer than")])
def test_secrets_are_bounded(
    in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], data: bytes, said: str
) -> None:
    typed(monkeypatch, data)
    running(in_dom0)
    assert main(["credentials", "a"]) == 2
    assert said in capfd.readouterr().err


def test_the_terminal_asks_without_echo(in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: "me")
    monkeypatch.setattr(tunnel.getpass, "getpass", lambda prompt: "wörd")
    running(in_dom0)
    in_dom0.service(VPN, "miragevpn.SetCredentials+a", {"credentials": "set"}, payload="me\nwörd\n".encode())
    assert main(["credentials", "a"]) == 0


@pytest.mark.parametrize(
    "words", [["status", "--vpn", "-x"], ["switch", "../x"], ["connect", "tun0"], ["import", "a.ovpn", "x"]]
)
def test_names_are_checked_before_anything_is_asked(in_dom0: Dom0, words: list[str]) -> None:
    assert main(words) == 2
