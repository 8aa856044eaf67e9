# SPDX-License-Identifier: BSD-2-Clause
"""The qrexec services: one row each, and what is checked of a call before the service hears of it.

The agent runs the program of the service with QREXEC_REMOTE_DOMAIN, QREXEC_SERVICE_FULL_NAME and
QREXEC_SERVICE_ARGUMENT in the environment and the argument as the first word (qubes-core-qrexec). dom0's policy has
decided by then; here form and agreement of it all are checked once more, and an argument is never guessed. qrexec lets
letters, digits and ``+-._`` into an argument; no name of ours holds ``+``, so that it parts the words of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.names import QUBE_NAME, valid_profile_name
from qubes_miragevpn.qube.rpc.messages import TUNNEL_NAME, VERBS, Request

MAX_ARGUMENT = 128  # a profile's name of 64 characters, an address, and words between
ROLLBACK = "rollback"
DEFAULT = "default"


class BadCall(MirageError):
    """A call that is refused before it is carried out; the text is for the log, the caller learns nothing of it."""


Fields = dict[str, Any]
Parser = Callable[[Sequence[str]], Fields]
"""Turn the words of an argument into fields of a `Request`; raises `BadCall`."""


@dataclass(frozen=True)
class Service:
    """A row: the service, the verb it stands for, its argument's form and reader, who may call by default.

    `explains`: why the service refused is told to the caller, since it is about what the caller handed in.
    """

    name: str
    verb: str
    argument: str
    parse: Parser
    policy: str
    reply: str
    explains: bool = False

    @property
    def payload(self) -> int:
        """How many bytes of standard input are taken."""
        return VERBS[self.verb].payload


def _nothing(words: Sequence[str]) -> Fields:
    if words != [""]:
        raise BadCall("takes no argument")
    return {}


def _profile(words: Sequence[str]) -> Fields:
    if len(words) != 1 or not valid_profile_name(words[0]):
        raise BadCall("the argument is not the name of a profile")
    return {"name": words[0]}


def _tunnel(words: Sequence[str]) -> Fields:
    """Nothing, or a tunnel's name."""
    if words == [""]:
        return {}
    if len(words) != 1 or not TUNNEL_NAME.match(words[0]):
        raise BadCall("the argument is not the name of a tunnel")
    return {"tunnel": words[0]}


def _switch(words: Sequence[str]) -> Fields:
    fields = _profile(words[:1])
    rest = list(words[1:])
    if rest and TUNNEL_NAME.match(rest[0]):
        fields["tunnel"] = rest.pop(0)
    if rest == [ROLLBACK]:
        fields["rollback"] = True
    elif rest:
        raise BadCall("the argument has words that are not known")
    return fields


def _assign(words: Sequence[str]) -> Fields:
    """A qube's IPv4 address (its IPv6 address goes with it), and a tunnel or the word for the rest's."""
    if len(words) != 2 or not (words[1] == DEFAULT or TUNNEL_NAME.match(words[1])):
        raise BadCall("the argument is not ADDRESS+TUNNEL")
    try:
        fields: Fields = {"address": str(IPv4Address(words[0]))}
    except ValueError:
        raise BadCall("the argument does not begin with an IPv4 address") from None
    return fields if words[1] == DEFAULT else {**fields, "tunnel": words[1]}


def _remove_tunnel(words: Sequence[str]) -> Fields:
    """A tunnel's name, and what becomes of the qubes that are assigned to it if they are not to stay closed."""
    if not TUNNEL_NAME.match(words[0]) or list(words[1:]) not in ([], [DEFAULT]):
        raise BadCall("the argument is not TUNNEL or TUNNEL+default")
    return {"tunnel": words[0], "release": True} if words[1:] else {"tunnel": words[0]}


SERVICES = (
    Service("miragevpn.Status", "status", "[TUNNEL]", _tunnel, "deny", "the state, and since when"),
    Service("miragevpn.Details", "details", "", _nothing, "deny", "every tunnel's status, and who uses which"),
    Service("miragevpn.Profiles", "profiles", "", _nothing, "deny", "the profiles' names, the current and default one"),
    Service("miragevpn.Switch", "switch", "NAME[+TUNNEL][+rollback]", _switch, "deny", "the status"),
    Service("miragevpn.Connect", "connect", "[TUNNEL]", _tunnel, "deny", "the status"),
    Service("miragevpn.Disconnect", "disconnect", "[TUNNEL]", _tunnel, "deny", "the status"),
    Service("miragevpn.Assign", "assign", "ADDRESS+TUNNEL or ADDRESS+default", _assign, "deny", "the assignment"),
    Service("miragevpn.RemoveTunnel", "remove-tunnel", "TUNNEL[+default]", _remove_tunnel, "deny", "the tunnel"),
    Service("miragevpn.Answer", "answer", "[TUNNEL]", _tunnel, "deny", "that it was taken", explains=True),
    Service("miragevpn.Events", "events", "", _nothing, "deny", "a line for every change, until the caller leaves"),
    Service("miragevpn.Log", "log", "", _nothing, "deny", "the last lines of the service's log"),
    Service("miragevpn.ImportProfile", "import", "NAME", _profile, "deny", "name and warnings", explains=True),
    Service("miragevpn.RemoveProfile", "remove", "NAME", _profile, "deny", "the name"),
    Service("miragevpn.SetCredentials", "credentials", "NAME", _profile, "deny", "set or forgotten", explains=True),
)
"""Policy: what dom0's default file says of a call between two qubes; dom0 itself may always call."""


def find(name: str) -> Service:
    """The row of service `name`; raises `BadCall`."""
    service = next((row for row in SERVICES if row.name == name), None)
    if service is None:
        raise BadCall("there is no such service")
    return service


def check_call(name: str, untrusted_words: Sequence[str], untrusted_environ: Mapping[str, str]) -> Request:
    """Return the request that a call of service `name` makes, without its payload; raises `BadCall`.

    `untrusted_words` are the program's arguments, `untrusted_environ` its environment.
    """
    service = find(name)
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
    return Request(service.verb, **service.parse(untrusted_argument.split("+")), caller=caller)
