# SPDX-License-Identifier: BSD-2-Clause
"""``doctor``: looks at everything that a VPN qube depends on, changes nothing, and names the command that mends what
is wrong.

A check is a function that yields findings; one that dom0 does not let us make is a finding of its own. The checks do
not stop at each other: all of them are made, as far as the qube is there at all.
"""

from __future__ import annotations

import argparse
import time
from calendar import timegm
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from qubes_miragevpn.admin import policyfile
from qubes_miragevpn.admin.failure import Failure, NotFound
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import DOM0, Listed, Machine
from qubes_miragevpn.admin.talking.service import ask
from qubes_miragevpn.admin.vpnqube import FLAG, TAG, chain, supported
from qubes_miragevpn.base.exitcodes import ExitCode

STEERING = ("miragevpn.ImportProfile+x", "miragevpn.Switch+x", "miragevpn.SetCredentials+x")
"""Calls by which somebody would decide where the traffic goes; none of them is a qube's that is behind it."""

CLOCK_SLACK = 300.0  # seconds; certificates are not that exact


class Verdict(Enum):
    """How bad it is."""

    GOOD = "ok"
    LOOK = "look"  # not wrong by itself
    UNKNOWN = "unknown"  # cannot be seen from here
    BAD = "WRONG"


@dataclass(frozen=True)
class Finding:
    """A line: the verdict, what was found, and what mends it."""

    verdict: Verdict
    text: str
    command: str = ""


Findings = Iterator[Finding]


def doctor(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Make every check; exit code 1 if something is wrong, or worth a look. Raises `Failure`."""
    vpn = arguments.name
    qubes = machine.qubes()
    if vpn not in qubes:
        raise NotFound(f"there is no qube {vpn}", f"qvm-miragevpn create {vpn}")
    patient = _Patient(machine, vpn, qubes)
    worst = Verdict.GOOD
    for check in CHECKS:
        for finding in _guarded(check, patient):
            print(f"{finding.verdict.value:<8} {finding.text}")
            if finding.command:
                print(f"{'':<8}   mend: {finding.command}")
            if finding.verdict is not Verdict.GOOD and worst is not Verdict.BAD:
                worst = finding.verdict
    return ExitCode.OK if worst is Verdict.GOOD else ExitCode.WARNINGS


class _Patient:
    """The VPN qube and the system around it."""

    def __init__(self, machine: Machine, vpn: str, qubes: dict[str, Listed]) -> None:
        self.machine = machine
        self.vpn = vpn
        self.qubes = qubes

    @cached_property
    def netvms(self) -> dict[str, str]:
        """The netvm of each qube; asked once, since there are many."""
        return self.machine.netvms(self.qubes)

    def get(self, name: str, about: About = About.ANY, qube: str = "") -> str:
        return self.machine.get(name, about, qube or self.vpn)

    def running(self) -> bool:
        return self.qubes[self.vpn].state == "Running"


def _guarded(check: Callable[[_Patient], Findings], patient: _Patient) -> Findings:
    """The findings of a check; that it cannot be made is one of them."""
    try:
        yield from check(patient)
    except Failure as error:
        yield Finding(Verdict.UNKNOWN, f"{(check.__doc__ or '').strip()} {error.what}", error.remedy)


# --- the qube -------------------------------------------------------------------------------------------------


def _tag(patient: _Patient) -> Findings:
    """Its tag:"""
    vpn = patient.vpn
    if patient.machine.has_tag(TAG, vpn):
        yield Finding(Verdict.GOOD, f"{vpn} bears the tag {TAG}")
    else:
        yield Finding(Verdict.BAD, f"{vpn} has no tag {TAG}, by which the policy knows it", f"qvm-tags {vpn} add {TAG}")


def _package(patient: _Patient) -> Findings:
    """Its template:"""
    template = patient.get("template", About.VPN)
    if supported(patient.machine, template):
        yield Finding(Verdict.GOOD, f"the template {template} has the package")
    else:
        yield Finding(
            Verdict.BAD,
            f"the template {template} does not say that it has qubes-miragevpn: nothing would close {patient.vpn}",
            f"install qubes-miragevpn in {template}, then: qvm-shutdown {template} {patient.vpn}",
        )


def _flag(patient: _Patient) -> Findings:
    """Its service:"""
    if patient.machine.feature(FLAG, About.VPN, patient.vpn) == "1":
        yield Finding(Verdict.GOOD, "the service miragevpn is on")
    else:
        yield Finding(
            Verdict.BAD,
            f"the service miragevpn is off: {patient.vpn} forwards in the clear",
            f"qvm-shutdown {patient.vpn}; qvm-service {patient.vpn} miragevpn on",
        )


def _provides(patient: _Patient) -> Findings:
    """Whether it provides network:"""
    if patient.get("provides_network") == "True":
        yield Finding(Verdict.GOOD, f"{patient.vpn} provides network")
    else:
        yield Finding(
            Verdict.BAD, f"{patient.vpn} does not provide network", f"qvm-prefs {patient.vpn} provides_network True"
        )


def _chain(patient: _Patient) -> Findings:
    """Its uplink:"""
    vpn = patient.vpn
    above, loop = chain(patient.machine, vpn)
    shown = " -> ".join([vpn, *above])
    if loop:
        yield Finding(Verdict.BAD, f"the netvms go round in a circle: {shown}", f"qvm-prefs {vpn} netvm sys-firewall")
    elif not above:
        yield Finding(Verdict.BAD, f"{vpn} has no netvm: no way to its server", f"qvm-prefs {vpn} netvm sys-firewall")
    else:
        yield Finding(Verdict.GOOD, f"its uplink: {shown}")


def _autostart(patient: _Patient) -> Findings:
    """Its start:"""
    if patient.get("autostart", About.VPN) == "True":
        yield Finding(Verdict.GOOD, f"{patient.vpn} starts with the system; dom0 starts its netvms before it")
    else:
        yield Finding(
            Verdict.LOOK,
            f"{patient.vpn} starts when the first of its qubes does, which waits for it then",
            f"qvm-prefs {patient.vpn} autostart True",
        )


def _service(patient: _Patient) -> Findings:
    """Its tunnel:"""
    vpn = patient.vpn
    if not patient.running():
        yield Finding(Verdict.LOOK, f"{vpn} does not run", f"qvm-start {vpn}")
        return
    service = "miragevpn.Status"
    status: replies.Status = replies.take(ask(patient.machine, vpn, service), vpn, service, replies.status)
    if status.state == "connected":
        yield Finding(Verdict.GOOD, f"connected by {status.profile} since {status.since}")
    else:
        why = f": {status.reason}" if status.reason else ""
        yield Finding(Verdict.LOOK, f"the tunnel is {status.state}{why}", f"qvm-miragevpn status --vpn {vpn}")
    ahead = timegm(time.strptime(status.since, "%Y-%m-%dT%H:%M:%SZ")) - time.time()
    if ahead > CLOCK_SLACK:
        yield Finding(
            Verdict.BAD,
            f"the clock of {vpn} is {int(ahead)} seconds ahead of this one",
            f"qvm-run -u root {vpn} qvm-sync-clock",
        )


# --- around it ------------------------------------------------------------------------------------------------


def _policy(patient: _Patient) -> Findings:
    """The policy:"""
    vpn = patient.vpn
    if not patient.machine.in_dom0:
        yield Finding(Verdict.UNKNOWN, "dom0's policy cannot be read from here", f"in dom0: qvm-miragevpn doctor {vpn}")
        return
    if not policyfile.has_default():
        yield Finding(
            Verdict.BAD,
            f"{policyfile.DIRECTORY / policyfile.DEFAULT} is missing: whatever it denies is left to other files",
            "reinstall qubes-miragevpn-dom0",
        )
    if not policyfile.is_right(vpn):
        yield Finding(
            Verdict.LOOK,
            f"{policyfile.DIRECTORY / policyfile.name_of(vpn)} is missing, or not as it was made",
            f"qvm-miragevpn create {vpn}",
        )
    for qube in (name for name, netvm in patient.netvms.items() if netvm == vpn):
        verdicts = {service: policyfile.allows(qube, vpn, service) for service in STEERING}
        if allowed := [service.partition("+")[0] for service, verdict in verdicts.items() if verdict]:
            yield Finding(
                Verdict.BAD,
                f"the policy lets {qube}, which is behind {vpn}, call {', '.join(allowed)} without a question",
                f"remove that rule from {policyfile.DIRECTORY}: grep miragevpn {policyfile.DIRECTORY}/*.policy",
            )
        elif None in verdicts.values():
            yield Finding(Verdict.UNKNOWN, f"{policyfile.EVALUATE} does not say what {qube} may do with {vpn}")
        else:
            yield Finding(Verdict.GOOD, f"the policy keeps {qube} from steering {vpn}")


def _downstream(patient: _Patient) -> Findings:
    """The qubes behind it:"""
    machine, vpn = patient.machine, patient.vpn
    behind, fresh = list[str](), [vpn]
    while fresh:  # those behind a firewall qube that is behind it as well
        here = [user for user, netvm in patient.netvms.items() if netvm in fresh and user not in (vpn, *behind)]
        behind += here
        fresh = [each for each in here if machine.get("provides_network", About.ANY, each) == "True"]
    if not behind:
        yield Finding(Verdict.LOOK, f"no qube uses {vpn}", f"qvm-miragevpn attach --vpn {vpn} QUBE")
    for qube in behind:
        ways = [*_disposables(patient, qube, behind), *_devices(patient, qube)]
        yield from ways
        if not ways:
            yield Finding(Verdict.GOOD, f"{qube} has no other way out")


def _disposables(patient: _Patient, qube: str, behind: list[str]) -> Findings:
    """A disposable that a qube opens has the network of its own template, not that of the qube."""
    template = patient.get("default_dispvm", qube=qube)
    if not template or template not in patient.qubes:
        return
    netvm = patient.get("netvm", qube=template)
    if netvm and netvm != patient.vpn and netvm not in behind:
        yield Finding(
            Verdict.LOOK,
            f"disposables that {qube} opens ({template}) go out by {netvm}, not by {patient.vpn}",
            f"qvm-prefs {qube} default_dispvm ''   (or a template whose netvm is {patient.vpn})",
        )


def _devices(patient: _Patient, qube: str) -> Findings:
    """A network card of its own is a way out; which device is one cannot be seen here."""
    try:
        answer = patient.machine.call("admin.vm.device.pci.Assigned", "", About.ANY, qube)
    except Failure:
        answer = patient.machine.call("admin.vm.device.pci.List", "", About.ANY, qube)
    if answer.strip():
        yield Finding(
            Verdict.LOOK,
            f"{qube} has PCI devices; a network card among them is a way around {patient.vpn}",
            f"qvm-pci list {qube}",
        )


def _updates(patient: _Patient) -> Findings:
    """The update proxy:"""
    vpn = patient.vpn
    if not patient.machine.in_dom0:
        yield Finding(Verdict.UNKNOWN, "where templates get their updates is in dom0's policy alone")
        return
    wrong = [source for source, target in policyfile.update_proxies() if target == vpn]
    if wrong:
        yield Finding(
            Verdict.LOOK,
            f"{', '.join(wrong)} update through {vpn}, whose own programs use no network unless its settings say so",
            f"own_programs = yes in {vpn}'s /etc/qubes-miragevpn/service.conf, or another target of that rule",
        )
    else:
        yield Finding(Verdict.GOOD, f"no template updates through {vpn} itself")


def _clock(patient: _Patient) -> Findings:
    """The clock:"""
    vpn = patient.vpn
    clock = patient.machine.get_global("clockvm")
    if clock == vpn:
        yield Finding(
            Verdict.BAD, f"{vpn} is the qube that tells the time, and may not ask for it", "qubes-prefs clockvm sys-net"
        )
    elif not clock or clock not in patient.qubes or clock == DOM0:
        yield Finding(
            Verdict.LOOK, "no qube tells the time: certificates may seem out of date", "qubes-prefs clockvm sys-net"
        )
    else:
        yield Finding(Verdict.GOOD, f"the time comes from {clock}")


CHECKS = (
    _tag, _package, _flag, _provides, _chain, _autostart, _service, _policy, _downstream, _updates, _clock
)  # fmt: skip
