# SPDX-License-Identifier: BSD-2-Clause
"""Cipher negotiation: which suite the data channel uses.

The server chooses: the first of its ``data-ciphers`` that the client lists. Peers without negotiation name one
cipher in their options string. Between two equals, both work out the same, and the rest with it, from what each says
of itself. Source: OpenVPN ssl_ncp.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Common
from qubes_miragevpn.crypto.digests import canonical_digest
from qubes_miragevpn.crypto.suites import SUITES, Mode, canonical_cipher
from qubes_miragevpn.protocol.wire.occ import cipher_of, digest_of
from qubes_miragevpn.protocol.wire.peerinfo import IvProto, PeerCan

POINT_PEER_ID = 0x76706E
"""Of both ends of a tunnel between two that can use DATA_V2 and cannot export one ("vpn")."""
POINT_PEER_ID_LABEL = b"EXPORTER-OpenVPN-p2p-peerid"


def client_cipher(pushed: str | None, server_options: str, common: Common) -> str:
    """The suite for a client: what was pushed, else what the server's options string names, else the fallback.

    Raises `PeerError` (fatal) if it is none that the profile allows.
    """
    said = pushed or cipher_of(server_options)
    suite = canonical_cipher(said) if said else None
    if suite is not None and suite in (*common.data_ciphers, common.data_ciphers_fallback):
        return suite
    if pushed is None and common.data_ciphers_fallback is not None:
        return common.data_ciphers_fallback
    wanted = printable(said or "none", 40)
    raise PeerError(
        f"the server wants cipher {wanted}, data-ciphers allows {':'.join(common.data_ciphers)}", Consequence.FATAL
    )


def server_cipher(client: PeerCan, client_options: str, common: Common) -> str:
    """The suite for one client of a server; raises `PeerError` (end of session) if there is none in common."""
    # What the options string names counts as offered too (ssl_ncp.c, ncp_get_best_cipher).
    names = (*client.ciphers, cipher_of(client_options) or "")
    offered = {suite for name in names if (suite := canonical_cipher(name)) is not None}
    for suite in common.data_ciphers:
        if suite in offered:
            return suite
    if not client.ciphers and common.data_ciphers_fallback is not None:
        return common.data_ciphers_fallback
    raise PeerError("no data cipher in common with the client", Consequence.END_SESSION)


@dataclass(frozen=True)
class PointAgreement:
    """What the two ends of a tunnel between two can both do; `peer_id` is the one that we send, None: DATA_V1."""

    peer_id: int | None = None
    ekm: bool = False
    cc_exit: bool = False
    dynamic_tls_crypt: bool = False


def point_agreement(peer: PeerCan, export: Callable[[bytes, int], Secret]) -> PointAgreement:
    """Both ends do what both announced, unless one of them is from before there was such an agreement.

    `export(label, size)` is the exporter of the first TLS session, which gives both the same peer id. A peer that names
    an id of its own (``ID=``, openvpn 2.7) gets what it wants to receive.
    """
    if not peer.proto & IvProto.NCP_P2P:
        return PointAgreement()
    ekm = bool(peer.proto & IvProto.TLS_KEY_EXPORT)
    peer_id = None
    if peer.proto & IvProto.DATA_V2:
        peer_id = int.from_bytes(export(POINT_PEER_ID_LABEL, 3).reveal(), "big") if ekm else POINT_PEER_ID
        peer_id = peer_id if peer.peer_id is None else peer.peer_id
    return PointAgreement(
        peer_id,
        ekm,
        cc_exit=bool(peer.proto & IvProto.CC_EXIT_NOTIFY),
        dynamic_tls_crypt=bool(peer.proto & IvProto.DYN_TLS_CRYPT),
    )


def point_cipher(peer: PeerCan, peer_options: str, common: Common, *, server: bool) -> str:
    """The suite between two: the first of the TLS server's list that is on the client's; `server`: that is us.

    A peer that lists none is taken to use what its options string names, where we allow that; what is left is our
    fallback. Raises `PeerError` (fatal) if there is none.
    """
    said = tuple(name for each in peer.ciphers if (name := canonical_cipher(each)) is not None)
    first, second = (common.data_ciphers, said) if server else (said, common.data_ciphers)
    for suite in first:
        if suite in second:
            return suite
    named = canonical_cipher(cipher_of(peer_options) or "")
    if not peer.ciphers and named is not None and named in (*common.data_ciphers, common.data_ciphers_fallback):
        return named
    if common.data_ciphers_fallback is not None:
        return common.data_ciphers_fallback
    wanted = printable(":".join(peer.ciphers) or cipher_of(peer_options) or "none", 80)
    raise PeerError(
        f"the other end has cipher {wanted}, data-ciphers allows {':'.join(common.data_ciphers)}", Consequence.FATAL
    )


def digest_mismatch(cipher: str, peer_options: str, common: Common) -> str:
    """What to tell the operator when the peer's digest cannot be ours, "" when nothing is wrong.

    There is no negotiation of the digest: with ``auth`` set otherwise at the other end, no packet is authentic.
    """
    said = digest_of(peer_options)
    if SUITES[cipher].mode is Mode.AEAD or said is None or canonical_digest(said) in (None, common.digest):
        return ""
    return f"the other end uses 'auth {printable(said, 40)}', and no packet will pass with 'auth {common.digest}' here"
