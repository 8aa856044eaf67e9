# SPDX-License-Identifier: BSD-2-Clause
"""The handbook's way to a VPN qube, as written: the tool's commands against a double of dom0, and the way by hand.

Both make the same qube. What is Qubes' own among the commands (`qvm-create` and its kin) is carried out on the double.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.admin import policyfile
from qubes_miragevpn.admin.commands import create as create_module
from qubes_miragevpn.admin.main import main
from tests.unit.admin.dom0 import Dom0
from tests.unit.admin.system import System
from tests.unit.admin.test_doctor import evaluates
from tests.unit.handbook import blocks, commands

VPN, CLIENT = "sys-vpn", "work"
STATUS = {
    "state": "connected", "profile": "home", "since": "2026-01-02T03:04:05Z", "bytes_in": 7, "bytes_out": 8,
    "reason": "", "backend": "native",
}  # fmt: skip
PROFILE = b"client\n"
ANSWERS: dict[tuple[str, str, str, bytes], Any] = {
    (CLIENT, "qubes.VMExec", "head+--c+1048577+----+-2Fhome-2Fuser-2Fhome.ovpn", b""): PROFILE,
    (VPN, "miragevpn.ImportProfile", "home", PROFILE): {"profile": "home", "warnings": []},
    (VPN, "miragevpn.Switch", "home", b""): STATUS,
    (VPN, "miragevpn.Connect", "", b""): STATUS,
    (VPN, "miragevpn.Disconnect", "", b""): {**STATUS, "state": "closed"},
    (VPN, "miragevpn.Status", "", b""): STATUS,
    (VPN, "miragevpn.Assign", "10.137.0.20+default", b""): {"address": "10.137.0.20", "tunnel": "default"},
    (VPN, "miragevpn.Details", "", b""): {
        "tunnels": {"vpn0": {**STATUS, "question": ""}}, "downstream": {"vif5.0": ["10.137.0.20"]}, "assigned": {},
    },
}  # fmt: skip


def lines(*, by_hand: bool) -> list[list[str]]:
    """dom0's commands on the page of the installation: those of the way by hand, or those of the tool's."""
    found = []
    for block in blocks("install.md"):
        if block.place == "dom0" and ("by-hand" in block.words) == by_hand:
            found += [words for line in block.lines for words in commands(line)]
    return found


def carry_out(system: System, words: list[str]) -> None:
    """A command of Qubes' own, on the double."""
    match words:
        case ["qvm-create", "--class", "AppVM", "--template", template, "--label", _, name]:
            system.make(name, template=template)
        case ["qvm-tags", name, "add", tag]:
            system.qubes[name].tags.add(tag)
        case ["qvm-service", name, service, "on"]:
            system.qubes[name].features[f"service.{service}"] = "1"
        case ["qvm-features", name, feature, value]:
            system.qubes[name].features[feature] = value
        case ["qvm-prefs", name, prop, value]:
            system.qubes[name].properties[prop] = value
            system.qubes[name].chosen.add(prop)
        case ["qvm-start", name]:
            system.qubes[name].state = "Running"
        case _:
            raise AssertionError(f"the double does not know {words}")


def test_the_way_by_hand_makes_what_create_makes(in_dom0: Dom0) -> None:
    made, by_hand = System(), System()
    in_dom0.answer = made.answer
    creation = next(words for words in lines(by_hand=False) if words[1:2] == ["create"] and "--dry-run" not in words)
    assert main(creation[1:]) == 0
    written = lines(by_hand=True)
    for words in written:
        carry_out(by_hand, words)
    assert by_hand.shown() == made.shown()
    names = [words[0] for words in written]
    assert names.index("qvm-service") < names.index("qvm-prefs"), "closed before it provides network"


def test_the_tools_way_as_written(
    in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From `create` to `remove`: each command ends well, `doctor` finds nothing wrong, and nothing is left."""
    system = System()
    system.qubes[CLIENT].state = "Running"  # its file is read
    before = system.shown()
    in_dom0.answer = system.answer
    in_dom0.services = {
        key: [(0, reply if isinstance(reply, bytes) else json.dumps(reply).encode())] * 9
        for key, reply in ANSWERS.items()
    }
    default = Path(__file__).parents[3] / "install" / "dom0" / policyfile.DEFAULT
    (in_dom0.policy / policyfile.DEFAULT).write_bytes(default.read_bytes())
    evaluates(monkeypatch, tmp_path, "exit 1")
    monkeypatch.setattr(create_module, "confirm", lambda question: True)
    written = lines(by_hand=False)
    first = next(number for number, words in enumerate(written) if words[:2] == ["qvm-miragevpn", "create"])
    last = next(number for number, words in enumerate(written) if words[:2] == ["qvm-miragevpn", "remove"])
    ran = set()
    for words in written[first : last + 1]:
        if words[0] != "qvm-miragevpn":
            if words[:2] != ["qvm-prefs", CLIENT]:  # the same by hand
                carry_out(system, words)
            continue
        capfd.readouterr()
        assert main(words[1:]) == 0, (words, capfd.readouterr())
        ran.add(words[1])
        if words[1] == "doctor":
            verdicts = capfd.readouterr().out.splitlines()
            assert len(verdicts) >= 11 and all(line.startswith("ok ") for line in verdicts)
    assert {"create", "import", "switch", "status", "attach", "doctor", "detach", "remove"} <= ran
    assert VPN not in system.qubes and not policyfile.is_there(VPN)
    system.qubes[CLIENT].chosen.clear()
    assert system.shown() == before
    in_dom0.services.clear()  # what each service could have answered more often
