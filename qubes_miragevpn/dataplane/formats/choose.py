# SPDX-License-Identifier: BSD-2-Clause
"""The format that the keys of a slot ask for."""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.formats.aead import AeadKey
from qubes_miragevpn.dataplane.formats.cbc import CbcKey, ClearKey
from qubes_miragevpn.dataplane.formats.epoch import EpochKey
from qubes_miragevpn.dataplane.formats.static import StaticKey
from qubes_miragevpn.dataplane.interface import DataKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import KeySlot

_BY_MODE: dict[Mode, type[KeySlot]] = {Mode.AEAD: AeadKey, Mode.CBC: CbcKey, Mode.CLEAR: ClearKey}


def make_key(
    key_id: int, keys: DataKeys, peer_id: int, limits: PeerLimits, entropy: Callable[[int], bytes]
) -> KeySlot:
    """Return the key slot for `keys`; raises `MisuseError` for a suite that is not there or keys that do not fit it."""
    suite = SUITES.get(keys.suite)
    if suite is None:
        raise MisuseError(f"no suite is called {keys.suite!r}")
    made: type[KeySlot] = EpochKey if keys.epoch else StaticKey if keys.since else _BY_MODE[suite.mode]
    if made is StaticKey and suite.mode is not Mode.CBC:
        raise MisuseError(f"{suite.name} is not for static keys")
    return made(key_id, suite, keys, peer_id, limits, entropy)
