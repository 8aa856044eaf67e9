# SPDX-License-Identifier: BSD-2-Clause
"""``tls-crypt-v2-verify``: nothing of a client reaches TLS before somebody has judged what is written into its key.

The question (`VerifyClientKey`) is asked once the client's address is proved, so that a forged packet starts nothing.
Until the verdict a few of its packets are held and none is answered; whoever is refused hears nothing. Source:
openvpn(8), tls-crypt-v2-verify; OpenVPN tls_crypt.c tls_crypt_v2_extract_client_key.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.contract import Drop, Effect, VerifyClientKey
from qubes_miragevpn.protocol.serving.peer import Peer, Trial
from qubes_miragevpn.protocol.wire.packet import RESETS
from qubes_miragevpn.protocol.wrap.keys import Opened

MAX_HELD = 4
"""Packets, 2 KB each at the most: a first flight has two beside the reset."""


def trial_of(opened: Opened) -> Trial | None:
    """What is to be judged of whoever sent `opened`: nothing without a key of its own. Raises `PeerError` (drop)."""
    if opened.metadata is None:
        return None
    if not opened.metadata:
        raise PeerError("tls-crypt-v2: the client key has no metadata to be judged by")
    return Trial(opened.metadata[0], opened.metadata[1:])


def hold(peer: Peer, trial: Trial, opened: Opened) -> list[Effect] | None:
    """Hold back a packet of somebody on trial; None for one that may be taken in, since TLS sees nothing of it."""
    try:
        if not trial.asked and not peer.session.proves_place(opened):
            return None if opened.head.opcode in RESETS else [Drop("from an address that is not proved", peer.tag)]
    except PeerError as error:  # its bearer has a key, and may write whatever he likes
        return [Drop(error.reason, peer.tag)]
    if len(trial.held) >= MAX_HELD:
        return [Drop("its client key is being judged", peer.tag)]
    trial.held.append(opened)
    if trial.asked:
        return []
    trial.asked = True
    return [VerifyClientKey(peer.number, peer.endpoint, trial.kind, trial.metadata)]
