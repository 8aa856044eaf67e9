# SPDX-License-Identifier: BSD-2-Clause
"""All rows by name, aliases included."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.config.rows import (
    endpoint,
    logins,
    noeffect,
    proxies,
    refused,
    routing,
    security,
    serving,
    session,
)
from qubes_miragevpn.config.rows.row import Row

SUBJECTS: Mapping[str, tuple[Row, ...]] = MappingProxyType(
    {
        "Role, device and remotes": endpoint.ROWS,
        "Proxies and the local end": proxies.ROWS,
        "Keys, certificates and ciphers": security.ROWS,
        "Session": session.ROWS,
        "Addresses, routes and DNS": routing.ROWS,
        "Server": serving.ROWS,
        "Logins at a server": logins.ROWS,
        "Without effect": noeffect.ROWS,
        "Refused": refused.ROWS,
    }
)
"""Every row, under the heading it has in the table of options."""


def _by_name() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for subject in SUBJECTS.values():
        for row in subject:
            for name in (row.name, *row.aliases):
                if rows.setdefault(name, row) is not row:
                    raise MisuseError(f"two rows are named {name}")
    return rows


ROWS: Mapping[str, Row] = MappingProxyType(_by_name())
"""The row of every name, aliases included."""
