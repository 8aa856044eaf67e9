# SPDX-License-Identifier: BSD-2-Clause
"""What a server says of its settings to a peer that it serves, and of the peer's settings to its operator.

Sources: OpenVPN's ssl.c (key_method_2_read compares the options strings; it only warns) and occ.c.
"""

from __future__ import annotations

from qubes_miragevpn.config.model import Common, Family
from qubes_miragevpn.dataplane.interface import NO_PEER_ID
from qubes_miragevpn.protocol.inquiry import Inquiries, differences
from qubes_miragevpn.protocol.limits import carrier_of
from qubes_miragevpn.protocol.serving.peer import Peer
from qubes_miragevpn.protocol.wire import occ


def own_options(peer: Peer, common: Common) -> str:
    """Our options string."""
    return occ.build(common, peer.proto, _family(peer), server=True)


def begin(peer: Peer, common: Common, peer_id: int) -> list[str]:
    """The peer may ask from now on; return how its settings differ from what ours need.

    ``tun-mtu`` is not compared where the peer takes what it is pushed.
    """
    tagged = peer_id != NO_PEER_ID
    carrier = carrier_of(common, peer.proto, peer.cipher, common.compression, peer_id=tagged, epoch=peer.epoch)
    peer.inquiries = Inquiries(own_options(peer, common), carrier)
    settled = frozenset({"tun-mtu"} if peer.can.mtu else ())
    return differences(common, peer.proto, _family(peer), peer.options, server=True, settled=settled)


def _family(peer: Peer) -> Family:
    return Family.IPV6 if len(peer.endpoint) == 4 else Family.IPV4
