# SPDX-License-Identifier: BSD-2-Clause
"""What is said to an HTTP proxy: the CONNECT request, its answer, and how to log in. Bytes and values, no I/O.

RFC 9110 section 9.3.6 (CONNECT), RFC 7617 (basic), RFC 7616 (digest: MD5, SHA-256, SHA-512-256 and their -sess forms).
Whatever a proxy answers is bounded and checked before it is looked at. NTLM is not spoken: its answers are as good as
the password, and its parsers have been attacked more than once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Credentials, HttpProxy
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused

MAX_HEAD = 16 * 1024  # bytes of an answer's head; real ones have a few hundred, errors of large proxies two thousand
MAX_CHALLENGES = 8
MAX_PARAMETERS = 16  # of one challenge; RFC 7616 defines ten
CNONCE_SIZE = 16

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\Z")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"
_PARAMETER = re.compile(
    rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e]){{0,512}})"|([^\s,"]{{1,512}}))\s*(?:,|\Z)'
)
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|\s*,|\Z)")
_HASHES: Mapping[str, str] = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


@dataclass(frozen=True)
class Answer:
    """The head of a proxy's answer: status, its printable reason, the values of ``Proxy-Authenticate``."""

    status: int
    reason: str
    challenges: tuple[str, ...]


@dataclass(frozen=True)
class Challenge:
    """One way to log in that a proxy offers; names of parameters are in small letters."""

    scheme: str  # in small letters
    parameters: Mapping[str, str]


def authority(host: str, port: int) -> str:
    """``host:port`` as CONNECT writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def request(target: str, proxy: HttpProxy, authorization: str = "") -> bytes:
    """The CONNECT request for `target` (see `authority`)."""
    lines = [f"CONNECT {target} HTTP/{proxy.version}", f"Host: {target}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers]
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


class HeadReader:
    """Gathers the head of an answer from the pieces in which it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Answer | None:
        """Take `piece`; return the answer once its head is whole. Raises `PeerError`."""
        seen = max(len(self._buffer) - 3, 0)
        self._buffer += piece
        end = self._buffer.find(b"\r\n\r\n", seen)
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD:
            raise PeerError(f"the proxy's answer has a head of more than {MAX_HEAD} bytes")
        if self._buffer[:5] != b"HTTP/"[: len(self._buffer)]:
            raise PeerError("the proxy does not speak HTTP")
        if end < 0:
            return None
        answer = parse_head(bytes(self._buffer[:end]))
        if answer.status == 200 and len(self._buffer) > end + 4:
            # In OpenVPN the client speaks first: whatever follows is not the server's.
            raise PeerError("the proxy sent something after its answer")
        return answer


def parse_head(head: bytes) -> Answer:
    """Read the head of an answer, without the empty line that ends it. Raises `PeerError`."""
    first, *fields = head.split(b"\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise PeerError(f"the proxy's answer is not HTTP/1: {printable(first, 60)}")
    challenges: list[str] = []
    for field in fields:
        name, colon, value = field.partition(b":")
        if not colon or not re.fullmatch(_TOKEN.encode(), name):
            raise PeerError("the proxy's answer has a malformed header")
        if name.lower() == b"proxy-authenticate" and len(challenges) < MAX_CHALLENGES:
            challenges.append(value.strip().decode("latin-1"))
    return Answer(int(status[1]), printable(status[2] or b"", 80), tuple(challenges))


def parse_challenges(values: tuple[str, ...]) -> list[Challenge]:
    """The challenges in the values of ``Proxy-Authenticate``, several in one value too; what is malformed is left."""
    found: list[Challenge] = []
    for value in values:
        at = 0
        while at < len(value) and len(found) < MAX_CHALLENGES:
            scheme = _SCHEME.match(value, at)
            if scheme is None:
                break
            parameters, at = _parameters(value, scheme.end())
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _parameters(value: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters from `at` on, and where they end."""
    parameters: dict[str, str] = {}
    for _ in range(MAX_PARAMETERS):
        match = _PARAMETER.match(value, at)
        if match is None:
            break
        name, quoted, plain = match.groups()
        parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain)
        at = match.end()
    return parameters, at


def authorize(answer: Answer, target: str, proxy: HttpProxy, entropy: Callable[[int], bytes]) -> tuple[str, str]:
    """Answer a 407 with the best that both sides allow: (scheme, value of ``Proxy-Authorization``).

    Raises `PeerError` if there is nothing to answer with, `LoginRefused` if the user is to be asked for it first.
    """
    challenges = parse_challenges(answer.challenges)
    offered = ", ".join(sorted({printable(each.scheme, 20) for each in challenges})) or "nothing"
    credentials = proxy.credentials
    if credentials is None and not proxy.asks:
        raise PeerError(f"the proxy wants user name and password (by {offered}); the profile holds none for it")
    chosen = _choose(challenges, proxy.methods)
    if chosen is None:
        allowed = " or ".join(sorted(proxy.methods)) or "nothing"
        raise PeerError(f"the proxy wants a login by {offered}; the profile allows {allowed}")
    if credentials is None:  # nobody is asked for a password that could not be shown
        raise LoginRefused(f"the proxy wants user name and password (by {chosen.scheme})")
    if chosen.scheme == "digest":
        return "digest", digest(chosen, target, credentials, entropy(CNONCE_SIZE).hex())
    return "basic", basic(credentials)


def _choose(challenges: list[Challenge], methods: frozenset[str]) -> Challenge | None:
    """The best of `challenges` that can be answered and is allowed."""
    digests = (each for each in challenges if each.scheme == "digest" and _can_answer(each))
    basics = (each for each in challenges if each.scheme == "basic")
    return (next(digests, None) if "digest" in methods else None) or (
        next(basics, None) if "basic" in methods else None
    )


def basic(credentials: Credentials) -> str:
    """``Basic``: user name and password for everybody on the way to read."""
    pair = credentials.username.encode("utf-8", "surrogateescape") + b":" + credentials.password.reveal()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _can_answer(challenge: Challenge) -> bool:
    parameters = challenge.parameters
    algorithm = parameters.get("algorithm", "MD5").upper().removesuffix("-SESS")
    quality = parameters.get("qop")
    return (
        bool(parameters.get("nonce"))
        and "realm" in parameters
        and _HASHES.get(algorithm, "") in hashlib.algorithms_available
        and (quality is None or "auth" in (word.strip() for word in quality.split(",")))
    )


def digest(challenge: Challenge, target: str, credentials: Credentials, cnonce: str) -> str:
    """``Digest``: the proof of knowing the password, for the method CONNECT and the URI `target`."""
    parameters = challenge.parameters
    algorithm = parameters.get("algorithm", "MD5")
    realm, nonce = parameters["realm"], parameters["nonce"]
    name = _HASHES[algorithm.upper().removesuffix("-SESS")]

    def hashed(*parts: bytes) -> str:
        return hashlib.new(name, b":".join(parts), usedforsecurity=False).hexdigest()

    username = credentials.username.encode("utf-8", "surrogateescape")
    secret = hashed(username, realm.encode("latin-1"), credentials.password.reveal())
    if algorithm.upper().endswith("-SESS"):
        secret = hashed(secret.encode(), nonce.encode("latin-1"), cnonce.encode())
    what = hashed(b"CONNECT", target.encode())
    fields = {"username": credentials.username, "realm": realm, "nonce": nonce, "uri": target}
    quoted = [f'{key}="{_escaped(value)}"' for key, value in fields.items()]
    if "qop" in parameters:
        count = "00000001"
        proof = hashed(
            secret.encode(), nonce.encode("latin-1"), count.encode(), cnonce.encode(), b"auth", what.encode()
        )
        quoted += ["qop=auth", f"nc={count}", f'cnonce="{cnonce}"']
    else:
        proof = hashed(secret.encode(), nonce.encode("latin-1"), what.encode())
    quoted.append(f'response="{proof}"')
    if "algorithm" in parameters:
        quoted.append(f"algorithm={algorithm}")
    if "opaque" in parameters:
        quoted.append(f'opaque="{_escaped(parameters["opaque"])}"')
    return "Digest " + ", ".join(quoted)


def stale(answer: Answer) -> bool:
    """Whether a 407 only says that the nonce is too old, not that the password is wrong."""
    return any(
        each.scheme == "digest" and each.parameters.get("stale", "").lower() == "true"
        for each in parse_challenges(answer.challenges)
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
