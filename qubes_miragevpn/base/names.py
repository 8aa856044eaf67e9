# SPDX-License-Identifier: BSD-2-Clause
"""Names and numbers that more than one layer must agree on."""

from __future__ import annotations

import re

PROFILE_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""A profile's name: what qrexec lets through unchanged, and never a path."""

QUBE_NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
"""A qube's name as dom0 gives it in QREXEC_REMOTE_DOMAIN (``dom0`` included)."""

SOCKET_MARK = 0x51564D
"""SO_MARK (fwmark) of the tunnel's own transport sockets: "QVM"."""


def valid_profile_name(untrusted_name: str) -> bool:
    """True if `untrusted_name` may name a profile; nothing else may be done with one that may not."""
    return PROFILE_NAME.match(untrusted_name) is not None and ".." not in untrusted_name
