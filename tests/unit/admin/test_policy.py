# SPDX-License-Identifier: BSD-2-Clause
"""The one list: nothing is called that is not in it, and a management qube's policy is made of it alone."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from qubes_miragevpn.admin import policyfile
from qubes_miragevpn.admin.main import main, parser
from qubes_miragevpn.admin.talking.allowed import CALLS, COMMANDS, DOM0_ONLY, About, find
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.base.errors import MisuseError
from tests.unit.admin.dom0 import Dom0
from tests.unit.admin.system import System

ADMIN = Path(__file__).parents[3] / "qubes_miragevpn" / "admin"

LINE = re.compile(
    r"\A[a-zA-Z.]+ +(\*|\+[A-Za-z0-9._-]*) +mgmt +(@adminvm|@anyvm|@(tag|type):[\w-]+|[a-z-]+) allow( \w+=\w+)?\Z"
)


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["policy", "mgmt", *words]) == 0
    return [line for line in capfd.readouterr().out.splitlines() if line and not line.startswith("#")]


def test_every_line_is_one_of_a_policy(capfd: pytest.CaptureFixture[str]) -> None:
    lines = printed(capfd)
    assert all(LINE.match(line) for line in lines), lines
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("vpn", ["sys-vpn", "Sys_VPN"])
def test_the_policy_file_of_a_vpn_qube_is_one(vpn: str) -> None:
    """One line that is none, and qrexec refuses every call of the whole system."""
    lines = [line for line in policyfile.text_of(vpn).splitlines() if line and not line.startswith("#")]
    rule = rf"miragevpn\.Status \* @tag:miragevpn-client-{vpn} ({vpn} allow|@default allow target={vpn}) autostart=no"
    assert len(lines) == 2 and all(re.fullmatch(rule, line) for line in lines)
    assert re.fullmatch(r"[0-9a-z_.-]+\.policy", policyfile.name_of(vpn))


def test_what_a_management_qube_is_never_given(capfd: pytest.CaptureFixture[str]) -> None:
    lines = printed(capfd)
    words = [line.split() for line in lines]
    assert not [line for line in lines if "VMExec" in line or "VMShell" in line or line.startswith("policy.")]
    for method, argument, _, target, *_ in words:
        if method.startswith("admin.") and any(verb in method for verb in ("Set", "Remove", "Start", "Shutdown")):
            assert target not in ("@anyvm", "@adminvm"), (method, target)
            assert argument != "*", method


def test_only_what_a_command_needs(capfd: pytest.CaptureFixture[str]) -> None:
    assert [line.split() for line in printed(capfd, "--only", "status")] == [
        ["admin.vm.List", "+", "mgmt", "sys-vpn", "allow", "target=dom0"],
        ["miragevpn.Details", "*", "mgmt", "sys-vpn", "allow", "autostart=no"],
        ["miragevpn.Events", "*", "mgmt", "sys-vpn", "allow", "autostart=no"],
    ]
    clients = printed(capfd, "--only", "detach", "--client", "work", "--client", "mail")
    assert [line.split()[3] for line in clients if "property.Set" in line] == ["work", "mail"]


def test_every_command_is_in_the_list() -> None:
    commands = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]
    assert commands - {"policy"} == set(COMMANDS)


@pytest.mark.parametrize("words", [["policy", "dom0"], ["policy", "mgmt", "--only", "fly"]])
def test_refused(words: list[str]) -> None:
    assert main(words) == 2


@pytest.mark.parametrize(
    ("command", "method", "argument", "about"),
    [
        ("status", "admin.vm.Kill", "", About.VPN),
        ("status", "admin.vm.property.Set", "netvm", About.VPN),
        ("create", "admin.vm.property.Set", "kernelopts", About.VPN),
        ("create", "admin.vm.property.Set", "netvm", About.CLIENT),
        ("doctor", "admin.vm.feature.Set", "service.miragevpn", About.VPN),
    ],
)
def test_a_call_that_is_not_in_the_list_is_not_made(
    in_dom0: Dom0, command: str, method: str, argument: str, about: About
) -> None:
    machine = Machine.connect(command)
    with pytest.raises(MisuseError, match="not in the list"):
        machine.call(method, argument, about, "sys-vpn", b"")
    with pytest.raises(MisuseError, match="not in the list"):
        machine.start_service("qubes.VMShell", "", about, "sys-vpn")
    assert in_dom0.made == []


def test_an_argument_that_qrexec_would_change_is_not_sent(in_dom0: Dom0) -> None:
    with pytest.raises(MisuseError, match="would change"):
        Machine.connect("create").call("admin.vm.Create.AppVM", "a b", About.DOM0, "dom0", b"")
    with pytest.raises(MisuseError, match="would change"):
        Machine.connect("switch").start_service("miragevpn.Switch", "a/b", About.VPN, "sys-vpn")


def test_qubesadmin_is_used_in_one_module() -> None:
    """`qubesd_call` and `run_service` stand there alone, behind the list."""
    found = set()
    for path in ADMIN.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("qubesd_call", "run_service", "Qubes"):
                found.add(path.name)
    assert found == {"machine.py"}


def test_every_row_can_be_reached() -> None:
    """Each literal method of the list stands in a call somewhere: no row is left from a call that went away."""
    text = "".join(path.read_text() for path in ADMIN.rglob("*.py") if path.name != "allowed.py")
    for row in CALLS + DOM0_ONLY:
        assert f'"{row.method}"' in text, row.method
        if row.argument not in ("", "*"):
            assert f'"{row.argument}"' in text, row.argument


def test_dom0_alone_reads_files_of_other_qubes() -> None:
    with pytest.raises(MisuseError):
        find("import", "qubes.VMExec", "x", About.ANY, in_dom0=False)
    assert find("import", "qubes.VMExec", "x", About.ANY, in_dom0=True)


def test_without_qubesadmin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "qubesadmin", None)
    assert main(["status"]) == 4
    assert "neither dom0 nor a management qube" in capfd.readouterr().err


def test_a_bug_is_said_to_be_one(
    in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    in_dom0.answer = System().answer
    monkeypatch.setattr("qubes_miragevpn.admin.commands.create.supported", lambda *_: 1 / 0)
    assert main(["create", "sys-vpn"]) == 70
    said = capfd.readouterr().err
    assert "internal error: ZeroDivisionError" in said and "Traceback" not in said
    assert main(["--debug", "create", "sys-vpn"]) == 70
    assert "Traceback" in capfd.readouterr().err
