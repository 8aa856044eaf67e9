# SPDX-License-Identifier: BSD-2-Clause
"""``miragevpn service``: the service of a VPN qube, in the foreground (systemd's unit starts it).

Elsewhere it is refused: it closes the machine that it runs on, and leaves it closed, which is what a VPN qube is for
and what nobody wants of a laptop or a server.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.exitcodes import ExitCode

FLAG = Path("/run/qubes-service/miragevpn")  # the units' ConditionPathExists; a test compares them


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "service",
        help="run the service of a VPN qube",
        description="Run the service of a VPN qube in the foreground. Everything is closed until a tunnel works, and "
        "after the service has ended; on any other machine it does not start. Settings: "
        "/etc/qubes-miragevpn/service.conf, or MIRAGEVPN_* in the environment.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C; raises `ConfigError` and `SystemRefused`."""
    import asyncio

    from qubes_miragevpn.qube.hardening import no_dumps
    from qubes_miragevpn.qube.service import Service
    from qubes_miragevpn.qube.settings import load
    from qubes_miragevpn.runtime.plain.privilege import demand_net_admin

    demand_vpn_qube()
    demand_net_admin()
    no_dumps()
    settings = load(os.environ)

    async def main() -> None:
        await Service(settings, os.environ).run()

    asyncio.run(main())
    return ExitCode.OK


def demand_vpn_qube(flag: Path = FLAG) -> None:
    """Raise `SystemRefused` in what dom0 did not make a VPN qube, before anything of its network is touched."""
    if not flag.exists():
        raise SystemRefused(
            "this is no VPN qube, and the service would cut it off the network",
            "qvm-service QUBE miragevpn on in dom0 makes one, at its next start; "
            "`miragevpn client FILE` connects any other machine",
        )
