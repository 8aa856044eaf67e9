# SPDX-License-Identifier: BSD-2-Clause
"""What we call ourselves towards a peer (IV_VER of the peer info)."""

from __future__ import annotations

IV_VER = "qubes-miragevpn"
"""No version number: a server has no business with it, and it would tell users apart."""
