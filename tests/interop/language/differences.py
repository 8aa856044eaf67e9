# SPDX-License-Identifier: BSD-2-Clause
"""Why our verdict may differ from openvpn's: reasons by their names, which doc/differences-from-openvpn.md explains."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qubes_miragevpn.config.rows.row import ByFirstWord, NoEffect, Refused
from qubes_miragevpn.config.rows.table import ROWS
from tests.interop.language.judge import Verdicts


@dataclass(frozen=True)
class Judged:
    """A configuration and the line in it that it is about."""

    name: str  # of the directive, or of the whole text
    words: str
    server: bool
    verdicts: Verdicts

    def fate(self) -> object:
        """What the row says becomes of the line."""
        row = ROWS.get(self.name)
        fate = None if row is None else row.server if self.server else row.client
        return fate.pick(self.words.split()) if isinstance(fate, ByFirstWord) else fate


def _we_said(pattern: str) -> Callable[[Judged], bool]:
    return lambda judged: re.search(pattern, judged.verdicts.we_said) is not None


STRICTER: Mapping[str, Callable[[Judged], bool]] = MappingProxyType(
    {
        "refused": lambda judged: isinstance(judged.fate(), Refused) or " not supported" in judged.verdicts.we_said,
        "place": _we_said(r"has no meaning in|for a server's push only"),
        "numbers": _we_said(r"must be (0, or )?a (hexadecimal )?number"),
        "addresses and names": _we_said(
            r"must be (a host name|an address, or|an interface|an IPv|a netmask|one of|a domain)|too many words"
        ),
        "known words": _we_said(
            r"must be ('|CN|TLS|a SHA)|is no list of groups|does not have all of these groups|kind of the interface"
        ),
        "static key without protection": _we_said(
            r"no forward secrecy|'cipher none' cannot|nothing would authenticate the packets"
        ),
        "static key with half a tunnel": lambda judged: (
            judged.name.startswith("static") and "is missing" in judged.verdicts.we_said
        ),
        "static key and TLS": _we_said("means nothing in the static key mode"),
        "logins without a judge": _we_said("only where passwords are judged"),
        "a server's addresses": lambda judged: judged.name.startswith("addresses "),
        "plain TLS": _we_said("could speak to its TLS library"),
        "a judge without client keys": _we_said("'tls-crypt-v2-verify' needs 'tls-crypt-v2'"),
    }
)
"""What we refuse and openvpn takes."""

LAXER: Mapping[str, Callable[[Judged], bool]] = MappingProxyType(
    {
        "words of lines without effect": lambda judged: isinstance(judged.fate(), NoEffect),
        "unknown ciphers": lambda judged: judged.name in {"cipher", "data-ciphers", "data-ciphers-fallback"},
        "unusable lines": lambda judged: judged.name in {"dns", "dhcp-option", "route", "route-ipv6", "setenv"},
        "password when needed": lambda judged: judged.name in {"askpass", "auth-user-pass"},
        "folder when needed": lambda judged: judged.name == "client-config-dir",
        "a server's addresses alone": lambda judged: judged.name.startswith("addresses "),
        "long lines": lambda judged: "long" in judged.name,
        "ignore anywhere": lambda judged: judged.name == "ignore-unknown-option below",
        "consent to a static key": lambda judged: judged.name == "static with plain consent",
        "consent to plain TLS": lambda judged: judged.name == "server with plain consent",
        "removed options": lambda judged: (
            "Unrecognized option" in judged.verdicts.openvpn_said
            and (judged.fate() is None or judged.name == "tls-remote")
        ),
    }
)
"""What we take and openvpn refuses."""


def reason(judged: Judged) -> str | None:
    """The name of the reason why the verdicts differ; None: there is none."""
    table = LAXER if judged.verdicts.ours else STRICTER
    return next((name for name, applies in table.items() if applies(judged)), None)
