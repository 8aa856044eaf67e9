# SPDX-License-Identifier: BSD-2-Clause
"""Where a profile is taken from: a file here, or ``QUBE:PATH``. It is copied as bytes, bounded and unread.

Nothing of a profile is parsed on this side: it comes from a provider, or from a qube, and the VPN qube judges it.
Another qube's file is read by `head` over qubes.VMExec, in dom0 only; that qube can hand over anything, and that is
all it can do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.admin.talking.allowed import About
from qubes_miragevpn.admin.talking.machine import Machine
from qubes_miragevpn.admin.talking.service import COPY_TIME, MAX_PROFILE, ask
from qubes_miragevpn.admin.vpnqube import profile_name, qube_name
from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode


@dataclass(frozen=True)
class Source:
    """A file of ours (`qube` is ""), or of a qube's."""

    qube: str
    path: str

    @property
    def profile(self) -> str:
        """The name that a profile gets from its file; raises `ConfigError`."""
        name = PurePosixPath(self.path).name
        for suffix in (".ovpn", ".conf", ".tar"):
            name = name.removesuffix(suffix)
        try:
            return profile_name(name)
        except ConfigError:
            raise ConfigError(
                "the file's name makes no name for a profile", fix="store it as NAME: qvm-miragevpn import NAME SOURCE"
            ) from None


def parse(text: str) -> Source:
    """``QUBE:PATH``, or the path of a file here (one with a colon as ``./a:b``); raises `ConfigError`."""
    qube, colon, path = text.partition(":")
    if not colon or "/" in qube:
        return Source("", text)
    if not path or "\0" in path or len(path) > 4096:
        raise ConfigError("QUBE:PATH has no path", fix="such as work:/home/user/office.ovpn")
    return Source(qube_name(qube), path)


def check(machine: Machine, source: Source) -> None:
    """What can be seen before anything is done: a name, a file of ours, the right to ask; raises as `read` does."""
    _ = source.profile  # raises, if the file's name makes none
    if not source.qube:
        read(machine, source)
    elif not machine.in_dom0:
        raise _refused(source)


def read(machine: Machine, source: Source) -> bytes:
    """The bytes; raises `Failure`, `ConfigError`."""
    if source.qube:
        return _of_qube(machine, source)
    try:
        with Path(source.path).open("rb") as file:
            found = file.read(MAX_PROFILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=source.path) from None
    return _bounded(found, source.path)


def _of_qube(machine: Machine, source: Source) -> bytes:
    if not machine.in_dom0:
        raise _refused(source)
    command = ["head", "-c", str(MAX_PROFILE + 1), "--", source.path]
    done = ask(
        machine,
        source.qube,
        "qubes.VMExec",
        "+".join(map(_encoded, command)),
        about=About.ANY,
        limit=MAX_PROFILE + 1,
        seconds=COPY_TIME,
    )
    if done.code != 0:
        raise Failure(ExitCode.CONFIG, f"{source.qube} could not read the file", f"in {source.qube}: is it there?")
    return _bounded(done.untrusted_output, source.path)


def _refused(source: Source) -> Failure:
    return Failure(
        ExitCode.REFUSED,
        "only dom0 may read files of another qube",
        f"copy the file here first (in {source.qube}: qvm-copy), or run this in dom0",
    )


def _bounded(found: bytes, path: str) -> bytes:
    if not found:
        raise ConfigError("empty", file=path)
    if len(found) > MAX_PROFILE:
        raise ConfigError(f"larger than {MAX_PROFILE} bytes", file=path)
    return found


def _encoded(word: str) -> str:
    """A word as qubes.VMExec wants it: ``-XX`` for what qrexec does not let through, ``--`` for ``-``."""
    return re.sub(
        rb"[^A-Za-z0-9_.]",
        lambda match: b"--" if match[0] == b"-" else b"-%02X" % match[0][0],
        word.encode("utf-8", "surrogateescape"),
    ).decode("ascii")
