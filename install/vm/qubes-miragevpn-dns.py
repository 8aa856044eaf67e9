#!/usr/bin/python3 -IS
# SPDX-License-Identifier: BSD-2-Clause
"""Root's part of DNS: put the tunnels' resolvers into resolv.conf, and have qubes-firewall read them.

The service has no right to either. It connects to /run/qubes-miragevpn-dns.sock and systemd starts this program on
the connection (qubes-miragevpn-dns@.service): standard input is, to its end, lines ``nameserver ADDRESS``; the answer
is one line, ``ok`` or ``refused: WHY``. No line at all puts back what was there before the first, and what somebody
else has written since is left alone then. Standard library only, without site-packages: nothing that the service may
write is run.

Refused: whatever is not such a line, an address that is no resolver's, more than `MAX_LINES` lines; and an answer of
``ok`` while qubes-firewall, which was active, did not come back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path

MAX_LINES = 128  # sixteen tunnels with four resolvers of each family
MAX_INPUT = MAX_LINES * 64  # bytes; "nameserver " and an IPv6 address are 50
MAX_BEFORE = 65536  # bytes of somebody else's resolv.conf that are kept
RELOAD_TIME = 15.0  # seconds; a restart of qubes-firewall takes about one
FIREWALL = "qubes-firewall.service"
HEADER = b"# written by qubes-miragevpn: the tunnel's resolvers\n"
VIRTUAL = b"nameserver 10.139.1.1\nnameserver 10.139.1.2\n"  # what Qubes' setup-ip writes


class Refused(Exception):
    """The request is not carried out; the text is the answer."""


def resolvers(untrusted: bytes) -> bytes:
    """The lines of resolv.conf that `untrusted` asks for, in canonical form; raises `Refused`."""
    if len(untrusted) > MAX_INPUT:
        raise Refused("too long")
    found: dict[str, None] = {}
    for untrusted_line in untrusted.split(b"\n"):
        if not untrusted_line:
            continue
        word, _, untrusted_address = untrusted_line.partition(b" ")
        try:
            address = ip_address(untrusted_address.decode("ascii"))
        except ValueError:
            raise Refused("not an address") from None
        if word != b"nameserver" or (address.version == 6 and address.scope_id is not None):
            raise Refused("not a line `nameserver ADDRESS`")
        if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
            raise Refused("not a resolver's address")
        found[str(address)] = None
    if len(found) > MAX_LINES:
        raise Refused("too many")
    return "".join(f"nameserver {address}\n" for address in found).encode()


def replace(path: Path, text: bytes) -> None:
    """Atomically, and in the place of a symbolic link; where the file is a mount of its own, in place."""
    descriptor, temporary = tempfile.mkstemp(prefix=".resolv-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if error.errno != errno.EBUSY:
            raise
        path.write_bytes(text)


def read(path: Path) -> bytes | None:
    """What the file holds, as far as it is kept; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BEFORE)
    except OSError:
        return None


def put(path: Path, kept: Path, lines: bytes) -> None:
    """Make the file say `lines`; none at all: what it said before ours, or what Qubes would."""
    present = read(path)
    ours = present is not None and present.startswith(HEADER)
    if not ours and present is not None and lines:
        replace(kept, present)
    if lines and present != HEADER + lines:
        replace(path, HEADER + lines)
    elif not lines and ours:
        before = read(kept)
        replace(path, VIRTUAL if before is None else before)


def reload() -> None:
    """Have qubes-firewall fill its set of resolvers anew where it runs; raises `Refused` if it does not come back."""
    if not os.path.isdir("/run/systemd/system") or systemctl("is-active", "--quiet", FIREWALL) != 0:
        return
    # Before R4.3 this is a restart, and systemd refuses the sixth in ten seconds: as many tunnels may come up at once,
    # and a qubes-firewall that is refused stays down.
    systemctl("reset-failed", FIREWALL)
    if systemctl("try-reload-or-restart", FIREWALL) != 0:
        raise Refused(f"{FIREWALL} could not be reloaded")


def systemctl(*arguments: str) -> int:
    """Its exit code; -1 if it takes too long or is not there."""
    try:
        quiet = subprocess.DEVNULL
        return subprocess.run(
            ["systemctl", *arguments], stdin=quiet, stdout=quiet, timeout=RELOAD_TIME, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return -1


def main(environ: dict[str, str], untrusted: bytes) -> str:
    """Carry the request out; returns the answer."""
    path = Path(environ.get("MIRAGEVPN_RESOLV_CONF", "/etc/resolv.conf"))
    state = Path(environ.get("RUNTIME_DIRECTORY", "/run/qubes-miragevpn-dns"))
    try:
        lines = resolvers(untrusted)
        with open(state / "lock", "wb") as lock:  # two tunnels may ask at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            put(path, state / "before", lines)
            if lines:
                reload()
    except Refused as refusal:
        return f"refused: {refusal}"
    except OSError as error:
        return f"refused: {error.strerror or 'the disk refuses'}"
    return "ok"


if __name__ == "__main__":
    answer = main(dict(os.environ), sys.stdin.buffer.read(MAX_INPUT + 1))
    with contextlib.suppress(BrokenPipeError):  # the service was killed meanwhile
        os.write(sys.stdout.fileno(), answer.encode() + b"\n")
    sys.exit(answer != "ok")
