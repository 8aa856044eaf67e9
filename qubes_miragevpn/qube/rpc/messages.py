# SPDX-License-Identifier: BSD-2-Clause
"""The language of the control socket: one line of JSON asks, one line answers.

    request   {"verb": "status" | "profiles" | "switch" | "connect" | "disconnect", "name": ..., "caller": ...}
    reply     {"ok": true, "result": ...}   or   {"ok": false, "error": "..."}

`name` goes with ``switch`` and with nothing else; `caller` (optional) is the qube that asked by qrexec, for the log.
Both sides validate: length first, then form, then value. Unknown keys are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.names import QUBE_NAME, valid_profile_name

MAX_REQUEST = 4096  # bytes, with the line's end: a verb and two names
MAX_REPLY = 1 << 17  # bytes: a thousand profile names of 64 characters, quoted, and then some

VERBS = {"status": False, "profiles": False, "switch": True, "connect": False, "disconnect": False}
"""Verb -> does it take a name."""

STATUS_KEYS = ("state", "profile", "since", "bytes_in", "bytes_out", "reason", "backend")


class BadMessage(MirageError):
    """What came over the control socket is not in its language; says what is wrong, and nothing of the content."""


@dataclass(frozen=True)
class Request:
    """A validated request."""

    verb: str
    name: str | None = None
    caller: str | None = None


def parse_request(untrusted_line: bytes) -> Request:
    """Return the request in `untrusted_line`; raises `BadMessage`."""
    if len(untrusted_line) > MAX_REQUEST:
        raise BadMessage("the request is too long")
    untrusted = _object(untrusted_line)
    if not set(untrusted) <= {"verb", "name", "caller"}:
        raise BadMessage("the request has an unknown key")
    untrusted_verb, untrusted_name = untrusted.get("verb"), untrusted.get("name")
    untrusted_caller = untrusted.get("caller")
    if not isinstance(untrusted_verb, str) or untrusted_verb not in VERBS:
        raise BadMessage("there is no such verb")
    if VERBS[untrusted_verb] != ("name" in untrusted):
        raise BadMessage("a name is needed" if VERBS[untrusted_verb] else "no name is taken")
    if "name" in untrusted and not (isinstance(untrusted_name, str) and valid_profile_name(untrusted_name)):
        raise BadMessage("not the name of a profile")
    if "caller" in untrusted and not (isinstance(untrusted_caller, str) and QUBE_NAME.match(untrusted_caller)):
        raise BadMessage("not the name of a qube")
    return Request(untrusted_verb, untrusted_name, untrusted_caller)


def render_request(request: Request) -> bytes:
    """The line that asks `request`."""
    fields = {"verb": request.verb, "name": request.name, "caller": request.caller}
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode() + b"\n"


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
