# SPDX-License-Identifier: BSD-2-Clause
"""Cipher negotiation: which suite the data channel uses.

The server chooses: the first of its ``data-ciphers`` that the client lists. Peers without negotiation name one
cipher in their options string. Source: OpenVPN ssl_ncp.c.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Common
from qubes_miragevpn.crypto.digests import canonical_digest
from qubes_miragevpn.crypto.suites import SUITES, Mode, canonical_cipher
from qubes_miragevpn.protocol.wire.occ import cipher_of, digest_of
from qubes_miragevpn.protocol.wire.peerinfo import PeerCan


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


def digest_mismatch(cipher: str, peer_options: str, common: Common) -> str:
    """What to tell the operator when the peer's digest cannot be ours, "" when nothing is wrong.

    There is no negotiation of the digest: with ``auth`` set otherwise at the other end, no packet is authentic.
    """
    said = digest_of(peer_options)
    if SUITES[cipher].mode is Mode.AEAD or said is None or canonical_digest(said) in (None, common.digest):
        return ""
    return f"the other end uses 'auth {printable(said, 40)}', and no packet will pass with 'auth {common.digest}' here"
