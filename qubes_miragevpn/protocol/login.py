# SPDX-License-Identifier: BSD-2-Clause
"""What a client logs in with: user name and password, answers to questions, and the token of an earlier login.

Pure policy. Before each connection it is asked what the user must still be asked (`question`), during it what to
say (`introduce`), afterwards what became of that. A token outlives the connection that brought it; an answer is good
for one login; ``auth-nocache`` forgets a password that was typed as soon as nothing needs it any more.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import Enum

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig, Credentials
from qubes_miragevpn.protocol.wire.authfailed import Challenge, Question
from qubes_miragevpn.protocol.wire.keymethod2 import MAX_CREDENTIAL, MAX_LONG_CREDENTIAL, credential_fits

_NOTHING = Credentials("", Secret(b""))
UNFIT = f"user name and password may have at most {MAX_CREDENTIAL - 1} bytes, none of them NUL"


@dataclass(frozen=True)
class PasswordWanted:
    """User name and password must be asked for."""


class Used(Enum):
    """What the last login was made with."""

    NOTHING = "nothing"
    PASSWORD = "password"
    TOKEN = "token"
    ANSWER = "answer"


class Login:
    """See the module's docstring."""

    def __init__(self, config: ClientConfig) -> None:
        self._wanted = config.auth_user_pass
        self._static = config.static_challenge
        self._own = config.credentials
        self._nocache = config.auth_nocache
        self._credentials = config.credentials
        self._token: Credentials | None = None
        self._answer: Secret | None = None  # to the static challenge
        self._challenge: Challenge | None = None  # waits for its answer
        self._once: Credentials | None = None  # the answer to a challenge
        self.used = Used.NOTHING

    # --- before a connection

    def question(self) -> PasswordWanted | Question | None:
        """What the user must be asked before the next connection."""
        if self._challenge is not None:
            return self._challenge.question
        if not self._wanted or self._once is not None or self._token is not None:
            return None
        if self._credentials is None:
            return PasswordWanted()
        if self._static is not None and self._answer is None:
            return Question(self._static.text, True, self._static.echo)
        return None

    def given(self, credentials: Credentials) -> str:
        """Take user name and password; return why they cannot be used, or ""."""
        if not credential_fits(credentials.username) or not credential_fits(credentials.password.reveal()):
            return UNFIT
        self._credentials = credentials
        return ""

    def answered(self, answer: Secret) -> str:
        """Take the answer to a question; return why it cannot be used, or ""."""
        if self._challenge is None:
            if not credential_fits(answer.reveal()):
                return UNFIT
            self._answer = answer
            return ""
        challenge, password = self._challenge, self._challenge.password(answer.reveal())
        if not credential_fits(password, MAX_LONG_CREDENTIAL):
            return "the answer is too long"
        self._challenge, self._once = None, Credentials(challenge.username, Secret(password))
        return ""

    # --- during a connection

    def introduce(self) -> Credentials:
        """User name and password as they are said."""
        if self._once is not None:
            self.used = Used.ANSWER
            return self._once
        if self._token is not None:
            self.used = Used.TOKEN
            return self._token
        if not self._wanted or self._credentials is None:
            self.used = Used.NOTHING
            return _NOTHING
        self.used = Used.PASSWORD
        return self._with_answer(self._credentials)

    def _with_answer(self, credentials: Credentials) -> Credentials:
        if self._static is None or self._answer is None:
            return credentials
        password, answer = credentials.password.reveal(), self._answer.reveal()
        if self._static.concat:
            return Credentials(credentials.username, Secret(password + answer))
        both = b"SCRV1:" + base64.b64encode(password) + b":" + base64.b64encode(answer)
        return Credentials(credentials.username, Secret(both))

    def accept_token(self, token: Secret, username: str | None) -> str:
        """Use `token` from now on; return why that cannot be, or ""."""
        if not credential_fits(token.reveal(), MAX_LONG_CREDENTIAL):
            return "the server's token is too long"
        name = username or (self._credentials.username if self._credentials else "")
        self._token = Credentials(name, token)
        self._once = None
        self._forget_typed()
        return ""

    # --- afterwards

    def connection_ended(self) -> None:
        """An answer is good once; a typed password is not kept where that is not wanted."""
        if self.used is not Used.NOTHING:
            self._answer = self._once = None
            self._forget_typed()
        self.used = Used.NOTHING

    def _forget_typed(self) -> None:
        if self._nocache:
            self._credentials = self._own

    def challenged(self, challenge: Challenge) -> None:
        """The server asks a question before the next login."""
        self._challenge = challenge

    def drop_token(self) -> None:
        """The token is of no use any more."""
        self._token = None

    def drop_password(self) -> None:
        """User name and password were refused."""
        self._credentials = None
        self._token = None
