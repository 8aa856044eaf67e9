# SPDX-License-Identifier: BSD-2-Clause
"""Our program as a peer from before the TLS exporter, so that openvpn 2.6 has to derive keys by the PRF.

openvpn 2.6 has no switch for that: it uses the exporter whenever both ends can (IV_PROTO bit 3). Here the client does
not say that it can, and the server does not believe a client that does; everything else is the program as it is.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from qubes_miragevpn.cli.main import main
from qubes_miragevpn.protocol.wire import peerinfo

_parse = peerinfo.parse


def _parse_without_exporter(untrusted: str) -> peerinfo.PeerCan:
    can = _parse(untrusted)
    return replace(can, proto=can.proto & ~peerinfo.IvProto.TLS_KEY_EXPORT)


if __name__ == "__main__":
    peerinfo.OUR_PROTO &= ~peerinfo.IvProto.TLS_KEY_EXPORT
    peerinfo.parse = _parse_without_exporter
    sys.exit(main())
