# SPDX-License-Identifier: BSD-2-Clause
"""What a VPN qube is to dom0: names, features, numbers, and the questions that several commands ask about it."""

from __future__ import annotations

import re

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.names import valid_profile_name

DEFAULT_NAME = "sys-vpn"
TAG = "miragevpn"  # what the policy knows VPN qubes by
FLAG = "service.miragevpn"  # switches the package on, and with it the barriers, before the network
SUPPORTED = "supported-service.miragevpn"  # what the package in a template tells dom0
PROFILE = "vm-config.miragevpn-profile"  # the profile of a boot
MEMORY = "400"  # MiB to begin with: interpreter and libraries need 80, the system the rest
MAXMEM = "800"  # MiB at most; the service is bounded to 512

MAX_CHAIN = 32  # netvms behind each other; more is a loop or nobody's

_QUBE = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]{0,30}\Z")  # qubes.vm.validate_name


def qube_name(text: str) -> str:
    """A qube's name, as dom0 takes it; raises `ConfigError`."""
    if not _QUBE.match(text) or text in ("dom0", "none", "default") or text.endswith("-dm"):
        raise ConfigError(f"{text!r} is not a qube's name", fix="a letter, then letters, digits, - and _, at most 31")
    return text


def profile_name(text: str) -> str:
    """A profile's name; raises `ConfigError`."""
    if not valid_profile_name(text) or text.endswith(".ovpn"):
        raise ConfigError(f"{text!r} is not a profile's name", fix="letters, digits, ._-, at most 64, no .ovpn")
    return text


def must_run(machine: Machine, vpn: str) -> None:
    """Raises `Failure` unless the VPN qube runs: nobody starts a qube by asking how it is."""
    state = machine.state(vpn)
    if state != "Running":
        raise Failure(ExitCode.NO_SERVICE, f"{vpn} does not run ({state.lower()})", f"qvm-start {vpn}")


def chain(machine: Machine, qube: str) -> tuple[list[str], bool]:
    """The netvms of `qube` one behind the other, nearest first; whether they lead back to one of them or to it."""
    found: list[str] = []
    here = qube
    while len(found) < MAX_CHAIN:
        here = machine.get("netvm", About.ANY, here)
        if not here:
            return found, False
        if here == qube or here in found:
            return found, True
        found.append(here)
    return found, True


def supported(machine: Machine, template: str) -> bool:
    """Whether the package in `template` has told dom0 that it is there."""
    return machine.feature(SUPPORTED, About.TEMPLATE, template) == "1"


def must_be_closed_by_itself(machine: Machine, vpn: str) -> None:
    """Raises `Failure` unless the qube's barriers stand whenever it runs: nothing may be attached to it otherwise."""
    if not machine.has_tag(TAG, vpn):
        raise Failure(ExitCode.REFUSED, f"{vpn} is not a VPN qube (no tag {TAG})", f"qvm-miragevpn create {vpn}")
    if machine.feature(FLAG, About.VPN, vpn) in (None, ""):
        raise Failure(
            ExitCode.REFUSED, f"{vpn} would let traffic pass: its service is off", f"qvm-service {vpn} miragevpn on"
        )
    template = machine.get("template", About.VPN, vpn)
    if not supported(machine, template):
        raise Failure(
            ExitCode.REFUSED,
            f"{vpn} would let traffic pass: its template {template} does not have qubes-miragevpn",
            f"install it in {template}, then shut {template} and {vpn} down",
        )
    if machine.get("provides_network", About.ANY, vpn) != "True":
        raise Failure(ExitCode.REFUSED, f"{vpn} does not provide network", f"qvm-prefs {vpn} provides_network True")
