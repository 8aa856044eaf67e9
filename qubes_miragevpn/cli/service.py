# SPDX-License-Identifier: BSD-2-Clause
"""``miragevpn service``: the service of a VPN qube, in the foreground (systemd's unit starts it)."""

from __future__ import annotations

import argparse
import os
from typing import Any

from qubes_miragevpn.base.exitcodes import ExitCode


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "service",
        help="run the service of a VPN qube",
        description="Run the service of a VPN qube in the foreground. Everything is closed until a tunnel works, and "
        "after the service has ended. Settings: /etc/qubes-miragevpn/service.conf, or MIRAGEVPN_* in the environment.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C; raises `ConfigError` and `SystemRefused`."""
    import asyncio

    from qubes_miragevpn.qube.hardening import no_dumps
    from qubes_miragevpn.qube.service import Service
    from qubes_miragevpn.qube.settings import load
    from qubes_miragevpn.runtime.plain.privilege import demand_net_admin

    demand_net_admin()
    no_dumps()
    settings = load(os.environ)

    async def main() -> None:
        await Service(settings, os.environ).run()

    asyncio.run(main())
    return ExitCode.OK
