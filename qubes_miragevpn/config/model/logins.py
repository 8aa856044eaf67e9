# SPDX-License-Identifier: BSD-2-Clause
"""How a server judges the user names and passwords of its clients."""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.secret import Secret


@dataclass(frozen=True)
class PasswordFile:
    """``auth-user-pass-file``: names with the hashes of their passwords, read again when it changes."""

    path: str


@dataclass(frozen=True)
class Command:
    """``auth-user-pass-verify``: a program with its arguments, told by a file (`by_file`) or by its environment."""

    words: tuple[str, ...]
    by_file: bool


@dataclass(frozen=True)
class Pam:
    """``auth-pam``: the machine's own accounts, by a service of /etc/pam.d."""

    service: str


Method = PasswordFile | Command | Pam


@dataclass(frozen=True)
class TokenRules:
    """``auth-gen-token``: who was let in gets a token that takes the password's place.

    It is good for `lifetime` seconds after the login (0: for ever), and while it is renewed every `renewal` seconds:
    twice that time without a renewal ends it. `secret` (32 bytes) is from ``auth-gen-token-secret``; None: a new one
    with every start.
    """

    lifetime: float
    renewal: float
    secret: Secret | None = None


@dataclass(frozen=True)
class LoginRules:
    """What a client must say besides its certificate."""

    method: Method
    optional: bool = False  # a client without user name and password is asked for by the method, too
    name_is_username: bool = False  # ``username-as-common-name``
    tokens: TokenRules | None = None
