# SPDX-License-Identifier: BSD-2-Clause
"""The qrexec services: one row each, and what is checked of a call before the service hears of it.

The agent runs the program of the service with QREXEC_REMOTE_DOMAIN, QREXEC_SERVICE_FULL_NAME and
QREXEC_SERVICE_ARGUMENT in the environment and the argument as the first word (qubes-core-qrexec). dom0's policy has
decided by then; here form and agreement of it all are checked once more, and an argument is never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.names import QUBE_NAME, valid_profile_name
from qubes_miragevpn.qube.rpc.messages import Request

MAX_ARGUMENT = 64


class BadCall(MirageError):
    """A call that is refused before it is carried out; the text is for the log, the caller learns nothing of it."""


@dataclass(frozen=True)
class Service:
    """A row: the service, the verb it stands for, whether it takes a profile's name, and who may call by default."""

    name: str
    verb: str
    takes_profile: bool
    policy: str


SERVICES = (
    Service("miragevpn.Status", "status", False, "ask"),
    Service("miragevpn.Profiles", "profiles", False, "deny"),
    Service("miragevpn.Switch", "switch", True, "deny"),
    Service("miragevpn.Connect", "connect", False, "deny"),
    Service("miragevpn.Disconnect", "disconnect", False, "deny"),
)
"""Policy: what dom0's default file says of a call between two qubes; dom0 itself may always call."""


def check_call(name: str, untrusted_words: Sequence[str], untrusted_environ: Mapping[str, str]) -> Request:
    """Return the request that a call of service `name` makes; raises `BadCall`.

    `untrusted_words` are the program's arguments, `untrusted_environ` its environment.
    """
    service = next((row for row in SERVICES if row.name == name), None)
    if service is None:
        raise BadCall("there is no such service")
    untrusted_caller = untrusted_environ.get("QREXEC_REMOTE_DOMAIN", "")
    if not QUBE_NAME.match(untrusted_caller):
        raise BadCall("the caller's name is missing or malformed")
    caller = untrusted_caller
    if len(untrusted_words) > 1:
        raise BadCall("more than one argument")
    untrusted_argument = untrusted_words[0] if untrusted_words else ""
    if len(untrusted_argument) > MAX_ARGUMENT:
        raise BadCall("the argument is too long")
    if untrusted_environ.get("QREXEC_SERVICE_ARGUMENT", untrusted_argument) != untrusted_argument:
        raise BadCall("two different arguments")
    full = f"{name}+{untrusted_argument}"
    if untrusted_environ.get("QREXEC_SERVICE_FULL_NAME", full) != full:
        raise BadCall("called under another name")
    if not service.takes_profile:
        if untrusted_argument:
            raise BadCall("takes no argument")
        return Request(service.verb, caller=caller)
    if not valid_profile_name(untrusted_argument):
        raise BadCall("the argument is not the name of a profile")
    return Request(service.verb, untrusted_argument, caller)
