# SPDX-License-Identifier: BSD-2-Clause
"""``attach`` and ``detach``: which qubes use a VPN qube, and which of its tunnels.

Nothing is attached to a qube that would not be closed by itself. A qube that is to use another tunnel is assigned
before it is attached, so that none of its packets takes the wrong one; one that is detached has no network until its
owner gives it one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from ipaddress import IPv4Address

from qubes_miragevpn.admin.failure import Failure, NotFound
from qubes_miragevpn.admin.plan import Step, carry_out, show
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import Listed, Machine
from qubes_miragevpn.admin.talking.service import ask
from qubes_miragevpn.admin.vpnqube import TAG, chain, must_be_closed_by_itself, must_run
from qubes_miragevpn.base.exitcodes import ExitCode

MAX_TUNNELS = replies.MAX_TUNNELS


def attach(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Have qubes use the VPN qube; raises `Failure`."""
    vpn, clients = arguments.vpn, list(dict.fromkeys(arguments.qubes))
    qubes = _must_be_there(machine, [vpn, *clients])
    for name in (vpn, *clients):
        if qubes[name].klass == "TemplateVM":  # one that got a netvm may be detached all the same
            raise Failure(ExitCode.CONFIG, f"{name} is a template: those have no network", "name a qube")
    must_be_closed_by_itself(machine, vpn)
    if qubes[vpn].state != "Halted" or arguments.tunnel is not None:
        must_run(machine, vpn)
        _must_serve(machine, vpn)
    above, loop = chain(machine, vpn)
    steps: list[Step] = []
    tunnel = None
    if arguments.tunnel is not None:
        tunnel = _tunnel_of(machine, vpn, arguments.tunnel, steps)
    for qube in clients:
        if loop or qube in (vpn, *above):
            raise Failure(ExitCode.CONFIG, f"{vpn} is behind {qube} itself", "attach another qube")
        netvm = machine.get("netvm", About.ANY, qube)
        if tunnel is not None and not netvm:
            steps.append(_both(machine, vpn, qube, tunnel, qubes[qube].state))
            continue
        if tunnel is not None:
            _add_assignment(machine, vpn, qube, tunnel, steps)
        if netvm != vpn:
            steps.append(Step(f"have {qube} use {vpn}", _setting(machine, qube, vpn)))
    return _done(steps, f"attach to {vpn}:", arguments)


def detach(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Have qubes use the VPN qube no more; raises `Failure`."""
    vpn, clients = arguments.vpn, list(dict.fromkeys(arguments.qubes))
    qubes = _must_be_there(machine, [vpn, *clients, *([arguments.netvm] if arguments.netvm else [])])
    if not machine.has_tag(TAG, vpn):
        raise Failure(ExitCode.REFUSED, f"{vpn} is not a VPN qube (no tag {TAG})", "--vpn NAME")
    steps: list[Step] = []
    after = arguments.netvm or ""
    for qube in clients:
        if machine.get("netvm", About.ANY, qube) == vpn:
            text = f"have {qube} use {after}, and so no VPN" if after else f"take the network from {qube}"
            steps.append(Step(text, _setting(machine, qube, after)))
            address = machine.get("ip", About.CLIENT, qube)
            if address and qubes[vpn].state == "Running":
                steps.append(Step(f"forget which tunnel {qube} used", _assigning(machine, vpn, address, "default")))
    return _done(steps, f"detach from {vpn}:", arguments)


def _done(steps: list[Step], title: str, arguments: argparse.Namespace) -> ExitCode:
    show(steps, title)
    if not arguments.dry_run:
        carry_out(steps)
    return ExitCode.OK


def _must_be_there(machine: Machine, names: list[str]) -> dict[str, Listed]:
    qubes = machine.qubes()
    for name in names:
        if name not in qubes:
            raise NotFound(f"there is no qube {name}", "qvm-ls")
        if qubes[name].klass == "AdminVM":
            raise Failure(ExitCode.CONFIG, f"{name} has no network", "name a qube")
    return qubes


def _setting(machine: Machine, qube: str, netvm: str) -> Callable[[], None]:
    return lambda: machine.set("netvm", About.CLIENT, qube, netvm)


def _must_serve(machine: Machine, vpn: str) -> None:
    """Raises `Failure` unless the service of a qube that runs answers.

    What dom0 knows of it is of its next boot: it may run since before it got the package, or the flag, and be open.
    """
    service = "miragevpn.Status"
    try:
        replies.take(ask(machine, vpn, service), vpn, service, replies.status)
    except Failure as error:
        remedy = f"{error.remedy}; or restart {vpn}, if the package or its service is newer than its start"
        raise Failure(error.code, f"{vpn} cannot be seen to be closed: {error.what}", remedy) from None


# --- tunnels ------------------------------------------------------------------------------------------------


def _tunnel_of(machine: Machine, vpn: str, profile: str, steps: list[Step]) -> str:
    """The tunnel that uses a profile; if none does, the first that is free, with a step that makes it."""
    details = _details(machine, vpn)
    for name, status in details.tunnels.items():
        if status.profile == profile:
            return name
    free = next((f"vpn{n}" for n in range(1, MAX_TUNNELS) if f"vpn{n}" not in details.tunnels), None)
    if free is None:
        raise Failure(ExitCode.REFUSED, f"{vpn} has {MAX_TUNNELS} tunnels already", "switch one of them to the profile")

    def make() -> None:
        service = "miragevpn.Switch"
        replies.take(ask(machine, vpn, service, f"{profile}+{free}"), vpn, service, replies.status)

    steps.append(Step(f"make the tunnel {free} for {profile}", make))
    return free


def _add_assignment(machine: Machine, vpn: str, qube: str, tunnel: str, steps: list[Step]) -> None:
    address = _address(machine, qube)
    if _details(machine, vpn).assigned.get(address, "vpn0") != tunnel:
        steps.append(Step(f"have {qube} ({address}) use {tunnel}", _assigning(machine, vpn, address, tunnel)))


def _both(machine: Machine, vpn: str, qube: str, tunnel: str, state: str) -> Step:
    """Attach and assign a qube that has no netvm and so no address yet; while it is halted it sends nothing."""
    if state != "Halted":
        raise Failure(ExitCode.REFUSED, f"{qube} has no address yet, since it has no netvm", f"qvm-shutdown {qube}")

    def do() -> None:
        machine.set("netvm", About.CLIENT, qube, vpn)
        try:
            _assigning(machine, vpn, _address(machine, qube), tunnel)()
        except Failure:
            machine.set("netvm", About.CLIENT, qube, "")
            raise

    return Step(f"have {qube} use {vpn}, by {tunnel}", do)


def _assigning(machine: Machine, vpn: str, address: str, tunnel: str) -> Callable[[], None]:
    service = "miragevpn.Assign"

    def assign() -> None:
        replies.take(ask(machine, vpn, service, f"{address}+{tunnel}"), vpn, service, replies.done)

    return assign


def _details(machine: Machine, vpn: str) -> replies.Details:
    details: replies.Details = replies.take(
        ask(machine, vpn, "miragevpn.Details"), vpn, "miragevpn.Details", replies.details
    )
    return details


def _address(machine: Machine, qube: str) -> str:
    """The address that dom0 has given a qube."""
    try:
        return str(IPv4Address(machine.get("ip", About.CLIENT, qube)))
    except ValueError:
        raise Failure(ExitCode.REFUSED, f"{qube} has no IPv4 address", f"qvm-prefs {qube} ip") from None
