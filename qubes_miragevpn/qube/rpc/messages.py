# SPDX-License-Identifier: BSD-2-Clause
"""The language of the control socket: one line of JSON asks, one line answers.

    request   {"verb": VERB, FIELD: ..., "size": BYTES, "caller": QUBE}   then as many bytes as `size` says
    reply     {"ok": true, "result": ...}   or   {"ok": false, "error": "..."}

`VERBS` has a row for each verb: the fields that it needs and takes, and how many bytes may follow. `caller`
(optional) is the qube that asked by qrexec, for the log. Both sides validate: length first, then form, then value.
Unknown keys are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.names import QUBE_NAME, valid_profile_name

MAX_REQUEST = 4096  # bytes, with the line's end: a verb, two names, an address
MAX_REPLY = 1 << 17  # bytes: a thousand profile names of 64 characters, quoted, and then some
MAX_IMPORT = 1 << 20  # bytes of a profile handed in
MAX_CREDENTIALS = 4096  # bytes of a user name and a password

TUNNEL_NAME = re.compile(r"\Avpn([0-9]|1[0-5])\Z")  # as many as the settings' MAX_TUNNELS

STATUS_KEYS = ("state", "profile", "since", "bytes_in", "bytes_out", "reason", "backend")


class BadMessage(MirageError):
    """What came over the control socket is not in its language; says what is wrong, and nothing of the content."""


@dataclass(frozen=True)
class Verb:
    """A row: the fields a request must have and may have, and how many bytes may follow it."""

    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    payload: int = 0


def _verb(needs: str = "", takes: str = "", payload: int = 0) -> Verb:
    return Verb(frozenset(needs.split()), frozenset(takes.split()), payload)


VERBS: Mapping[str, Verb] = {
    "status": _verb("", "tunnel"),
    "details": _verb(),
    "profiles": _verb(),
    "switch": _verb("name", "tunnel rollback"),
    "connect": _verb("", "tunnel"),
    "disconnect": _verb("", "tunnel"),
    "assign": _verb("address", "tunnel"),
    "remove-tunnel": _verb("tunnel", "release"),
    "answer": _verb("", "tunnel", payload=MAX_CREDENTIALS),
    "events": _verb(),
    "log": _verb(),
    "import": _verb("name", payload=MAX_IMPORT),
    "remove": _verb("name"),
    "rename": _verb("name to"),
    "default": _verb("", "name"),
    "credentials": _verb("name", payload=MAX_CREDENTIALS),
}


@dataclass(frozen=True)
class Request:
    """A validated request. `payload` is kept out of what is printed: it may be a password."""

    verb: str
    name: str | None = None
    to: str | None = None  # rename: the new name
    tunnel: str | None = None  # the tunnel meant (``vpn1``); none is vpn0, or when assigning the one for the rest
    address: str | None = None  # assign: of the qube, in canonical form
    rollback: bool | None = None  # switch: back to the old profile if the new one does not connect
    release: bool | None = None  # remove-tunnel: the qubes assigned to it use the one for the rest again
    caller: str | None = None
    payload: bytes = field(default=b"", repr=False)


def parse_request(untrusted_line: bytes) -> tuple[Request, int]:
    """Return the request in `untrusted_line` and how many bytes are to follow; raises `BadMessage`."""
    if len(untrusted_line) > MAX_REQUEST:
        raise BadMessage("the request is too long")
    untrusted = _object(untrusted_line)
    untrusted_verb = untrusted.pop("verb", None)
    untrusted_size = untrusted.pop("size", 0)
    if not isinstance(untrusted_verb, str) or untrusted_verb not in VERBS:
        raise BadMessage("there is no such verb")
    row = VERBS[untrusted_verb]
    if not set(untrusted) <= row.needs | row.takes | {"caller"}:
        raise BadMessage("the request has a key that does not go with its verb")
    if missing := sorted(row.needs - set(untrusted)):
        raise BadMessage(f"the request lacks {missing[0]}")
    values = {key: _FIELDS[key](untrusted_value) for key, untrusted_value in untrusted.items()}
    if type(untrusted_size) is not int or not 0 <= untrusted_size <= row.payload:
        raise BadMessage(f"at most {row.payload} bytes may follow" if row.payload else "nothing may follow")
    return Request(untrusted_verb, **values), untrusted_size


def _profile(untrusted: Any) -> str:
    if not isinstance(untrusted, str) or not valid_profile_name(untrusted):
        raise BadMessage("not the name of a profile")
    return untrusted


def _qube(untrusted: Any) -> str:
    if not isinstance(untrusted, str) or not QUBE_NAME.match(untrusted):
        raise BadMessage("not the name of a qube")
    return untrusted


def _tunnel(untrusted: Any) -> str:
    if not isinstance(untrusted, str) or not TUNNEL_NAME.match(untrusted):
        raise BadMessage("not the name of a tunnel (vpn0 to vpn15)")
    return untrusted


def _address(untrusted: Any) -> str:
    try:
        if isinstance(untrusted, str) and "%" not in untrusted:
            return str(ip_address(untrusted))
    except ValueError:
        pass
    raise BadMessage("not the address of a qube")


def _flag(untrusted: Any) -> bool:
    if not isinstance(untrusted, bool):
        raise BadMessage("neither true nor false")
    return untrusted


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "name": _profile,
    "to": _profile,
    "tunnel": _tunnel,
    "address": _address,
    "rollback": _flag,
    "release": _flag,
    "caller": _qube,
}


def with_payload(request: Request, payload: bytes) -> Request:
    """The request with the bytes that followed it."""
    return replace(request, payload=payload)


def render_request(request: Request) -> bytes:
    """The line that asks `request`, and the bytes that follow."""
    values = {key: getattr(request, key) for key in ("verb", *_FIELDS)}
    shown = {key: value for key, value in values.items() if value is not None}
    if request.payload:
        shown["size"] = len(request.payload)
    return json.dumps(shown).encode() + b"\n" + request.payload


def render_reply(result: Any = None, *, error: str | None = None) -> bytes:
    """The line that answers."""
    reply = {"ok": True, "result": result} if error is None else {"ok": False, "error": error}
    return json.dumps(reply).encode() + b"\n"


def parse_reply(untrusted_line: bytes) -> tuple[bool, Any]:
    """Return (ok, result or error text); raises `BadMessage`."""
    if len(untrusted_line) > MAX_REPLY or not untrusted_line.endswith(b"\n"):
        raise BadMessage("the service's reply is too long or cut off")
    untrusted = _object(untrusted_line)
    ok = untrusted.get("ok")
    if ok is True and "result" in untrusted:
        return True, untrusted["result"]
    if ok is False and isinstance(untrusted.get("error"), str):
        return False, untrusted["error"]
    raise BadMessage("the service's reply is not understood")


def _object(untrusted_line: bytes) -> dict[str, Any]:
    try:
        untrusted = json.loads(untrusted_line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadMessage("not JSON") from None
    if not isinstance(untrusted, dict):
        raise BadMessage("not a JSON object")
    return untrusted
