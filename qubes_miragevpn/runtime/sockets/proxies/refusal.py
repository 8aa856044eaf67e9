# SPDX-License-Identifier: BSD-2-Clause
"""What a proxy says to user name and password that somebody can mend by typing others."""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError


class LoginRefused(PeerError):
    """The proxy wants user name and password and was shown none, or does not believe those it was shown."""
