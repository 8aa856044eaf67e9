# SPDX-License-Identifier: BSD-2-Clause
"""Dynamic tls-crypt: what protects the control packets of renegotiations, with a key that only this session has.

The key is exported from the session's first TLS session (RFC 5705, no context, 256 bytes) and combined by XOR with the
static or client key of the control channel, where there is one; so neither of them alone opens a renegotiation.
It is used as tls-crypt's, with a counter and a replay window of its own. Source: OpenVPN tls_crypt.c
tls_session_generate_dynamic_tls_crypt_key.
"""

from __future__ import annotations

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import TlsCrypt
from qubes_miragevpn.protocol.wrap.keys import TlsCryptKeys

LABEL = b"EXPORTER-OpenVPN-dynamic-tls-crypt"


def dynamic_keys(exported: Secret, base: Secret | None, *, server: bool) -> TlsCryptKeys:
    """The protection of key ids other than 0; `exported` and `base` are 256 bytes each."""
    key = exported.reveal()
    if base is not None:
        key = bytes(a ^ b for a, b in zip(key, base.reveal(), strict=True))
    return TlsCryptKeys(TlsCrypt(Secret(key)), server=server)
