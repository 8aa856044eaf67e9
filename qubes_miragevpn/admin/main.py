# SPDX-License-Identifier: BSD-2-Clause
"""The command `qvm-miragevpn`: its arguments, its exit codes (base/exitcodes.py), and one place where errors become
text."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.admin.talking.replies import TUNNEL
from qubes_miragevpn.admin.vpnqube import DEFAULT_NAME, profile_name, qube_name
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode

_EPILOG = "exit codes: " + ", ".join(
    f"{code.value} {code.name.lower()}"
    for code in (
        ExitCode.OK, ExitCode.WARNINGS, ExitCode.CONFIG, ExitCode.SYSTEM, ExitCode.NO_SERVICE, ExitCode.REFUSED,
        ExitCode.INTERNAL,
    )
)  # fmt: skip


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (without the program's name; None: that of the process)."""
    words = list(sys.argv[1:] if args is None else args)
    try:
        arguments = parser().parse_args(words)
        code = int(_run(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse: --help, --version, a wrong command line
        return end.code if isinstance(end.code, int) else int(ExitCode.CONFIG)
    except KeyboardInterrupt:
        return int(ExitCode.OK)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Failure as error:
        _say(str(error))
        return int(error.code)
    except ConfigError as error:
        _say(str(error))
        return int(ExitCode.CONFIG)
    except Exception as error:
        if "--debug" in words[:1]:
            traceback.print_exc()
        _say(f"internal error: {type(error).__name__}: {error}")
        _say("this is a bug; `qvm-miragevpn --debug ...` shows where it happened")
        return int(ExitCode.INTERNAL)


def _say(text: str) -> None:
    sys.stdout.flush()
    print(f"qvm-miragevpn: {text}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> ExitCode:
    from qubes_miragevpn.admin.commands import attach, create, doctor, policy, tunnel

    if arguments.command == "policy":
        return policy.policy(arguments)
    runs: dict[str, Callable[[Machine, argparse.Namespace], ExitCode]] = {
        "create": create.create,
        "remove": create.remove,
        "attach": attach.attach,
        "detach": attach.detach,
        "doctor": doctor.doctor,
        **dict.fromkeys(tunnel.ROWS, tunnel.run),
    }
    return runs[arguments.command](Machine.connect(arguments.command), arguments)


# --- arguments ------------------------------------------------------------------------------------------------


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """A type for argparse out of a check that raises `ConfigError`."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _tunnel(text: str) -> str:
    if not TUNNEL.match(text):
        raise ConfigError(f"{text!r} is not a tunnel's name", fix="vpn0 to vpn15")
    return text


QUBE, PROFILE, TUNNEL_NAME = _checked(qube_name), _checked(profile_name), _checked(_tunnel)


def parser() -> argparse.ArgumentParser:
    """The whole command line; man page and completion are held to it by tests."""
    top = argparse.ArgumentParser(prog="qvm-miragevpn", description="Make, check and steer VPN qubes.", epilog=_EPILOG)
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and end")
    top.add_argument("--debug", action="store_true", help="show where an internal error happened (give it first)")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    _add_life(commands)
    _add_clients(commands)
    _add_tunnels(commands)
    _add_profiles(commands)
    return top


class _Version(argparse.Action):
    """Looks the version up only when asked for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            print(f"qvm-miragevpn {metadata.version('qubes-miragevpn')}")
        except metadata.PackageNotFoundError:
            print("qvm-miragevpn, not installed")
        parser.exit(0)


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add(commands: Commands[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _add_vpn(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vpn", metavar="NAME", type=QUBE, default=DEFAULT_NAME, help=f"the VPN qube (default: {DEFAULT_NAME})"
    )


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")


def _add_life(commands: Commands[argparse.ArgumentParser]) -> None:
    create = _add(commands, "create", "make a VPN qube, or what is missing of it")
    create.add_argument("name", metavar="NAME", type=QUBE)
    create.add_argument("--template", metavar="TEMPLATE", type=QUBE, help="with the package; default: the system's")
    create.add_argument("--netvm", metavar="QUBE", type=QUBE, help="its uplink; default: the system's")
    create.add_argument("--label", metavar="LABEL", choices=LABELS, default="green", help="its colour (default: green)")
    create.add_argument("--profile", metavar="SOURCE", help="import it, start and connect: a file, or QUBE:PATH")
    create.add_argument(
        "--allow-endpoint", metavar="HOST:PORT/PROTO", action="append", default=[],
        help="let the VPN qube reach only this server, by the firewall of the qube before it (may be repeated)",
    )  # fmt: skip
    create.add_argument("--adopt", action="store_true", help="take over a qube of that name that is halted")
    _add_dry_run(create)
    remove = _add(commands, "remove", "remove a VPN qube that no qube uses")
    remove.add_argument("name", metavar="NAME", type=QUBE)
    remove.add_argument("--yes", action="store_true", help="do not ask")
    _add_dry_run(remove)
    doctor = _add(commands, "doctor", "look at all that a VPN qube depends on, and say what mends it")
    doctor.add_argument("name", metavar="NAME", type=QUBE, nargs="?", default=DEFAULT_NAME)
    policy = _add(commands, "policy", "print the least policy that a management qube needs for this tool")
    policy.add_argument("management", metavar="QUBE", type=QUBE, help="the management qube")
    _add_vpn(policy)
    policy.add_argument("--client", metavar="QUBE", type=QUBE, action="append", help="it may attach (may be repeated)")
    policy.add_argument("--template", metavar="TEMPLATE", type=QUBE, help="it may use; default: every one")
    policy.add_argument("--only", metavar="COMMAND", action="append", help="for this command alone (may be repeated)")


LABELS = ("red", "orange", "yellow", "green", "gray", "blue", "purple", "black")


def _add_clients(commands: Commands[argparse.ArgumentParser]) -> None:
    attach = _add(commands, "attach", "have qubes use a VPN qube")
    detach = _add(commands, "detach", "have qubes use it no more; they are without network then")
    for command in (attach, detach):
        command.add_argument("qubes", metavar="QUBE", type=QUBE, nargs="+")
        _add_vpn(command)
        _add_dry_run(command)
    attach.add_argument("--tunnel", metavar="PROFILE", type=PROFILE, help="by a tunnel of this profile's")
    detach.add_argument("--netvm", metavar="QUBE", type=QUBE, help="have them use this qube instead, without a VPN")


def _add_tunnels(commands: Commands[argparse.ArgumentParser]) -> None:
    status = _add(commands, "status", "show what the tunnels do, and who uses which")
    status.add_argument("--watch", action="store_true", help="a line for every change, until Ctrl-C")
    status.add_argument("--json", action="store_true", help="print what was validated of the answer")
    log = _add(commands, "log", "show the end of the log of the VPN qube's service")
    connect = _add(commands, "connect", "connect a tunnel, or try again at once")
    disconnect = _add(commands, "disconnect", "close a tunnel and keep it closed")
    remove = _add(commands, "remove-tunnel", "end one of several tunnels and forget it; its qubes are closed then")
    remove.add_argument("tunnel", metavar="TUNNEL", type=TUNNEL_NAME)
    remove.add_argument("--default", action="store_true", help="have its qubes use vpn0 instead")
    answer = _add(commands, "answer", "answer what the server asks, such as for a one-time code; asked on the terminal")
    for command in (connect, disconnect, answer):
        command.add_argument("tunnel", metavar="TUNNEL", type=TUNNEL_NAME, nargs="?", help="vpn0 if not given")
    for command in (status, log, connect, disconnect, remove, answer):
        _add_vpn(command)


def _add_profiles(commands: Commands[argparse.ArgumentParser]) -> None:
    profiles = _add(commands, "profiles", "list the profiles of a VPN qube")
    profiles.add_argument("--json", action="store_true", help="print what was validated of the answer")
    stored = _add(commands, "import", "hand a profile to a VPN qube, unread")
    switch = _add(commands, "switch", "connect by another profile")
    credentials = _add(commands, "credentials", "set the user name and password of a profile; asked on the terminal")
    delete = _add(commands, "delete", "remove a profile with its credentials")
    for command in (stored, switch, credentials, delete):
        command.add_argument("profile", metavar="PROFILE", type=PROFILE)
    stored.add_argument("source", metavar="SOURCE", help="an .ovpn, or a tar of one with its files; QUBE:PATH in dom0")
    switch.add_argument("tunnel", metavar="TUNNEL", type=TUNNEL_NAME, nargs="?", help="made if there is none yet")
    switch.add_argument("--rollback", action="store_true", help="back to the old one if it does not connect")
    credentials.add_argument("--forget", action="store_true", help="remove them")
    for command in (profiles, stored, switch, credentials, delete):
        _add_vpn(command)


if __name__ == "__main__":
    sys.exit(main())
