# SPDX-License-Identifier: BSD-2-Clause
"""TLS alerts by which a peer says that it does not accept our own certificate.

With TLS 1.3 such an alert comes after the handshake is over for us, so it looks like any failure of a working session;
with TLS 1.2 it comes instead of the peer's last flight. OpenSSL reports both as text, whose beginning has changed with
its versions ("sslv3 alert bad certificate", "ssl/tls alert bad certificate"), the rest is RFC 8446's name, section 6.
"""

from __future__ import annotations

import re

_REFUSALS = {
    "bad certificate": "it is not acceptable",
    "unsupported certificate": "it is of an unsupported kind",
    "certificate revoked": "it is revoked",
    "certificate expired": "it has expired, by the peer's clock",
    "certificate unknown": "it is not accepted, for a reason that is not told",
    "unknown ca": "the peer does not know who issued it",
    "access denied": "access is denied to it",
    "certificate required": "there must be one, and we have none",
}
_ALERT = re.compile(rf"\balert ({'|'.join(_REFUSALS)})\b")


def own_certificate_refused(error: str) -> str:
    """Why the peer refuses our certificate, if that is what OpenSSL's `error` says; otherwise ""."""
    found = _ALERT.search(error)
    return f"{_REFUSALS[found[1]]} ({found[1]})" if found else ""
