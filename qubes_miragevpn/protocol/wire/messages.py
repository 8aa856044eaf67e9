# SPDX-License-Identifier: BSD-2-Clause
"""Control messages: NUL-terminated strings inside TLS, after key method 2.

Source: wire-protocol draft, "Control messages"; OpenVPN push.c, forward.c, ssl_pkt.c extract_command_buffer. A message
without its NUL, or with a control character, is dropped (class of CVE-2024-5594); the others of its record count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.protocol.wire.authfailed import Failure, Question, read_failure, read_question, read_url

MAX_MESSAGE = 16 * 1024  # one TLS record
MAX_MESSAGES = 16
"""In one record; a peer puts one there, two at most. Without a bound one record could make thousands of log lines."""
PUSH_CHUNK = 1024 - 84
"""Longest PUSH_REPLY that OpenVPN makes: its 1024-byte buffer less room for what is added last."""


@dataclass(frozen=True)
class PushRequest:
    """``PUSH_REQUEST``"""


@dataclass(frozen=True)
class PushReply:
    """``PUSH_REPLY,...``: the options of this part, and whether more parts follow."""

    options: tuple[str, ...]
    more: bool


@dataclass(frozen=True)
class PushUpdate:
    """``PUSH_UPDATE,...``: changes of what was pushed, in parts as a `PushReply`."""

    options: tuple[str, ...]
    more: bool


@dataclass(frozen=True)
class AuthFailed:
    """``AUTH_FAILED[,reason]``"""

    failure: Failure


@dataclass(frozen=True)
class AuthPending:
    """``AUTH_PENDING[,timeout n]``: the login takes longer, at most `timeout` seconds (None: not said)."""

    timeout: float | None


@dataclass(frozen=True)
class Asked:
    """``INFO,CR_TEXT:...``: a question for the user, to be answered by ``CR_RESPONSE``."""

    question: Question


@dataclass(frozen=True)
class ChallengeResponse:
    """``CR_RESPONSE,...``: a client's answer to a question, base64."""

    answer: Secret


@dataclass(frozen=True)
class UrlShown:
    """``INFO,WEB_AUTH:...`` or ``OPEN_URL:...``: an address for the user's browser, checked."""

    url: str


@dataclass(frozen=True)
class Restart:
    """``RESTART[,[flags]reason]``: connect again. `keep`: the token stays good; `elsewhere`: to the next remote."""

    reason: str
    keep: bool = False
    elsewhere: bool = False


@dataclass(frozen=True)
class Halt:
    """``HALT[,...]``: the server forbids us to connect again."""

    reason: str


@dataclass(frozen=True)
class Exit:
    """``EXIT``: the peer leaves."""


@dataclass(frozen=True)
class Other:
    """Anything else, shown in the log and otherwise without effect."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """Not a message; `reason` is printable."""

    reason: str


Message = (
    PushRequest
    | PushReply
    | PushUpdate
    | AuthFailed
    | AuthPending
    | Asked
    | ChallengeResponse
    | UrlShown
    | Restart
    | Halt
    | Exit
    | Other
)


def split_record(record: bytes) -> list[Message | Malformed]:
    """Take one TLS record apart; raises `PeerError` (drop) if it is too large to look at."""
    if len(record) > MAX_MESSAGE:
        raise PeerError(f"control message of {len(record)} bytes")
    *whole, unfinished = record.split(b"\0")
    pieces = [piece for raw in whole if (piece := raw.rstrip(b"\r\n"))]
    if len(pieces) > MAX_MESSAGES:
        raise PeerError(f"{len(pieces)} control messages in one record")
    found = [_parse(piece) for piece in pieces]
    return [*found, Malformed("control message without a final NUL")] if unfinished else found


def _parse(raw: bytes) -> Message | Malformed:
    if any(byte < 0x20 or byte == 0x7F for byte in raw):
        return Malformed(f"control message with control characters: {printable(raw, 60)}")
    text = raw.decode("utf-8", "replace")
    word, _, rest = text.partition(",")
    match word:
        case "PUSH_REQUEST":
            return PushRequest()
        case "PUSH_REPLY":
            return PushReply(*_push(rest))
        case "PUSH_UPDATE":
            return PushUpdate(*_push(rest))
        case "AUTH_FAILED":
            return AuthFailed(read_failure(rest))
        case "AUTH_PENDING":
            return AuthPending(_timeout(rest))
        case "CR_RESPONSE":
            return ChallengeResponse(Secret(rest.encode()))
        case "INFO" | "INFO_PRE":
            return _info(rest)
        case "RESTART":
            flags, reason = _flags(rest)
            return Restart(printable(reason), keep="P" in flags, elsewhere="N" in flags)
        case "HALT":
            return Halt(printable(_flags(rest)[1]))
        case "EXIT":
            return Exit()
    return Other(printable(text))


def _timeout(rest: str) -> float | None:
    for word in rest.split(","):
        key, _, value = word.partition(" ")
        if key == "timeout" and value.isascii() and value.isdigit() and len(value) <= 10:
            return float(value)
    return None


def _info(rest: str) -> Message | Malformed:
    word, _, content = rest.partition(":")
    try:
        if word == "CR_TEXT":
            return Asked(read_question(content))
        if word in ("WEB_AUTH", "OPEN_URL"):
            return UrlShown(read_url(word, content))
    except PeerError as error:
        return Malformed(error.reason)
    return Other(printable(rest))


def _flags(rest: str) -> tuple[str, str]:
    """``[PN]reason`` to the letters and the reason."""
    if not rest.startswith("["):
        return "", rest
    flags, _, reason = rest[1:].partition("]")
    return flags, reason


def _push(rest: str) -> tuple[tuple[str, ...], bool]:
    options = tuple(option for part in rest.split(",") if (option := part.strip(" ")))
    marks = [option for option in options if option.split(" ", 1)[0] == "push-continuation"]
    return tuple(o for o in options if o not in marks), marks[-1:] == ["push-continuation 2"]


def build_push_reply(options: Iterable[str]) -> list[str]:
    """Return the messages that push `options`, in parts of at most `PUSH_CHUNK` bytes."""
    return build_push(options, "PUSH_REPLY")


def build_push(options: Iterable[str], word: str) -> list[str]:
    """The same for either message with options: PUSH_REPLY, PUSH_UPDATE."""
    parts: list[list[str]] = [[]]
    size = 0
    for option in options:
        if parts[-1] and size + 1 + len(option.encode()) > PUSH_CHUNK - len(word):
            parts.append([])
            size = 0
        parts[-1].append(option)
        size += 1 + len(option.encode())
    if len(parts) == 1:
        return [",".join((word, *parts[0]))]
    last = len(parts) - 1
    return [",".join((word, *p, f"push-continuation {1 if i == last else 2}")) for i, p in enumerate(parts)]
