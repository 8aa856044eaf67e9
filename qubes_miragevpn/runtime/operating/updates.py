# SPDX-License-Identifier: BSD-2-Clause
"""What an operator writes after `push-update-broad` and `push-update-cid`: options to change, read and bounded.

Options are separated by commas; ``-NAME`` takes one back, ``?`` before it lets a client that cannot pass it over.
Source: OpenVPN 2.7, doc/management-notes.txt, "push-update-broad". Refused: what the server itself knows of a client
(its addresses) and what divides messages.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.protocol.wire.messages import PUSH_CHUNK

LONGEST = PUSH_CHUNK - len("PUSH_UPDATE,,push-continuation 2")
"""Of one option, so that it fits a message with what goes around it."""

_OURS = ("ifconfig", "ifconfig-ipv6", "peer-id", "cipher", "protocol-flags", "push-continuation")


def read_options(untrusted_text: str) -> tuple[str, ...]:
    """The options in `untrusted_text`, which may stand in quotes; raises `ConfigError`."""
    text = untrusted_text.strip()
    if text.startswith('"'):
        if len(text) < 2 or not text.endswith('"'):
            raise ConfigError("a quote has no end")
        text = text[1:-1]
    options = tuple(option for part in text.split(",") if (option := part.strip()))
    if not options:
        raise ConfigError("no option is given")
    for option in options:
        name = option.lstrip("-?").split(" ", 1)[0]
        if not (option.isascii() and option.isprintable() and '"' not in option and len(option) <= LONGEST and name):
            raise ConfigError("an option is malformed or too long")
        if name in _OURS:
            raise ConfigError(f"'{name}' cannot be changed while a client is connected")
    return options
