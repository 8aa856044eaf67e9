# SPDX-License-Identifier: BSD-2-Clause
"""PUSH_UPDATE: what of a reply it replaces or takes away, as text to text.

A server that changes its mind names the kinds of options that change (openvpn 2.7, options_util.c, push.c): a kind that
is named replaces everything of that kind that was pushed before; ``-kind`` takes it away; a ``?`` (after the ``-``)
says that the rest is still good where the kind cannot be changed. The result is the list of options that a whole
PUSH_REPLY would have had, so that `parse_push` judges it as it judges any other, and a restart knows nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.pushed.reply import MAX_BYTES
from qubes_miragevpn.config.reading.lexer import WordError, split_words

UPDATABLE = frozenset(
    {
        "block-ipv6", "block-outside-dns", "dhcp-option", "dns", "ifconfig", "ifconfig-ipv6", "keepalive",
        "redirect-gateway", "redirect-private", "route", "route-gateway", "route-ipv6", "route-metric", "topology",
        "tun-mtu",
    }
)  # fmt: skip
"""What may change while the tunnel is up; anything else takes a new connection."""

_TOGETHER = {"redirect-private": "redirect-gateway"}  # kinds that replace each other


@dataclass(frozen=True)
class Updated:
    """The options as they now stand, and what of the update was left out because it was marked optional."""

    options: tuple[str, ...]
    ignored: tuple[str, ...] = ()


def apply_update(pushed: tuple[str, ...], update: tuple[str, ...]) -> Updated:
    """Return the options of `pushed` (a reply, or what an earlier update made of it) changed by `update`.

    Both are split at their commas, without push-continuation. Raises `PeerError` (end of session, which connects
    again) when something that is not optional cannot be changed.
    """
    if sum(len(option) + 1 for option in (*pushed, *update)) > 2 * MAX_BYTES:
        raise PeerError("the server's updates grow without end", Consequence.END_SESSION)
    gone: set[str] = set()
    added: list[str] = []
    ignored: list[str] = []
    for untrusted_option in update:
        if not untrusted_option.strip(" "):
            continue
        remove, optional, option = _marks(untrusted_option)
        name = _name(option)
        if name not in UPDATABLE:
            if not optional:
                raise PeerError(
                    f"the server changes '{printable(name, 40)}', which takes a new connection", Consequence.END_SESSION
                )
            ignored.append(printable(name, 40))
            continue
        gone.add(_kind(name))
        if not remove:
            added.append(option)
    kept = tuple(option for option in pushed if _kind(_name(option)) not in gone)
    return Updated((*kept, *added), tuple(ignored))


def _marks(option: str) -> tuple[bool, bool, str]:
    """Cut the marks off: whether to remove, whether it is optional, the option."""
    rest = option.lstrip(" ")
    remove = rest.startswith("-")
    rest = rest[remove:]
    optional = rest.startswith("?")
    rest = rest[optional:]
    if not rest or rest[0] in "-? ":
        raise PeerError("the server sent an update with misplaced marks", Consequence.END_SESSION)
    return remove, optional, rest


def _name(option: str) -> str:
    try:
        words = split_words(option)
    except WordError:
        words = ()
    return words[0] if words else ""


def _kind(name: str) -> str:
    return _TOGETHER.get(name, name)
