# SPDX-License-Identifier: BSD-2-Clause
"""Rules between directives: what each line alone cannot tell."""

from qubes_miragevpn.config.building.rules.table import RULES, examine

__all__ = ["RULES", "examine"]
