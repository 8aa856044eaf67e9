# SPDX-License-Identifier: BSD-2-Clause
"""What a server pushes: a whole PUSH_REPLY to `PulledOptions`, and what a PUSH_UPDATE changes in it."""

from qubes_miragevpn.config.pushed.reply import MAX_BYTES, MAX_DROPPED, parse_push
from qubes_miragevpn.config.pushed.update import UPDATABLE, Updated, apply_update

__all__ = ["MAX_BYTES", "MAX_DROPPED", "UPDATABLE", "Updated", "apply_update", "parse_push"]
