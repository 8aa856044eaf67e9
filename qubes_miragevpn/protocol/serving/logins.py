# SPDX-License-Identifier: BSD-2-Clause
"""Whether somebody with a name and a password may enter: the server's part of logging in.

The verdict is asked for (`VerifyLogin`) and may take its time; the key exchange goes on meanwhile, but the client gets
no address and its packets go nowhere before it. What was granted once is a token from then on, where the configuration
says so. A verdict that does not come is a refusal, and so is one on a client that was let in before and renews its key.
Source: wire-protocol draft, "Authentication"; OpenVPN ssl_verify.c, auth_token.c.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import LoginRules
from qubes_miragevpn.crypto import token
from qubes_miragevpn.crypto.token import Token
from qubes_miragevpn.protocol.contract import (
    Drop,
    Effect,
    ForgetLogin,
    Level,
    LoginAnswered,
    LoginJudged,
    LoginPending,
    Notify,
    RemovePeer,
    VerifyLogin,
)
from qubes_miragevpn.protocol.serving.peer import EXIT_DELAY, Peer
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import build_push_reply

MAX_REASON = 900
"""Bytes of a reason that a client is told; with AUTH_FAILED it fits openvpn's buffer."""

MAX_PENDING = 600.0
"""Seconds that a login may take at the very most."""

MAX_FACTS = 64
"""Lines of a peer info that are handed on; an honest one has twenty."""

EXPIRED = "SESSION: the token has expired"
"""A reason after which a client forgets its token and asks for the password (OpenVPN push.c receive_auth_failed)."""


class Logins:
    """The rules at work; what it knows of somebody is in its `Peer`. `emit` takes effects."""

    def __init__(
        self,
        rules: LoginRules,
        patience: float,
        *,
        entropy: Callable[[int], bytes],
        unix_time: Callable[[], int],
        emit: Callable[[Effect], None],
    ) -> None:
        """`patience`: seconds that a verdict may take without a word."""
        self._rules = rules
        self._patience = patience
        self._entropy = entropy
        self._unix_time = unix_time
        self._emit = emit
        self._attempts = 0  # of everybody: a late verdict is nobody else's, whoever has the peer's number by then
        tokens = rules.tokens
        self._secret = tokens.secret if tokens and tokens.secret else Secret(entropy(token.SECRET_SIZE))

    # --- a client says who it is

    def judge(self, peer: Peer, hello: KeyMethod2, now: float) -> bool:
        """Whether `hello` lets the client in at once (a good token); otherwise the verdict follows."""
        password = hello.password.reveal()
        if not (hello.username or password) and not self._rules.optional:
            peer.refusal = ("no user name and password", "")
        elif self._rules.tokens is not None and token.is_token(password):
            try:
                peer.token = self._good_token(password, _owner(peer, hello.username), peer.token)
            except PeerError as error:
                peer.refusal = (error.reason, EXPIRED)
            else:
                self._renew(peer)
                return True
        else:
            self._attempts += 1
            peer.attempt = self._attempts
            peer.judged_until = now + self._patience
            facts = tuple(line for line in hello.peer_info.splitlines()[:MAX_FACTS] if line.isprintable())
            self._emit(VerifyLogin(
                peer.number, peer.attempt, hello.username, hello.password, peer.certified, peer.endpoint, facts
            ))  # fmt: skip
        return False

    def _good_token(self, password: bytes, owner: str, own: Token | None) -> Token:
        rules = self._rules.tokens
        assert rules is not None
        found, now = token.open_token(password, owner, self._secret), self._unix_time()
        if own is not None and own.session_id != found.session_id:
            raise PeerError("the session token is another session's")
        if rules.lifetime and now > found.began + rules.lifetime:
            raise PeerError("the session token is older than its lifetime")
        if rules.renewal and now > found.renewed + 2 * rules.renewal:
            raise PeerError("the session token was not renewed in time")
        return found

    def answered(self, peer: Peer, answer: Secret) -> None:
        """The client answers a question."""
        if peer.judged:
            self._emit(LoginAnswered(peer.number, peer.attempt, answer))

    # --- the verdict

    def judged(self, peer: Peer, event: LoginJudged | LoginPending, now: float) -> bool:
        """Take a verdict in; whether the client may enter."""
        if not peer.judged or event.attempt != peer.attempt:
            self._emit(Drop("a verdict that nobody waits for", peer.tag))
            return False
        if isinstance(event, LoginPending):
            seconds = min(max(event.seconds, 1.0), MAX_PENDING)
            peer.judged_until = now + seconds
            for message in (f"AUTH_PENDING,timeout {seconds:.0f}", *event.messages):
                peer.session.send_message(message, now)
            return False
        peer.judged_until = None
        if not event.granted:
            self._refuse(peer, event.why or "user name or password are wrong", event.told, now)
            return False
        if self._rules.tokens is not None:
            began = self._unix_time()
            peer.token = Token(self._entropy(token.ID_SIZE), began, began)
            self._renew(peer)
        return True

    def settle(self, peer: Peer, now: float) -> None:
        """Once there are words for it (after the key exchange, or as time passes): refuse whom nothing let in."""
        if peer.refusal is not None:
            self._refuse(peer, *peer.refusal, now)
        elif peer.judged_until is not None and now >= peer.judged_until:
            self._refuse(peer, "no verdict in time", "", now)

    def _refuse(self, peer: Peer, why: str, told: str, now: float) -> None:
        """Its packets go nowhere from now on, and nobody waits for a verdict."""
        self.forget(peer)
        if peer.served:
            peer.served = False
            peer.installed.clear()
            self._emit(RemovePeer(peer.number))
        self._emit(refuse(peer, why, told, now))

    def forget(self, peer: Peer) -> None:
        """Nobody waits for a verdict on this client any more."""
        if peer.judged:
            peer.judged_until = None
            self._emit(ForgetLogin(peer.number, peer.attempt))

    # --- tokens

    def _renew(self, peer: Peer) -> None:
        """Have a token of this moment ready, to be pushed."""
        assert peer.token is not None
        peer.token = Token(peer.token.session_id, peer.token.began, self._unix_time())
        sealed = token.seal(peer.token, _owner(peer, peer.username), self._secret)
        peer.extra = (f"auth-token {sealed.decode('ascii')}",)

    def tell(self, peer: Peer, now: float) -> None:
        """Push what a served client has not heard yet."""
        for message in build_push_reply(peer.extra) if peer.extra else ():
            peer.session.send_message(message, now)
        peer.extra = ()


def refuse(peer: Peer, why: str, told: str, now: float) -> Notify:
    """It may not enter, or not stay: it is told, and soon forgotten."""
    peer.judged_until, peer.refusal, peer.refused = None, None, True
    peer.leaves_at = min(peer.leaves_at, now + EXIT_DELAY)
    clean = "".join(char for char in told if char.isprintable()).encode()[:MAX_REASON].decode("utf-8", "ignore")
    peer.session.send_message(f"AUTH_FAILED,{clean}" if clean else "AUTH_FAILED", now)
    return Notify(Level.WARNING, f"is refused: {printable(why, 500)}", peer.tag)


def _owner(peer: Peer, username: str) -> str:
    """To whom a token belongs: this user with this certificate."""
    return f"{username}\0{peer.certified}"
