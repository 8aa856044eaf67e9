# SPDX-License-Identifier: BSD-2-Clause
"""Rows: how a server judges user names and passwords."""

from __future__ import annotations

from qubes_miragevpn.config.model import LoginRules
from qubes_miragevpn.config.rows.arguments import COMMAND, PATH, SERVICE, Arg, choice, seconds
from qubes_miragevpn.config.rows.row import APPLIED, Row

ROWS = (
    Row(
        "auth-user-pass-file",
        "names and hashes of passwords, as `miragevpn passwd` writes them; openvpn has no such option",
        (Arg("file", PATH),),
        server=APPLIED,
    ),
    Row(
        "auth-user-pass-verify",
        "a program that judges user name and password, as openvpn runs it but without a shell; it may take its time",
        (Arg("command", COMMAND), Arg("how", choice("via-file", "via-env"))),
        server=APPLIED,
    ),
    Row(
        "auth-pam",
        "let the machine's own accounts in, by this service of PAM; openvpn has a plugin for it",
        (Arg("service", SERVICE),),
        server=APPLIED,
    ),
    Row(
        "auth-user-pass-optional",
        "judge clients without user name and password, too",
        server=APPLIED,
        fills=(LoginRules, "optional"),
    ),
    Row(
        "username-as-common-name",
        "a client is called by its user name",
        server=APPLIED,
        fills=(LoginRules, "name_is_username"),
    ),
    Row(
        "auth-gen-token",
        "who was let in gets a token for the password's place: its lifetime (0: for ever), and how often it is renewed "
        "(reneg-sec)",
        (Arg("lifetime", seconds(), optional=True), Arg("renewal", seconds(), optional=True)),
        server=APPLIED,
    ),
    Row(
        "auth-gen-token-secret",
        "the key of those tokens, so that they outlive a restart (`openvpn --genkey auth-token`)",
        (Arg("file", PATH),),
        server=APPLIED,
        block=True,
        secret=True,
    ),
)
