# SPDX-License-Identifier: BSD-2-Clause
"""What stands behind ``AUTH_FAILED,`` and behind ``INFO``: refusals, challenges, addresses to open.

    reason                                              user name and password are not good
    SESSION:reason                                      the session token is not good any more
    TEMP[backoff N,advance no|addr|remote]:reason       not now: wait, then go on there
    CRV1:flags:state:base64 user name:text              answer this question, then log in with the answer

    CR_TEXT:flags:text                                  answer this question at once
    WEB_AUTH:flags:url   OPEN_URL:url                   log in there with a browser

Flags are letters with "," between: R an answer is wanted, E it may be seen while it is typed. Source: OpenVPN
doc/management-notes.txt, auth.c; push.c server_pushed_info, parse_auth_failed_temp. Nothing here opens anything; an
address that is not plain https or http to a host is refused, and every text comes out printable and bounded.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from enum import Enum

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.text import printable

MAX_TEXT = 500  # characters of a question
MAX_STATE = 2048  # characters of a challenge's state, which goes back as it came
MAX_URL = 2048
_NUMBER = re.compile(r"[0-9]{1,10}\Z")
# RFC 3986 without user information: "https://known.example@evil.example/" is there to deceive.
_URL = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?"
    r"([/?#][A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]*)?\Z"
)


class Advance(Enum):
    """Where a client that was refused for the moment goes on."""

    SAME = "no"
    ADDRESS = "addr"
    REMOTE = "remote"


@dataclass(frozen=True)
class Refusal:
    """User name, password or certificate is not good."""

    text: str


@dataclass(frozen=True)
class SessionOver:
    """The token is not good any more."""

    text: str


@dataclass(frozen=True)
class NotNow:
    """Come back after `backoff` seconds (None: as usual)."""

    text: str
    backoff: float | None = None
    advance: Advance = Advance.ADDRESS


@dataclass(frozen=True)
class Question:
    """Something to ask the user. `wanted`: an answer is expected; `echo`: it may be seen."""

    text: str
    wanted: bool
    echo: bool


@dataclass(frozen=True)
class Challenge:
    """A `question`, the answer to which is the password of the next login as `username`, together with `state`."""

    question: Question
    username: str
    state: str

    def password(self, answer: bytes) -> bytes:
        """The password that carries `answer`."""
        return b"CRV1::" + self.state.encode() + b"::" + answer


Failure = Refusal | SessionOver | NotNow | Challenge


def read_failure(reason: str) -> Failure:
    """Read what follows ``AUTH_FAILED,``; a challenge that is not well-formed is a refusal."""
    word, _, rest = reason.partition(":")
    if word == "SESSION":
        return SessionOver(printable(rest))
    if word == "CRV1":
        return _challenge(rest) or Refusal("the server's challenge cannot be read")
    if reason.startswith("TEMP"):
        return _not_now(reason.removeprefix("TEMP"))
    return Refusal(printable(reason))


def _challenge(rest: str) -> Challenge | None:
    flags, state, username, text = [*rest.split(":", 3), "", "", ""][:4]
    try:
        name = base64.b64decode(username, validate=True).decode("utf-8")
    except ValueError:  # not base64, not ASCII to begin with, or not UTF-8 in the end
        return None
    if rest.count(":") < 3 or len(state) > MAX_STATE or len(name) > MAX_TEXT or not name.isprintable():
        return None
    return Challenge(_question(flags, text), name, state)


def _question(flags: str, text: str) -> Question:
    words = flags.split(",")
    return Question(printable(text, MAX_TEXT), "R" in words, "E" in words)


def _not_now(rest: str) -> NotNow:
    """Words in brackets that are not understood count as not said."""
    backoff, advance = None, Advance.ADDRESS
    if rest.startswith("["):
        said, _, rest = rest[1:].partition("]")
        for option in said.split(","):
            key, _, value = option.strip().partition(" ")
            if key == "backoff" and _NUMBER.match(value):
                backoff = float(value)
            elif key == "advance" and value in {each.value for each in Advance}:
                advance = Advance(value)
    return NotNow(printable(rest.removeprefix(":")), backoff, advance)


def read_question(rest: str) -> Question:
    """Read what follows ``CR_TEXT:``; raises `PeerError` (drop)."""
    flags, colon, text = rest.partition(":")
    if not colon:
        raise PeerError("CR_TEXT without flags")
    return _question(flags, text)


def read_url(word: str, rest: str) -> str:
    """Read what follows ``WEB_AUTH:`` or ``OPEN_URL:``; raises `PeerError` (drop) for what nobody should open."""
    url = rest.partition(":")[2] if word == "WEB_AUTH" else rest
    if len(url) > MAX_URL:
        raise PeerError(f"an address to open of {len(url)} characters")
    if not _URL.match(url):
        raise PeerError(f"an address that is not opened: {printable(url, 80)}")
    return url
