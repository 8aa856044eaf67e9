# SPDX-License-Identifier: BSD-2-Clause
"""`create` and `remove`: every Admin API call, byte for byte; what is refused; going on after an interruption."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from qubes_miragevpn.admin import policyfile
from qubes_miragevpn.admin.commands import create as create_module
from qubes_miragevpn.admin.main import main
from tests.unit.admin.dom0 import DENIED, Dom0
from tests.unit.admin.system import System

LIST = (
    "dom0 class=AdminVM state=Running\n"
    "sys-net class=AppVM state=Running\n"
    "sys-firewall class=AppVM state=Running\n"
    "debian-13 class=TemplateVM state=Halted\n"
    "work class=AppVM state=Halted\n"
)
STATUS = {
    "state": "connecting", "profile": "office", "since": "2026-01-02T03:04:05Z", "bytes_in": 0, "bytes_out": 0,
    "reason": "", "backend": "reference",
}  # fmt: skip


def looks(dom0: Dom0) -> None:
    """What is asked before a qube is made."""
    dom0.has("dom0", "admin.vm.List", "", LIST)
    dom0.has("dom0", "admin.property.Get", "default_template", "default=False type=vm debian-13")
    dom0.feature("debian-13", "supported-service.miragevpn", "1")
    dom0.has("dom0", "admin.property.Get", "default_netvm", "default=False type=vm sys-firewall")
    dom0.property("sys-firewall", "provides_network", "bool", "True")
    dom0.property("sys-firewall", "netvm", "vm", "sys-net")
    dom0.property("sys-net", "netvm", "vm", "")


def makes(dom0: Dom0) -> None:
    """What makes it, without firewall and profile."""
    dom0.has("dom0", "admin.vm.Create.AppVM", "debian-13", "", b"name=sys-vpn label=green")
    dom0.has("sys-vpn", "admin.vm.tag.Set", "miragevpn", "")
    dom0.has("sys-vpn", "admin.vm.feature.Set", "service.miragevpn", "", b"1")
    dom0.has("sys-vpn", "admin.vm.feature.Set", "servicevm", "", b"1")
    dom0.has("sys-vpn", "admin.vm.property.Set", "memory", "", b"400")
    dom0.has("sys-vpn", "admin.vm.property.Set", "maxmem", "", b"800")
    dom0.has("sys-vpn", "admin.vm.property.Set", "provides_network", "", b"True")
    dom0.has("sys-vpn", "admin.vm.property.Set", "netvm", "", b"sys-firewall")
    dom0.has("sys-vpn", "admin.vm.property.Set", "autostart", "", b"True")


def test_create(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    looks(dom0)
    makes(dom0)
    assert main(["create", "sys-vpn"]) == 0
    said = capfd.readouterr().out
    assert "[1/" in said and "sys-vpn is ready" in said
    assert policyfile.is_right("sys-vpn") == dom0.in_dom0
    assert ("miragevpn.Status * @tag:miragevpn-client-sys-vpn sys-vpn allow" in said) == (not dom0.in_dom0)
    assert not dom0.beyond_policy("create", "sys-vpn", [], "debian-13")


def test_the_flag_comes_before_the_network(dom0: Dom0) -> None:
    """A qube that provides network with the flag off would forward in the clear (qubes-issues 7801)."""
    looks(dom0)
    makes(dom0)
    assert main(["create", "sys-vpn"]) == 0
    order = [key[:3] for key in dom0.made]
    flag = order.index(("sys-vpn", "admin.vm.feature.Set", "service.miragevpn"))
    assert flag < order.index(("sys-vpn", "admin.vm.property.Set", "provides_network"))


def test_dry_run_changes_nothing(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    looks(dom0)
    assert main(["create", "sys-vpn", "--dry-run"]) == 0
    assert "1. create AppVM sys-vpn, template debian-13, label green" in capfd.readouterr().out
    assert list(dom0.policy.iterdir()) == []


def test_create_with_endpoints_and_profile(dom0: Dom0, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_module, "PAUSE", 0.0)
    profile = tmp_path / "office.ovpn"
    profile.write_bytes(b"\x00not for us to read\xff")
    looks(dom0)
    makes(dom0)
    rules = (
        b"action=accept proto=udp dst4=203.0.113.1/32 dstports=1194-1194\n"
        b"action=accept proto=tcp dst6=2001:db8::1/128 dstports=443-443\n"
        b"action=accept proto=udp dsthost=vpn.example.net dstports=1194-1194\n"
        b"action=accept specialtarget=dns\n"
        b"action=drop\n"
    )
    dom0.has("sys-vpn", "admin.vm.firewall.Set", "", "", rules)
    dom0.has("sys-vpn", "admin.vm.List", "", "sys-vpn class=AppVM state=Halted\n")
    dom0.has("sys-vpn", "admin.vm.Start", "", "")
    dom0.service("sys-vpn", "miragevpn.Status+", {"error": "no service"}, code=6)  # it takes its time to start
    dom0.service("sys-vpn", "miragevpn.Status+", STATUS)
    stored = {"profile": "office", "warnings": ["\x1b[2Jodd"]}
    dom0.service("sys-vpn", "miragevpn.ImportProfile+office", stored, payload=profile.read_bytes())
    dom0.service("sys-vpn", "miragevpn.Switch+office", STATUS)
    dom0.has("sys-vpn", "admin.vm.feature.Set", "vm-config.miragevpn-profile", "", b"office")
    endpoints = ["203.0.113.1:1194/udp", "[2001:db8::1]:443/tcp", "vpn.example.net:1194/udp"]
    words = [word for endpoint in endpoints for word in ("--allow-endpoint", endpoint)]
    assert main(["create", "sys-vpn", "--profile", str(profile), *words]) == 0
    assert not dom0.beyond_policy("create", "sys-vpn", [], "debian-13")


@pytest.mark.parametrize("source", ["/nowhere/a.ovpn", "-.ovpn", "work:"])
def test_a_profile_that_cannot_be_is_found_before_anything_is_done(in_dom0: Dom0, source: str) -> None:
    assert main(["create", "sys-vpn", f"--profile={source}"]) == 2
    assert in_dom0.made == []


def test_a_management_qube_is_told_at_once_that_it_reads_no_other_qubes_files(dom0: Dom0) -> None:
    if dom0.in_dom0:
        dom0.expect("dom0", "admin.vm.List", "", DENIED)
    assert main(["create", "sys-vpn", "--profile", "work:a.ovpn"]) == 7
    assert len(dom0.made) == dom0.in_dom0


def test_a_profile_of_another_qube_is_copied_unread(in_dom0: Dom0) -> None:
    in_dom0.has("sys-vpn", "admin.vm.List", "", "sys-vpn class=AppVM state=Running\n")
    command = "qubes.VMExec+head+--c+1048577+----+-2Fhome-2Fuser-2Fthe--office.ovpn"
    in_dom0.service("work", command, b"\x00\x1b whatever", payload=b"")
    in_dom0.service(
        "sys-vpn", "miragevpn.ImportProfile+office", {"profile": "office", "warnings": []}, payload=b"\x00\x1b whatever"
    )
    assert main(["import", "office", "work:/home/user/the-office.ovpn"]) == 0


def test_a_profile_of_another_qube_that_is_too_large(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    in_dom0.has("sys-vpn", "admin.vm.List", "", "sys-vpn class=AppVM state=Running\n")
    in_dom0.service("work", "qubes.VMExec+head+--c+1048577+----+a", b"x" * ((1 << 20) + 1))
    assert main(["import", "office", "work:a"]) == 2
    assert "larger than" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create", "dom0"], 2, "not a qube's name"),
        (["create", "a b"], 2, "not a qube's name"),
        (["create", "v", "--allow-endpoint", "a:1194"], 2, "not an endpoint"),
        (["create", "v", "--allow-endpoint", "a:0/udp"], 2, "not an endpoint"),
        (["create", "v", "--allow-endpoint", "a b:1/udp"], 2, "not an endpoint"),
        (["create", "v", "--allow-endpoint", "a action=accept:1/udp"], 2, "not an endpoint"),
        (["create", "v", "--allow-endpoint", "[zz]:1/udp"], 2, "brackets"),
        (["create", "v", "--label", "pink"], 2, "invalid choice"),
    ],
)
def test_arguments_refused(
    in_dom0: Dom0, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    if "--allow-endpoint" in arguments:  # the only ones that get that far
        in_dom0.answer = lambda key: b"0\0"
    assert main(arguments) == code
    assert said in capfd.readouterr().err


def test_a_template_without_the_package_is_refused(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    dom0.has("dom0", "admin.vm.List", "", LIST)
    dom0.feature("debian-13", "supported-service.miragevpn", None)
    assert main(["create", "sys-vpn", "--template", "debian-13"]) == 7
    assert "would not be closed\n  next: install qubes-miragevpn in debian-13" in capfd.readouterr().err


def test_a_denial_says_what_to_do(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    dom0.expect("dom0", "admin.vm.List", "", DENIED)
    assert main(["create", "sys-vpn"]) == 7
    said = capfd.readouterr().err
    assert "dom0 refused admin.vm.List" in said
    assert ("journalctl" if dom0.in_dom0 else "qvm-miragevpn policy") in said


def test_qubesd_is_not_there(in_dom0: Dom0, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "qubesd").unlink()
    assert main(["create", "sys-vpn"]) == 4
    assert "is qubesd running?" in capfd.readouterr().err


def test_an_error_in_the_middle_says_how_to_go_on(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    looks(dom0)
    error = b"2\0QubesException\0\0no room\x1b[2J left\0"
    dom0.expect("dom0", "admin.vm.Create.AppVM", "debian-13", error, b"name=sys-vpn label=green")
    assert main(["create", "sys-vpn"]) == 7
    said = capfd.readouterr().err
    assert "no room\\x1b[2J left" in said and "run the same command again" in said


# --- a system with a state: what one run leaves, the next finds --------------------------------------------------


def test_a_second_run_changes_nothing(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    system = System()
    in_dom0.answer = system.answer
    words = ["create", "sys-vpn", "--allow-endpoint", "203.0.113.1:1194/udp", "--netvm", "sys-firewall"]
    assert main(words) == 0
    before, changes = system.shown(), system.changes
    assert main(words) == 0
    assert (system.shown(), system.changes) == (before, changes)
    assert "sys-vpn: nothing to do" in capfd.readouterr().out.splitlines()  # the Salt formula looks for that line


def test_an_interrupted_run_goes_on(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut off at every single call, then run again: the same system as without the interruption."""
    whole = System()
    in_dom0.answer = whole.answer
    assert main(["create", "sys-vpn"]) == 0
    for number in itertools.count(1):
        policyfile.remove("sys-vpn")
        system = System()
        system.fails_at = number
        in_dom0.answer = system.answer
        code = main(["create", "sys-vpn"])
        if code == 0:
            break
        system.fails_at = 0
        # Between making the qube and its tag it is not known as ours, and the owner has to say so.
        made_only = "sys-vpn" in system.qubes and not system.qubes["sys-vpn"].tags
        assert main(["create", "sys-vpn", *(["--adopt"] if made_only else [])]) == 0
        assert system.shown() == whole.shown(), f"cut off at call {number}"
        assert policyfile.is_right("sys-vpn")
    assert number > 15


@pytest.mark.parametrize("state", ["Running", "Halted"])
def test_a_qube_of_somebody_elses_is_not_touched(in_dom0: Dom0, capfd: pytest.CaptureFixture[str], state: str) -> None:
    system = System()
    in_dom0.answer = system.answer
    system.qubes["work"].state = state
    before = system.shown()
    assert main(["create", "work"]) == 7
    assert "not a VPN qube" in capfd.readouterr().err
    # With --adopt, but running and so open: not before it is halted.
    assert main(["create", "work", "--adopt"]) == (7 if state == "Running" else 0)
    assert (system.shown() == before) == (state == "Running")


@pytest.mark.parametrize("netvm", ["work", "sys-vpn", "behind", "nobody"])
def test_a_netvm_that_cannot_be(in_dom0: Dom0, netvm: str) -> None:
    system = System()
    in_dom0.answer = system.answer
    assert main(["create", "sys-vpn"]) == 0
    system.make("behind", provides_network="True", netvm="sys-vpn")
    before = system.shown()
    assert main(["create", "sys-vpn", "--netvm", netvm]) == 2
    assert system.shown() == before


def test_what_the_owner_chose_stays(in_dom0: Dom0) -> None:
    system = System()
    in_dom0.answer = system.answer
    assert main(["create", "sys-vpn"]) == 0
    system.qubes["sys-vpn"].properties.update(memory="600", maxmem="1000", autostart="False", netvm="sys-net")
    before = system.shown()
    assert main(["create", "sys-vpn"]) == 0
    assert system.shown() == before
    system.qubes["sys-vpn"].properties["provides_network"] = "False"
    assert main(["create", "sys-vpn"]) == 0
    assert system.shown() == before


def test_an_interruption_is_no_success(
    in_dom0: Dom0, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(vpn: str) -> None:
        raise KeyboardInterrupt

    in_dom0.answer = System().answer
    monkeypatch.setattr(policyfile, "write", interrupted)
    assert main(["create", "sys-vpn"]) == 4
    assert "run the same command again" in capfd.readouterr().err


def test_a_netvm_that_enforces_no_firewall_is_pointed_out(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    in_dom0.answer = System().answer
    assert main(["create", "sys-vpn", "--netvm", "sys-net", "--allow-endpoint", "192.0.2.1:1194/udp", "--dry-run"]) == 0
    assert "note: sys-net has no netvm itself" in capfd.readouterr().out


# --- remove ------------------------------------------------------------------------------------------------------


def test_remove(dom0: Dom0, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_module, "PAUSE", 0.0)
    policyfile.write("sys-vpn")
    dom0.has("dom0", "admin.vm.List", "", LIST + "sys-vpn class=AppVM state=Running\n")
    dom0.has("sys-vpn", "admin.vm.tag.Get", "miragevpn", "1")
    for qube in ("sys-net", "sys-firewall", "debian-13", "work", "sys-vpn"):
        dom0.property(qube, "netvm", "vm", "")
    dom0.has("sys-vpn", "admin.vm.Shutdown", "", "")
    dom0.has("sys-vpn", "admin.vm.List", "", "sys-vpn class=AppVM state=Halting\n")
    dom0.has("sys-vpn", "admin.vm.List", "", "sys-vpn class=AppVM state=Halted\n")
    dom0.has("sys-vpn", "admin.vm.Remove", "", "")
    assert main(["remove", "sys-vpn", "--yes"]) == 0
    assert policyfile.is_there("sys-vpn") == (not dom0.in_dom0)
    assert not dom0.beyond_policy("remove", "sys-vpn", [], "debian-13")


def test_remove_undoes_create(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    system = System()
    in_dom0.answer = system.answer
    before = system.shown()
    assert main(["create", "sys-vpn"]) == 0
    assert main(["remove", "sys-vpn"]) == 7  # no terminal, nobody said yes
    assert main(["remove", "sys-vpn", "--dry-run"]) == 0
    assert system.shown() != before
    assert main(["remove", "sys-vpn", "--yes"]) == 0
    assert system.shown() == before and list(in_dom0.policy.iterdir()) == []
    assert main(["remove", "sys-vpn", "--yes"]) == 0
    assert "nothing to do" in capfd.readouterr().out


def test_remove_is_refused_while_a_qube_uses_it(in_dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    system = System()
    in_dom0.answer = system.answer
    assert main(["create", "sys-vpn"]) == 0
    system.qubes["work"].properties["netvm"] = "sys-vpn"
    assert main(["remove", "sys-vpn", "--yes"]) == 7
    assert "these qubes use sys-vpn: work" in capfd.readouterr().err
    assert "sys-vpn" in system.qubes


def test_remove_leaves_other_qubes_alone(dom0: Dom0) -> None:
    system = System()
    dom0.answer = system.answer
    assert main(["remove", "work", "--yes"]) == 7
    assert "work" in system.qubes
