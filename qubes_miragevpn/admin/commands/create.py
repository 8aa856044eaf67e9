# SPDX-License-Identifier: BSD-2-Clause
"""``create`` and ``remove``: a VPN qube with all that belongs to it, and back.

The order of the steps is that of safety: a qube gets the flag that closes it before it can be anybody's netvm, and
nothing is attached here. What is there already is not done again, so that a second run changes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from ipaddress import ip_address

from qubes_miragevpn.admin import policyfile, sources
from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.plan import Step, carry_out, confirm, show
from qubes_miragevpn.admin.talking import replies
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import DOM0, Listed, Machine
from qubes_miragevpn.admin.talking.service import ask
from qubes_miragevpn.admin.vpnqube import FLAG, MAXMEM, MEMORY, PROFILE, TAG, chain, supported
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode

START_TIME = 90.0  # seconds that the service of a qube just started has to answer
STOP_TIME = 60.0  # seconds that a qube has to shut down
PAUSE = 1.0  # seconds between looks


# --- create ---------------------------------------------------------------------------------------------------


def create(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Plan, show, do; raises `Failure`, `ConfigError`."""
    steps = _Creation(machine, arguments).steps()
    vpn = arguments.name
    show(steps, f"{vpn}:")
    if not arguments.dry_run and steps:
        carry_out(steps)
        print(f"{vpn} is ready. To have qubes use it: qvm-miragevpn attach --vpn {vpn} QUBE...")
    if not machine.in_dom0:
        print(f"Policy is dom0's alone. Have /etc/qubes/policy.d/{policyfile.name_of(vpn)} there hold:\n")
        print(policyfile.text_of(vpn), end="")
    return ExitCode.OK


class _Creation:
    """What is, what shall be, and the steps between."""

    def __init__(self, machine: Machine, arguments: argparse.Namespace) -> None:
        self._machine = machine
        self._vpn: str = arguments.name
        self._wanted = arguments
        self._source = sources.parse(arguments.profile) if arguments.profile else None
        self._rules = _rules(arguments.allow_endpoint)
        if self._source is not None:
            sources.check(machine, self._source)
        self._qubes = machine.qubes()
        self._there = self._vpn in self._qubes

    def steps(self) -> list[Step]:
        """All that is missing."""
        machine, vpn = self._machine, self._vpn
        template, netvm = self._template(), self._netvm()
        self._must_be_halted_to_close()
        steps: list[Step] = []
        if not self._there:
            label = self._wanted.label
            steps.append(Step(f"create AppVM {vpn}, template {template}, label {label}", lambda: self._make(template)))
        if not (self._there and machine.has_tag(TAG, vpn)):
            steps.append(Step(f"tag {vpn} {TAG}", lambda: self._change("admin.vm.tag.Set", TAG)))
        self._add_feature(steps, FLAG, "1", f"switch the service miragevpn on in {vpn}: closed from its first boot on")
        self._add_feature(steps, "servicevm", "1", "list it among the service qubes")
        self._add_default(steps, "memory", MEMORY)
        self._add_default(steps, "maxmem", MAXMEM)
        if self._rules and not (self._there and self._has_rules()):
            shown = ", ".join(self._wanted.allow_endpoint)
            steps.append(Step(f"let {vpn} itself reach nothing but {shown}", self._set_rules))
        if not (self._there and machine.get("provides_network", About.ANY, vpn) == "True"):
            steps.append(
                Step("have it provide network", lambda: machine.set("provides_network", About.VPN, vpn, "True"))
            )
        if netvm is not None:
            steps.append(Step(f"set netvm to {netvm}", lambda: machine.set("netvm", About.VPN, vpn, netvm)))
        self._add_default(steps, "autostart", "True")
        if machine.in_dom0 and not policyfile.is_right(vpn):
            steps.append(Step(f"write {policyfile.DIRECTORY / policyfile.name_of(vpn)}", lambda: policyfile.write(vpn)))
        if self._source is not None:
            self._add_profile(steps, self._source)
        return steps

    # --- what shall be ------------------------------------------------------------------------------------

    def _template(self) -> str:
        """The template, which must hold the package: without it the qube would forward everything in the clear."""
        machine, vpn = self._machine, self._vpn
        wanted = self._wanted.template
        if self._there:
            if not (machine.has_tag(TAG, vpn) or self._wanted.adopt):
                raise Failure(
                    ExitCode.REFUSED,
                    f"there is a qube {vpn} already, and it is not a VPN qube (no tag {TAG})",
                    "take another name, or --adopt if it is yours to be made one, or an interrupted `create` left it",
                )
            template = machine.get("template", About.VPN, vpn)
            if wanted not in (None, template):
                raise Failure(
                    ExitCode.REFUSED, f"{vpn} has the template {template}", f"qvm-prefs {vpn} template {wanted}"
                )
        else:
            template = wanted or machine.get_global("default_template")
        if template not in self._qubes:
            raise ConfigError(f"there is no template {template or 'by default'}", fix="--template TEMPLATE")
        if not supported(machine, template):
            raise Failure(
                ExitCode.REFUSED,
                f"the template {template} does not have qubes-miragevpn: a qube based on it would not be closed",
                f"install qubes-miragevpn in {template}, shut it down, and run this again",
            )
        return template

    def _must_be_halted_to_close(self) -> None:
        """The flag works from the next boot on: a qube that runs without it is open until then."""
        machine, vpn = self._machine, self._vpn
        if not self._there or self._qubes[vpn].state == "Halted" or machine.feature(FLAG, About.VPN, vpn) == "1":
            return
        raise Failure(ExitCode.REFUSED, f"{vpn} runs with its service off, and so is not closed", f"qvm-shutdown {vpn}")

    def _netvm(self) -> str | None:
        """The uplink to set: the one asked for, else the system's default. None: what somebody chose stays."""
        machine, wanted = self._machine, self._wanted.netvm
        if self._there:
            now, chosen = machine.get_chosen("netvm", About.ANY, self._vpn)
            if chosen and wanted in (None, now):
                return None
        if wanted is None:
            wanted = machine.get_global("default_netvm")
        if wanted not in self._qubes:
            raise ConfigError(f"there is no qube {wanted or 'by default'} to be the netvm", fix="--netvm QUBE")
        if machine.get("provides_network", About.ANY, wanted) != "True":
            raise ConfigError(f"{wanted} does not provide network", fix="--netvm QUBE")
        above, loop = chain(machine, wanted)
        if self._rules and not above:
            print(f"note: {wanted} has no netvm itself; such a qube mostly enforces no firewall for those behind it")
        if loop or self._vpn in (wanted, *above):
            raise ConfigError(f"with {wanted} as its netvm {self._vpn} would be behind itself", fix="--netvm QUBE")
        return str(wanted)

    # --- steps --------------------------------------------------------------------------------------------

    def _add_feature(self, steps: list[Step], name: str, value: str, text: str) -> None:
        if not (self._there and self._machine.feature(name, About.VPN, self._vpn) == value):
            steps.append(Step(text, lambda: self._change("admin.vm.feature.Set", name, value.encode())))

    def _add_default(self, steps: list[Step], name: str, value: str) -> None:
        """A property that is the owner's to choose: what somebody has set stays."""
        if not (self._there and self._machine.get_chosen(name, About.VPN, self._vpn)[1]):
            steps.append(Step(f"set {name} to {value}", lambda: self._machine.set(name, About.VPN, self._vpn, value)))

    def _add_profile(self, steps: list[Step], source: sources.Source) -> None:
        """Import and switch; the feature that names the profile of a boot is set last, and tells that it is done."""
        machine, vpn, name = self._machine, self._vpn, source.profile
        if self._there and machine.feature(PROFILE, About.VPN, vpn) == name:
            return
        if self._qubes.get(vpn, Listed("AppVM", "Halted")).state != "Running":
            steps.append(Step(f"start {vpn}, until its service answers", self._start))
        whence = f"{source.qube}:{source.path}" if source.qube else source.path
        steps.append(Step(f"copy {whence} to {vpn} as the profile {name}, unread", lambda: self._import(source)))
        steps.append(Step(f"connect by {name}", lambda: self._switch(name)))
        self._add_feature(steps, PROFILE, name, f"have every boot begin with {name}")

    def _change(self, method: str, argument: str, payload: bytes | None = None) -> None:
        self._machine.call(method, argument, About.VPN, self._vpn, payload)

    def _make(self, template: str) -> None:
        words = f"name={self._vpn} label={self._wanted.label}"
        self._machine.call("admin.vm.Create.AppVM", template, About.DOM0, DOM0, words.encode("ascii"))

    def _has_rules(self) -> bool:
        answer = self._machine.call("admin.vm.firewall.Get", "", About.VPN, self._vpn)
        return [set(line.split()) for line in answer.decode("ascii", "replace").splitlines()] == [
            set(rule.split()) for rule in self._rules
        ]

    def _set_rules(self) -> None:
        self._machine.call(
            "admin.vm.firewall.Set", "", About.VPN, self._vpn, "".join(f"{rule}\n" for rule in self._rules).encode()
        )

    def _start(self) -> None:
        machine, vpn = self._machine, self._vpn
        if machine.state(vpn) == "Halted":
            machine.call("admin.vm.Start", "", About.VPN, vpn)
        deadline = time.monotonic() + START_TIME
        while True:
            try:
                replies.take(ask(machine, vpn, "miragevpn.Status"), vpn, "miragevpn.Status", replies.status)
                return
            except Failure as error:
                if error.code != ExitCode.NO_SERVICE or time.monotonic() > deadline:
                    raise
            print(".", end="", flush=True)
            time.sleep(PAUSE)

    def _import(self, source: sources.Source) -> None:
        vpn = self._vpn
        service = "miragevpn.ImportProfile"
        done = ask(self._machine, vpn, service, source.profile, sources.read(self._machine, source))
        for warning in replies.take(done, vpn, service, replies.warnings):
            print(f"\n    warning: {warning}", end=" ")

    def _switch(self, name: str) -> None:
        replies.take(
            ask(self._machine, self._vpn, "miragevpn.Switch", name), self._vpn, "miragevpn.Switch", replies.status
        )


def _rules(endpoints: Sequence[str]) -> list[str]:
    """The VPN qube's own firewall, which the qube before it enforces; empty: none of ours. Raises `ConfigError`."""
    rules, names = [], False
    for endpoint in endpoints:
        host, port, proto = _endpoint(endpoint)
        try:
            address = ip_address(host)
            target = f"dst{address.version}={address}/{address.max_prefixlen}"
        except ValueError:
            target, names = f"dsthost={host}", True
        rules.append(f"action=accept proto={proto} {target} dstports={port}-{port}")
    if names:  # the service looks the server's name up through the same uplink
        rules.append("action=accept specialtarget=dns")
    return [*rules, "action=drop"] if rules else []


def _endpoint(text: str) -> tuple[str, int, str]:
    """``HOST:PORT/PROTO``, an IPv6 address in brackets; raises `ConfigError`."""
    rest, slash, proto = text.rpartition("/")
    host, colon, port = rest.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    safe = set("abcdefghijklmnopqrstuvwxyz0123456789.-_" + (":" if bare != host else ""))
    if (
        not (slash and colon and bare and set(bare) <= safe and not bare.startswith("-") and len(bare) <= 253)
        or proto not in ("udp", "tcp")
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536)
    ):
        raise ConfigError(f"{text!r} is not an endpoint", fix="HOST:PORT/udp or HOST:PORT/tcp, in small letters")
    if bare != host:
        try:
            ip_address(bare)
        except ValueError:
            raise ConfigError(f"{text!r} is not an endpoint", fix="brackets are for IPv6 addresses") from None
    return bare, int(port), proto


# --- remove ---------------------------------------------------------------------------------------------------


def remove(machine: Machine, arguments: argparse.Namespace) -> ExitCode:
    """Undo `create`, once the owner has said yes; raises `Failure`."""
    vpn = arguments.name
    qubes = machine.qubes()
    steps: list[Step] = []
    if vpn in qubes:
        if not machine.has_tag(TAG, vpn):
            raise Failure(ExitCode.REFUSED, f"{vpn} is not a VPN qube (no tag {TAG})", "qvm-remove, if you mean it")
        if users := [name for name, netvm in machine.netvms(qubes).items() if netvm == vpn]:
            raise Failure(
                ExitCode.REFUSED,
                f"these qubes use {vpn}: {', '.join(users)}",
                f"qvm-miragevpn detach --vpn {vpn} {' '.join(users)}",
            )
        if qubes[vpn].state != "Halted":
            steps.append(Step(f"shut {vpn} down", lambda: _stop(machine, vpn)))
        steps.append(
            Step(
                f"remove {vpn}, with its profiles and credentials",
                lambda: machine.call("admin.vm.Remove", "", About.VPN, vpn),
            )
        )
    if machine.in_dom0 and policyfile.is_there(vpn):
        steps.append(Step(f"remove {policyfile.DIRECTORY / policyfile.name_of(vpn)}", lambda: policyfile.remove(vpn)))
    show(steps, f"remove {vpn}:")
    if not steps or arguments.dry_run:
        return ExitCode.OK
    if not (arguments.yes or confirm(f"Remove {vpn} for good?")):
        raise Failure(ExitCode.REFUSED, "nothing was removed", "answer y, or give --yes")
    carry_out(steps)
    return ExitCode.OK


def _stop(machine: Machine, vpn: str) -> None:
    machine.call("admin.vm.Shutdown", "", About.VPN, vpn)
    deadline = time.monotonic() + STOP_TIME
    while machine.state(vpn) != "Halted":
        if time.monotonic() > deadline:
            raise Failure(ExitCode.SYSTEM, f"{vpn} does not shut down", f"qvm-kill {vpn}")
        print(".", end="", flush=True)
        time.sleep(PAUSE)
