# SPDX-License-Identifier: BSD-2-Clause
"""``policy``: the least that dom0 has to allow a management qube so that it can use this tool, made from the one
list.

A line for each row of `talking.allowed`: exact method, exact argument, exact destination. Reading QUBE:PATH and
writing policy files are not among them: either would be full control over other qubes.
"""

from __future__ import annotations

import argparse

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.allowed import CALLS, COMMANDS, About, Call
from qubes_miragevpn.admin.talking.machine import DOM0
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode

FILE = "/etc/qubes/policy.d/30-miragevpn-management.policy"


def policy(arguments: argparse.Namespace) -> ExitCode:
    """Print the lines; raises `ConfigError`."""
    unknown = sorted(set(arguments.only or ()) - set(COMMANDS))
    if unknown:
        raise ConfigError(f"no such command: {unknown[0]}", fix=f"of {', '.join(COMMANDS)}")
    if arguments.management == DOM0:
        raise Failure(ExitCode.CONFIG, "dom0 needs no policy", "name the management qube")
    print("\n".join(lines(arguments.management, arguments.vpn, arguments.client, arguments.template, arguments.only)))
    return ExitCode.OK


def lines(
    management: str, vpn: str, clients: list[str] | None, template: str | None, only: list[str] | None
) -> list[str]:
    """The policy file's lines: for `only` these commands (all), `clients` (those with a tag of their own)."""
    commands = set(only or COMMANDS)
    wanted = [row for row in CALLS if row.commands & commands]
    found = [
        f"# Lets {management} run qvm-miragevpn {' '.join(sorted(commands)) if only else '(every command)'} for {vpn}.",
        f"# It belongs into {FILE} in dom0.",
        "",
    ]
    if clients is None and any(row.about is About.CLIENT for row in wanted):
        clients = [f"@tag:miragevpn-client-of-{management}"]
        found[2:2] = [f"# Give the qubes that it may attach a tag: qvm-tags QUBE add miragevpn-client-of-{management}"]
    return found + list(
        dict.fromkeys(line for row in wanted for line in _lines(row, management, vpn, clients or [], template))
    )


def _lines(row: Call, management: str, vpn: str, clients: list[str], template: str | None) -> list[str]:
    if row.template:
        argument = f"+{template}" if template else "*"
    else:
        argument = "*" if row.argument == "*" else f"+{row.argument}"
    targets = {
        About.DOM0: ["@adminvm"],
        About.VPN: [vpn],
        About.CLIENT: clients,
        About.TEMPLATE: [template or "@type:TemplateVM"],
        About.ANY: ["@anyvm"],
    }[row.about]
    action = "allow target=dom0" if row.is_admin else "allow autostart=no"
    return [f"{row.method:<28} {argument:<32} {management} {target} {action}" for target in targets]
