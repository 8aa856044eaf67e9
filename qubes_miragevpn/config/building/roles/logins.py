# SPDX-License-Identifier: BSD-2-Clause
"""A server's login rules from its settings. One method, and nobody without a certificate unless somebody judges him."""

from __future__ import annotations

from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.model import Command, LoginRules, Method, Pam, PasswordFile, TokenRules
from qubes_miragevpn.config.reading.collect import Entry, Settings

_METHODS = ("auth-user-pass-file", "auth-user-pass-verify", "auth-pam")
_ALONE = ("auth-user-pass-optional", "username-as-common-name", "auth-gen-token", "auth-gen-token-secret")
_CHOOSE = "write one of 'auth-user-pass-file', 'auth-user-pass-verify' and 'auth-pam'"


def logins(settings: Settings, read_file: material.ReadFile, reneg_sec: float) -> LoginRules | None:
    """What clients must say besides their certificate; raises `ConfigError`."""
    methods = [entry for name in _METHODS if (entry := settings.last(name)) is not None]
    if len(methods) > 1:
        raise methods[1].error("passwords are judged in one way", _CHOOSE)
    if not methods:
        _nobody_judges(settings)
        return None
    tokens = _tokens(settings, read_file, reneg_sec)
    return LoginRules(_method(methods[0]), tokens=tokens, **settings.fields(LoginRules))


def _nobody_judges(settings: Settings) -> None:
    for name in _ALONE:
        if (entry := settings.last(name)) is not None:
            raise entry.error(f"'{name}' has a meaning only where passwords are judged", _CHOOSE)
    certificate = settings.last("verify-client-cert")
    if certificate is not None and certificate.args[0] in ("none", "optional"):
        raise certificate.error("anybody could connect: no certificate is needed and nobody judges passwords", _CHOOSE)


def _method(entry: Entry) -> Method:
    value = entry.args[0]
    match entry.row.name:
        case "auth-user-pass-file":
            return PasswordFile(value)
        case "auth-pam":
            return Pam(value)
    return Command(value, by_file=entry.args[1] == "via-file")


def _tokens(settings: Settings, read_file: material.ReadFile, reneg_sec: float) -> TokenRules | None:
    entry, kept = settings.last("auth-gen-token"), settings.last("auth-gen-token-secret")
    if entry is None:
        if kept is not None:
            raise kept.error("'auth-gen-token-secret' is for 'auth-gen-token'", "write 'auth-gen-token' as well")
        return None
    lifetime, renewal = entry.args
    secret = None if kept is None else material.token_secret(kept, read_file)
    return TokenRules(lifetime or 0.0, reneg_sec if renewal is None else renewal, secret)
