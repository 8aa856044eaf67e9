# SPDX-License-Identifier: BSD-2-Clause
"""Attackers in the world of both roles, and what a malicious server may try on a client; `coverage.py` is the index."""

from tests.pair.hostile.means.attacker import MAX_EFFECTS as MAX_EFFECTS
from tests.pair.hostile.means.attacker import STRANGER as STRANGER
from tests.pair.hostile.means.attacker import Attacker as Attacker
from tests.pair.hostile.means.attacker import require_sound as require_sound
from tests.pair.hostile.means.attacker import sessions as sessions
