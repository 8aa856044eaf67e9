# SPDX-License-Identifier: BSD-2-Clause
"""Reading what was handed in for a first time in a process of its own, whose time is bounded.

A locked key says how often its password is to be hashed (PBKDF2, RFC 8018: up to 2^31 times), an RSA key how long it
is, and OpenSSL does as it is told. Python stands still meanwhile, in every thread. So whoever may hand in a profile
could stop the service, with a kilobyte; what takes the child longer than `CPU_TIME` is not read by the service at all.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.qube.profiles import bundle

CPU_TIME = 3  # seconds for reading; a key that openssl makes takes a fifth of one, on a slow machine
LAST = 60.0  # seconds after which the child is ended however little it got to run
MEMORY = 1 << 30  # bytes of address space


def bear(untrusted: bytes) -> None:
    """Return once it was read, or refused, in time; raises `ConfigError` if it was not, OSError without a child."""
    isolated = "-I" if sys.flags.isolated else "-P"
    try:
        done = subprocess.run(
            [sys.executable, isolated, "-m", __name__], input=untrusted,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LAST, check=False,
        )  # fmt: skip
        in_time = done.returncode == 0
    except subprocess.TimeoutExpired:
        in_time = False
    if not in_time:
        fix = "make the key anew with the usual number of rounds: openssl pkcs8 -topk8 -in OLD -out NEW"
        raise ConfigError("reading its keys and certificates takes more than it may", fix=fix)


def main() -> int:
    """The child: what is wrong with a profile is for the service to find and say; this only takes the time it takes."""
    from qubes_miragevpn.config.building.trust import Surroundings
    from qubes_miragevpn.config.loader import load_client

    untrusted = sys.stdin.buffer.read(bundle.MAX_IMPORT + 1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + CPU_TIME
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        handed = bundle.unpack(untrusted)
        # Any password: a wrong one is hashed as often as the right one.
        surroundings = Surroundings(locked_keys=True, ask_password=lambda _: Secret(b"any"))
        load_client(handed.text, file="trial", read_file=handed.reader(), surroundings=surroundings)
    except ConfigError:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
