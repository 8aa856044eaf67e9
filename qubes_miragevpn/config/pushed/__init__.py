# SPDX-License-Identifier: BSD-2-Clause
"""What a server pushes: a whole PUSH_REPLY to `PulledOptions`."""

from qubes_miragevpn.config.pushed.reply import MAX_BYTES, MAX_DROPPED, parse_push

__all__ = ["MAX_BYTES", "MAX_DROPPED", "parse_push"]
