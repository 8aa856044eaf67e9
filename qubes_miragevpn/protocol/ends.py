# SPDX-License-Identifier: BSD-2-Clause
"""How a client's conversation ends, and what that means for what follows."""

from __future__ import annotations

from enum import Enum

from qubes_miragevpn.protocol.wire.authfailed import Challenge, Failure, NotNow, SessionOver


class End(Enum):
    """What the end of a conversation means for the client."""

    LOST = "lost"  # try again
    REFUSED = "refused"  # this server is not one we may talk to; try others
    UNAUTHORISED = "unauthorised"  # the server refused user name and password, or our certificate
    FORBIDDEN = "forbidden"  # do not come back
    LEFT = "left"  # the user wanted to leave, and the server knows


class Over(Exception):
    """The conversation has ended: `failure` of a login; `keep` the token, go `elsewhere`, if the server says so."""

    def __init__(
        self, end: End, reason: str, *, failure: Failure | None = None, keep: bool = True, elsewhere: bool = False
    ) -> None:
        super().__init__(reason)
        self.end = end
        self.reason = reason
        self.failure = failure
        self.keep = keep
        self.elsewhere = elsewhere


def refusal(failure: Failure) -> str:
    """What a failed login is called in the log."""
    match failure:
        case Challenge():
            return "the server asks a question before the login"
        case NotNow(text):
            return f"the server cannot log us in at the moment{_told(text)}"
        case SessionOver(text):
            return f"the server ended our session{_told(text)}"
    return f"the server refused user name, password or certificate{_told(failure.text)}"


def _told(text: str) -> str:
    return f": {text}" if text else ""
