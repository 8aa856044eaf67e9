# SPDX-License-Identifier: BSD-2-Clause
"""`attach` and `detach`: call by call, in the order of safety, and never to a qube that would not be closed."""

from __future__ import annotations

import pytest

from qubes_miragevpn.admin.main import main
from tests.unit.admin.dom0 import Dom0, Key
from tests.unit.admin.system import System
from tests.unit.admin.test_replies import STATUS

VPN = "sys-vpn"
LIST = (
    "dom0 class=AdminVM state=Running\n"
    "sys-net class=AppVM state=Running\n"
    "debian-13 class=TemplateVM state=Halted\n"
    "sys-vpn class=AppVM state=Running\n"
    "work class=AppVM state=Halted\n"
    "mail class=AppVM state=Running\n"
)
DETAILS = {
    "tunnels": {"vpn0": {**STATUS, "profile": "office"}, "vpn1": {**STATUS, "profile": "home"}},
    "downstream": {},
    "assigned": {"10.137.0.21": "vpn1"},
}


def closed(dom0: Dom0) -> None:
    """What is asked before anything is attached."""
    dom0.has("dom0", "admin.vm.List", "", LIST)
    dom0.has(VPN, "admin.vm.tag.Get", "miragevpn", "1")
    dom0.feature(VPN, "service.miragevpn", "1")
    dom0.property(VPN, "template", "vm", "debian-13")
    dom0.feature("debian-13", "supported-service.miragevpn", "1")
    dom0.property(VPN, "provides_network", "bool", "True")
    dom0.has(VPN, "admin.vm.List", "", "sys-vpn class=AppVM state=Running\n")
    dom0.service(VPN, "miragevpn.Status+", STATUS)
    dom0.property(VPN, "netvm", "vm", "sys-net")
    dom0.property("sys-net", "netvm", "vm", "")


def beyond(dom0: Dom0, clients: list[str]) -> list[Key]:
    """What no policy would let a management qube do; in dom0 qubesadmin itself starts a qube before it calls it."""
    found = dom0.beyond_policy("attach", VPN, clients, "debian-13")
    return [key for key in found if key[1] != "admin.vm.Start" or not dom0.in_dom0]


def test_attach(dom0: Dom0, capfd: pytest.CaptureFixture[str]) -> None:
    closed(dom0)
    dom0.property("work", "netvm", "vm", "sys-net")
    dom0.property("mail", "netvm", "vm", VPN)
    dom0.has("work", "admin.vm.property.Set", "netvm", "", VPN.encode())
    assert main(["attach", "work", "mail", "work"]) == 0
    assert "[1/1] have work use sys-vpn ... done" in capfd.readouterr().out
    assert beyond(dom0, ["work", "mail"]) == []


@pytest.mark.parametrize(("profile", "tunnel"), [("home", "vpn1"), ("new", "vpn2")])
def test_a_tunnel_is_assigned_before_the_qube_is_attached(dom0: Dom0, profile: str, tunnel: str) -> None:
    closed(dom0)
    dom0.service(VPN, "miragevpn.Details+", DETAILS)
    dom0.property("work", "ip", "str", "10.137.0.20")
    dom0.service(VPN, "miragevpn.Details+", DETAILS)
    dom0.property("work", "netvm", "vm", "sys-net")
    if profile == "new":
        dom0.service(VPN, "miragevpn.Switch+new+vpn2", STATUS)
    dom0.service(VPN, f"miragevpn.Assign+10.137.0.20+{tunnel}", {"address": "10.137.0.20", "tunnel": tunnel})
    dom0.has("work", "admin.vm.property.Set", "netvm", "", VPN.encode())
    assert main(["attach", "work", "--tunnel", profile]) == 0
    methods = [key[1] for key in dom0.made]
    assert methods.index("miragevpn.Assign") < methods.index("admin.vm.property.Set")
    assert beyond(dom0, ["work"]) == []


@pytest.mark.parametrize("assigned", [True, False])
def test_a_qube_without_network_is_attached_and_assigned_at_once(dom0: Dom0, assigned: bool) -> None:
    """It has no address before it has a netvm; if the assignment fails it loses the netvm again."""
    closed(dom0)
    dom0.service(VPN, "miragevpn.Details+", DETAILS)
    dom0.property("work", "netvm", "vm", "")
    dom0.has("work", "admin.vm.property.Set", "netvm", "", VPN.encode())
    dom0.property("work", "ip", "str", "10.137.0.20")
    answer = {"address": "10.137.0.20", "tunnel": "vpn1"} if assigned else {"error": "refused"}
    dom0.service(VPN, "miragevpn.Assign+10.137.0.20+vpn1", answer, code=0 if assigned else 7)
    if not assigned:
        dom0.has("work", "admin.vm.property.Set", "netvm", "", b"")
    assert main(["attach", "work", "--tunnel", "home"]) == (0 if assigned else 7)


def test_a_running_qube_without_network_is_not_attached_to_the_wrong_tunnel(dom0: Dom0) -> None:
    closed(dom0)
    dom0.service(VPN, "miragevpn.Details+", DETAILS)
    dom0.property("mail", "netvm", "vm", "")
    assert main(["attach", "mail", "--tunnel", "home"]) == 7


@pytest.mark.parametrize(("code", "exit_code"), [(127, 6), (6, 6), (126, 7)])
def test_a_qube_that_runs_but_does_not_serve_may_be_open(
    in_dom0: Dom0, capfd: pytest.CaptureFixture[str], code: int, exit_code: int
) -> None:
    """It may run since before it got the package: what dom0 knows of it holds from its next boot on."""
    system = System()
    in_dom0.answer = system.answer
    assert main(["create", VPN]) == 0
    system.qubes[VPN].state = "Running"
    in_dom0.services[(VPN, "miragevpn.Status", "", b"")] = [(code, b'{"error": "no service"}')]
    assert main(["attach", "work"]) == exit_code
    assert "cannot be seen to be closed" in capfd.readouterr().err
    assert system.qubes["work"].properties["netvm"] == "sys-firewall"


def test_an_assignment_that_is_refused_leaves_the_qube_where_it_was(dom0: Dom0) -> None:
    closed(dom0)
    for _ in range(2):
        dom0.service(VPN, "miragevpn.Details+", DETAILS)
    dom0.property("work", "ip", "str", "10.137.0.20")
    dom0.property("work", "netvm", "vm", "sys-net")
    dom0.service(VPN, "miragevpn.Assign+10.137.0.20+vpn1", {"error": "refused"}, code=7)
    assert main(["attach", "work", "--tunnel", "home"]) == 7


def test_detach_takes_the_network_first(dom0: Dom0) -> None:
    dom0.has("dom0", "admin.vm.List", "", LIST)
    dom0.has(VPN, "admin.vm.tag.Get", "miragevpn", "1")
    dom0.property("work", "netvm", "vm", VPN)
    dom0.property("work", "ip", "str", "10.137.0.20")
    dom0.property("mail", "netvm", "vm", "sys-net")
    dom0.has("work", "admin.vm.property.Set", "netvm", "", b"")
    dom0.service(VPN, "miragevpn.Assign+10.137.0.20+default", {"address": "10.137.0.20", "tunnel": "default"})
    assert main(["detach", "work", "mail"]) == 0
    methods = [key[1] for key in dom0.made]
    assert methods.index("admin.vm.property.Set") < methods.index("miragevpn.Assign")


@pytest.fixture
def system(in_dom0: Dom0) -> System:
    """A system with a VPN qube as `create` makes it, and dom0 that answers from it."""
    made = System()
    in_dom0.answer = made.answer
    assert main(["create", VPN]) == 0
    return made


def test_detach_to_another_netvm(system: System) -> None:
    system.qubes["work"].properties["netvm"] = VPN
    assert main(["detach", "work", "--netvm", "sys-firewall"]) == 0
    assert system.qubes["work"].properties["netvm"] == "sys-firewall"


def test_a_template_that_got_a_netvm_can_be_detached(system: System) -> None:
    system.qubes["debian-13"].properties["netvm"] = VPN
    assert main(["remove", VPN, "--yes"]) == 7
    assert main(["detach", "debian-13"]) == 0
    assert system.qubes["debian-13"].properties["netvm"] == ""


def test_a_second_run_and_a_dry_run_change_nothing(system: System, capfd: pytest.CaptureFixture[str]) -> None:
    before = system.shown()
    assert main(["attach", "work", "--dry-run"]) == 0
    assert system.shown() == before
    assert main(["attach", "work"]) == 0
    changes = system.changes
    assert main(["attach", "work"]) == 0
    assert system.changes == changes
    assert "attach to sys-vpn: nothing to do" in capfd.readouterr().out.splitlines()  # as the Salt formula looks for it


@pytest.mark.parametrize("lack", ["tag", "flag", "package", "provides_network"])
def test_nothing_is_attached_to_a_qube_that_would_not_be_closed(
    system: System, capfd: pytest.CaptureFixture[str], lack: str
) -> None:
    vpn = system.qubes[VPN]
    match lack:
        case "tag":
            vpn.tags.clear()
        case "flag":
            vpn.features["service.miragevpn"] = ""
        case "package":
            system.qubes["debian-13"].features.clear()
        case "provides_network":
            vpn.properties["provides_network"] = "False"
    assert main(["attach", "work"]) == 7
    assert "next:" in capfd.readouterr().err
    assert system.qubes["work"].properties["netvm"] == "sys-firewall"


@pytest.mark.parametrize(
    ("qube", "code"), [("dom0", 2), ("debian-13", 2), ("nobody", 7), (VPN, 2), ("sys-firewall", 2), ("sys-net", 2)]
)
def test_qubes_that_cannot_be_attached(system: System, qube: str, code: int) -> None:
    before = system.shown()
    assert main(["attach", "work", qube]) == code
    assert system.shown() == before, "all or nothing"
