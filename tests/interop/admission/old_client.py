# SPDX-License-Identifier: BSD-2-Clause
"""Runs the command behind it, which starts our client, as a client from before early negotiation (OpenVPN 2.5).

python -m tests.interop.admission.old_client python -m qubes_miragevpn client FILE

Its tls-crypt-v2 packets are numbered from 1, so that no server asks it for its key a second time.
"""

from __future__ import annotations

import sys

from qubes_miragevpn.cli.main import main
from qubes_miragevpn.protocol.wrap.clientkey import ClientKeys

if __name__ == "__main__":
    ClientKeys.first_id = 1
    sys.exit(main(sys.argv[sys.argv.index("qubes_miragevpn") + 1 :]))
