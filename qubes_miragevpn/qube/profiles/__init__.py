# SPDX-License-Identifier: BSD-2-Clause
"""Profiles, their credentials and settings on disk, and what was chosen of them."""

from qubes_miragevpn.qube.profiles.store import Profiles
from qubes_miragevpn.qube.profiles.unlocking import Unlocking

__all__ = ["Profiles", "Unlocking"]
