# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel's resolvers in resolv.conf(5), on a machine without systemd-resolved.

The file, or the symbolic link, that was there is put back by `restore`, unless somebody else has written there since:
then theirs stays. Servers for some domains only cannot be said in this file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
from pathlib import Path

from qubes_miragevpn.config.model import EVERY_NAME, Dns

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_SERVERS = 3  # more are not asked (resolv.conf(5), MAXNS)
MAX_SIZE = 64 * 1024
HEAD = "# made by miragevpn client; what was here before comes back when it ends\n"

_log = logging.getLogger("miragevpn.dns")


class ResolvConf:
    """One resolv.conf. `before` and `ours` are what a journal must hold to put it back after a crash."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self.path = path
        self.before: dict[str, str] | None = None  # {"link": target} or {"text": content}; {} nothing was there
        self.ours = ""

    def remember(self) -> None:
        """Note what is there, before the first change. Raises OSError."""
        if self.before is not None:
            return
        if self.path.is_symlink():
            self.before = {"link": os.readlink(self.path)}
            return
        try:
            with self.path.open("rb") as file:
                self.before = {"text": file.read(MAX_SIZE).decode("utf-8", "surrogateescape")}
        except FileNotFoundError:
            self.before = {}

    def write(self, dns: Dns) -> None:
        """Put the servers and domains of `dns` there; `remember` comes first. Raises OSError."""
        self.ours = self.text(dns)
        _put(self.path, self.ours)

    def text(self, dns: Dns) -> str:
        """What `write` writes."""
        kept = (self.before or {}).get("text", "") if not dns.servers else ""  # domains alone: the servers stay
        lines = [line for line in kept.splitlines() if line.split()[:1] in (["nameserver"], ["options"])]
        lines += [f"nameserver {server}" for server in dns.servers[:MAX_SERVERS]]
        lines += [f"search {' '.join(dns.search)}"] * bool(dns.search)
        return HEAD + "".join(f"{line}\n" for line in lines)

    def restore(self) -> None:
        """Put back what was there. Raises OSError."""
        before, self.before = self.before, None
        if before is not None:
            put_back(self.path, before, self.ours)


def render_kept(dns: Dns) -> bool:
    """Whether this file can say what `dns` wants."""
    limited = dns.split not in ((), (EVERY_NAME,))
    return bool(dns.servers or dns.search) and not limited and dns.port == 53 and not dns.tls and dns.dnssec != "yes"


def put_back(path: Path, before: dict[str, str], ours: str) -> None:
    """Put `before` back at `path` if `ours` is there still. Raises OSError."""
    try:
        there = path.read_bytes()[:MAX_SIZE].decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        there = ""
    if path.is_symlink() or (there and there != ours):
        _log.info("%s was changed by another program, and stays", path)
        return
    if "link" in before:
        temporary = f"{path}.miragevpn-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(before["link"], temporary)
        os.replace(temporary, path)
    elif "text" in before:
        _put(path, before["text"])
    else:
        path.unlink(missing_ok=True)


def _put(path: Path, text: str) -> None:
    """Replace the file, or the link, as a whole; where it is a mount of its own (containers), write into it."""
    data = text.encode("utf-8", "surrogateescape")
    descriptor, temporary = tempfile.mkstemp(prefix=".resolv-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if error.errno != errno.EBUSY:
            raise
        path.write_bytes(data)
