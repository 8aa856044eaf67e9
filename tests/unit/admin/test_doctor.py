# SPDX-License-Identifier: BSD-2-Clause
"""`doctor`: nothing wrong on a system as `create` makes it; each thing that can be wrong, with what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qubes_miragevpn.admin import policyfile
from qubes_miragevpn.admin.commands.doctor import STEERING
from qubes_miragevpn.admin.main import main
from tests.unit.admin.dom0 import Dom0
from tests.unit.admin.system import System
from tests.unit.admin.test_replies import STATUS

VPN = "sys-vpn"


@pytest.fixture
def system(in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> System:
    """A healthy system: the qube runs, `work` uses it, the policy is there and is what evaluates it."""
    made = System()
    in_dom0.answer = made.answer
    assert main(["create", VPN]) == 0
    made.qubes[VPN].state = "Running"
    made.qubes["work"].properties["netvm"] = VPN
    default = Path(__file__).parents[3] / "install" / "dom0" / policyfile.DEFAULT
    (in_dom0.policy / policyfile.DEFAULT).write_bytes(default.read_bytes())
    denied = " | ".join(f'"--just-evaluate 0 work sys-vpn {service} doctor"' for service in STEERING)
    evaluates(monkeypatch, tmp_path, f'case "$*" in {denied}) exit 1 ;; esac')
    return made


def evaluates(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A program in the place of qrexec-policy-exec."""
    program = folder / "evaluate"
    program.write_text(f"#!/bin/sh\n{script}\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(policyfile, "EVALUATE", str(program))


def test_nothing_wrong(in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str]) -> None:
    in_dom0.services[(VPN, "miragevpn.Status", "", b"")] = [(0, json.dumps(STATUS).encode())]
    capfd.readouterr()
    changes = system.changes
    assert main(["doctor"]) == 0, capfd.readouterr().out
    said = capfd.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in said) and len(said) >= 11
    # Nothing but the start that qubesadmin itself asks for before a call, of a qube that runs.
    assert system.changes - changes == 1


def _set(qube: str, name: str, value: str) -> Callable[[System], None]:
    return lambda system: system.qubes[qube].properties.__setitem__(name, value)


@pytest.mark.parametrize(
    ("harm", "verdict", "said", "mends"),
    [
        (lambda system: system.qubes[VPN].tags.clear(), "WRONG", "no tag", f"qvm-tags {VPN} add miragevpn"),
        (lambda system: system.qubes["debian-13"].features.clear(), "WRONG", "nothing would close", "install"),
        (
            lambda system: system.qubes[VPN].features.update({"service.miragevpn": ""}), "WRONG", "in the clear",
            f"qvm-service {VPN} miragevpn on",
        ),
        (_set(VPN, "provides_network", "False"), "WRONG", "does not provide", "provides_network True"),
        (_set(VPN, "netvm", ""), "WRONG", "has no netvm", f"qvm-prefs {VPN} netvm sys-firewall"),
        (_set("sys-net", "netvm", VPN), "WRONG", "circle: sys-vpn -> sys-firewall -> sys-net", "qvm-prefs"),
        (_set(VPN, "autostart", "False"), "look", "when the first of its qubes", "autostart True"),
        (_set("work", "netvm", "sys-firewall"), "look", "no qube uses", "qvm-miragevpn attach"),
        (
            lambda system: (system.make("disp"), _set("work", "default_dispvm", "disp")(system)), "look",
            "disposables that work opens (disp) go out by sys-firewall", "qvm-prefs work default_dispvm",
        ),
        (
            lambda system: setattr(system.qubes["work"], "devices", "dom0+00_1f.6 x\n"), "look",
            "work has PCI devices", "qvm-pci list work",
        ),
        (lambda system: system.settings.update(clockvm=VPN), "WRONG", "tells the time", "qubes-prefs clockvm sys-net"),
        (lambda system: system.settings.update(clockvm=""), "look", "no qube tells the time", "qubes-prefs clockvm"),
        (lambda system: setattr(system.qubes[VPN], "state", "Halted"), "look", "does not run", f"qvm-start {VPN}"),
    ],
)  # fmt: skip
def test_each_thing_that_can_be_wrong(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str],
    harm: Callable[[System], object], verdict: str, said: str, mends: str,
) -> None:  # fmt: skip
    harm(system)
    if system.qubes[VPN].state == "Running":
        in_dom0.services[(VPN, "miragevpn.Status", "", b"")] = [(0, json.dumps(STATUS).encode())]
    capfd.readouterr()
    assert main(["doctor"]) == 1
    lines = capfd.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if said in line)
    assert lines[at].startswith(verdict) and "mend: " in lines[at + 1] and mends in lines[at + 1]


def test_the_qubes_behind_a_firewall_qube_count(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluates(monkeypatch, tmp_path, "exit 1")
    system.make("fw2", provides_network="True", netvm=VPN)
    system.make("deep", netvm="fw2")
    system.qubes["deep"].devices = "dom0+00_1f.6 x\n"
    system.qubes[VPN].state = "Halted"
    assert main(["doctor", VPN]) == 1
    said = capfd.readouterr().out
    assert "deep has PCI devices" in said and "fw2 has no other way out" in said


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / policyfile.DEFAULT).unlink(), "is missing"),
        (lambda folder: (folder / policyfile.name_of(VPN)).write_text("other"), "not as it was made"),
        (
            lambda folder: (folder / "30-user.policy").write_text(
                f"# none\nqubes.UpdatesProxy * @type:TemplateVM @default allow target={VPN}\n"
            ),
            "@type:TemplateVM update through sys-vpn",
        ),
    ],
)
def test_the_policy_on_disk(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str], harm: Callable[[Path], object], said: str
) -> None:
    system.qubes[VPN].state = "Halted"
    harm(in_dom0.policy)
    assert main(["doctor"]) == 1
    assert said in capfd.readouterr().out


@pytest.mark.parametrize(
    ("script", "verdict"),
    [("exit 0", "WRONG    the policy lets work"), ("exit 1", "ok       the policy keeps"), ("", "unknown")],
)
def test_the_policy_as_a_whole(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    script: str, verdict: str,
) -> None:  # fmt: skip
    evaluates(monkeypatch, tmp_path, script)
    system.qubes[VPN].state = "Halted"
    assert main(["doctor"]) == 1
    assert verdict in capfd.readouterr().out


def test_the_clock_of_the_vpn_qube(in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str]) -> None:
    ahead = {**STATUS, "since": "2099-01-01T00:00:00Z"}
    in_dom0.services[(VPN, "miragevpn.Status", "", b"")] = [(0, json.dumps(ahead).encode())]
    assert main(["doctor"]) == 1
    assert "seconds ahead of this one" in capfd.readouterr().out


def test_a_time_that_is_none_does_not_end_the_rest(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    """A VPN qube that has something to hide could have the checks end at its own answer."""
    odd = {**STATUS, "since": "2026-19-39T29:59:69Z"}
    in_dom0.services[(VPN, "miragevpn.Status", "", b"")] = [(0, json.dumps(odd).encode())]
    assert main(["doctor"]) == 1
    said = capfd.readouterr().out
    assert "is refused" in said and "the time comes from" in said


def test_what_may_not_be_seen_is_said_and_the_rest_goes_on(
    in_dom0: Dom0, system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    system.qubes[VPN].state = "Halted"
    answer = in_dom0.answer
    assert answer is not None
    in_dom0.answer = lambda key: b"" if key[2] == "autostart" else answer(key)
    assert main(["doctor"]) == 1
    said = capfd.readouterr().out
    assert "unknown  Its start: dom0 refused" in said and "the time comes from sys-net" in said


def test_no_such_qube(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    in_dom0.answer = System().answer
    assert main(["doctor", "nobody"]) == 7
    assert "qvm-miragevpn create nobody" in capfd.readouterr().err


def test_every_call_of_it_is_in_the_policy(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    system = System()
    system.make(VPN, netvm="sys-firewall", provides_network="True").features["service.miragevpn"] = "1"
    system.qubes["work"].properties["netvm"] = VPN
    dom0.answer = system.answer
    assert main(["doctor"]) == 1
    assert not dom0.beyond_policy("doctor", VPN, [], "debian-13")
    assert ("dom0's policy cannot be read from here" in capfd.readouterr().out) == (not dom0.in_dom0)
