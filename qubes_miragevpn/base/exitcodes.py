# SPDX-License-Identifier: BSD-2-Clause
"""Exit codes of every command; README and the man pages list the same table."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0  # done, or ended as asked (Ctrl-C and SIGTERM included)
    WARNINGS = 1  # `check --strict` found warnings, `qvm-miragevpn doctor` something wrong or worth a look
    CONFIG = 2  # the command line or a configuration file is wrong
    AUTH = 3  # the peer refused our credentials or our certificate, or we its certificate
    SYSTEM = 4  # the machine denies what is needed (privilege, /dev/net/tun, nft)
    CONNECTION = 5  # no remote could be reached, or the server ended the connection for good
    NO_SERVICE = 6  # the service is not running (its control socket does not answer)
    REFUSED = 7  # the service refused the request (unknown profile, bad argument)
    INTERNAL = 70  # a bug of ours
