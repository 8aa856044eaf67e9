# SPDX-License-Identifier: BSD-2-Clause
"""The table of options in `doc/options.md`, made from the rows so that it cannot say anything else.

python -c 'from qubes_miragevpn.config.rows.document import render; print(render(), end="")' > doc/options.md
"""

from __future__ import annotations

from collections.abc import Iterator

from qubes_miragevpn.config.rows.row import Applied, ByFirstWord, Fate, NoEffect, Refused, Repeat, Row
from qubes_miragevpn.config.rows.table import SUBJECTS

_HEAD = """\
# Options

Every directive that is known, made from the table that the parser itself reads (`qubes_miragevpn/config/rows`). A
directive that is not here is an error with file and line, and so is one in a place where it does not belong.

Places: **C** a client's file, **B** a `<connection>` block in it, **S** a server's file, **P** a server's PUSH_REPLY,
**K** a file of a tunnel between two (static key mode, or TLS without `pull`), where that differs from a client's,
**D** a server's file for one client (`client-config-dir`).
A letter in parentheses: accepted there without effect. `<>`: may be given as a block, `<name>` ... `</name>`.
"""
_WITHOUT = """\
Accepted, so that profiles made for other programs load; nothing changes. Those with a *w* are reported as warnings.
"""
_REFUSED = """\
An error wherever they stand. What would make a connection safer is never accepted without effect.
"""


def render() -> str:
    """The whole document."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for subject, rows in SUBJECTS.items():
        plain = [row for row in rows if not _only(row, NoEffect) and not _only(row, Refused)]
        idle = [row for row in rows if _only(row, NoEffect)]
        never = [row for row in rows if _only(row, Refused)]
        yield f"## {subject}\n"
        if plain:
            yield "| directive | places | what it does |\n|---|---|---|"
            yield from (f"| `{_cell(_usage(row))}` | {_places(row)} | {_cell(_about(row))} |" for row in plain)
            yield ""
        if idle:
            if not plain:
                yield _WITHOUT
            yield "| without effect | places | why |\n|---|---|---|"
            yield from (f"| `{row.name}`{_mark(row)} | {_places(row)} | {_cell(_reason(row))} |" for row in idle)
            yield ""
        if never:
            if not plain:
                yield _REFUSED
            yield "| refused | why | instead |\n|---|---|---|"
            for row in never:
                fate = row.client or row.server
                assert isinstance(fate, Refused)
                yield f"| `{row.name}` | {_cell(fate.reason)} | {_cell(fate.fix)} |"
            yield ""


def _fates(row: Row) -> list[Fate]:
    return [fate for fate in (row.client, row.server, row.pushed, row.point, row.single) if fate is not None]


def _only(row: Row, kind: type) -> bool:
    return all(isinstance(fate, kind) for fate in _fates(row))


def _usage(row: Row) -> str:
    return row.usage() + (" <>" if row.block else "")


def _places(row: Row) -> str:
    connection = row.client if row.connection or isinstance(row.client, NoEffect) else None
    if isinstance(row.connection, NoEffect):
        connection = row.connection
    own = (("K", row.point), ("D", row.single))
    letters = (("C", row.client), ("B", connection), ("S", row.server), ("P", row.pushed), *own)
    return " ".join(
        f"({letter})" if isinstance(fate, NoEffect) else letter
        for letter, fate in letters
        if fate is not None and not isinstance(fate, Refused)
    )


def _about(row: Row) -> str:
    parts = [row.summary]
    if row.aliases:
        parts.append("also written " + ", ".join(f"`{name}`" for name in row.aliases))
    if row.repeat is Repeat.ADD:
        parts.append(row.repeat.value)
    parts += [f"{where} {text}" for where, fate in _named_fates(row) for text in _exceptions(row, fate)]
    return "; ".join(filter(None, parts))


def _named_fates(row: Row) -> Iterator[tuple[str, Fate]]:
    """Every fate but plain application, once, with the places that share it."""
    places = {"client": row.client, "server": row.server, "pushed": row.pushed, "between two": row.point}
    seen: list[Fate] = []
    for fate in places.values():
        if fate is None or isinstance(fate, Applied) or fate in seen:
            continue
        seen.append(fate)
        yield ", ".join(place for place, other in places.items() if other == fate) + ":", fate


def _exceptions(row: Row, fate: Fate) -> Iterator[str]:
    if isinstance(fate, NoEffect):
        yield f"no effect, {fate.reason}"
    elif isinstance(fate, Refused):
        yield f"{fate.reason}"
    elif isinstance(fate, ByFirstWord):
        for outcome in dict.fromkeys(fate.fates.values()):
            words = [f"`{f'{row.name} {word}'.strip()}`" for word, other in fate.fates.items() if other == outcome]
            yield from (f"{' '.join(words)} {text}" for text in _exceptions(row, outcome))
        yield from (f"otherwise {text}" for text in _exceptions(row, fate.otherwise))


def _reason(row: Row) -> str:
    reasons = dict.fromkeys(fate.reason for fate in _fates(row) if isinstance(fate, NoEffect))
    return "; ".join(reasons)


def _mark(row: Row) -> str:
    fate = row.client or row.server
    return " *w*" if isinstance(fate, NoEffect) and fate.warn else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip()
