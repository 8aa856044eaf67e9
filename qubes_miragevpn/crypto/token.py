# SPDX-License-Identifier: BSD-2-Clause
"""Session tokens of ``auth-gen-token``: they prove a login that was, without the server keeping anything.

    "SESS_ID_AT_" base64( session id 12 | time of the login 8 | time of the last renewal 8 | HMAC-SHA256 32 )

The HMAC is over its owner, session id and both times (big endian, Unix seconds). Source: OpenVPN auth_token.c, whose
layout this is; a token is only ever read by the server that made it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.digests import hmac_digest, same

PREFIX = b"SESS_ID_AT_"
SECRET_SIZE = 32
ID_SIZE = 12
_TIME_SIZE = 8
_MAC_SIZE = 32
_SIZE = ID_SIZE + 2 * _TIME_SIZE + _MAC_SIZE


@dataclass(frozen=True)
class Token:
    """What a token says: whose session, when it logged in, when the token was last renewed."""

    session_id: bytes
    began: int
    renewed: int


def seal(token: Token, owner: str, secret: Secret) -> bytes:
    """The token as a client is told it."""
    said = token.session_id + token.began.to_bytes(_TIME_SIZE, "big") + token.renewed.to_bytes(_TIME_SIZE, "big")
    return PREFIX + base64.b64encode(said + _mac(said, owner, secret))


def is_token(password: bytes) -> bool:
    """Whether a password is meant as a token."""
    return password.startswith(PREFIX)


def open_token(password: bytes, owner: str, secret: Secret) -> Token:
    """The token that `owner` gave; raises `PeerError` (drop) unless it is ours."""
    try:
        raw = base64.b64decode(password.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise PeerError("the session token cannot be read") from None
    said, mac = raw[:-_MAC_SIZE], raw[-_MAC_SIZE:]
    if len(raw) != _SIZE or not same(mac, _mac(said, owner, secret)):
        raise PeerError("the session token is not ours")
    began, renewed = said[ID_SIZE : ID_SIZE + _TIME_SIZE], said[-_TIME_SIZE:]
    return Token(said[:ID_SIZE], int.from_bytes(began, "big"), int.from_bytes(renewed, "big"))


def _mac(said: bytes, owner: str, secret: Secret) -> bytes:
    # What follows the owner's name has one length, so that no two owners share a text.
    return hmac_digest("SHA256", secret.reveal(), owner.encode() + said)
