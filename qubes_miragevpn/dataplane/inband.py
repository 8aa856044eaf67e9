# SPDX-License-Identifier: BSD-2-Clause
"""What travels on the data channel and is not IP: the keep-alive and OCC messages (OpenVPN's ping.c, occ.h)."""

from __future__ import annotations

PING = bytes.fromhex("2a187bf3641eb4cb07ed2d0a981fc748")
OCC_MAGIC = bytes.fromhex("287f346bd4ef7a812d56b8d3afc5459c")
OCC_MOST = 512
"""Bytes of a message that are looked at, behind the magic number: an options string has about 200."""

OCC_EXIT = OCC_MAGIC + b"\x06"
"""The farewell of a peer that does not speak ``EXIT`` on the control channel."""
