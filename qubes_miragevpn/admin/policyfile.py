# SPDX-License-Identifier: BSD-2-Clause
"""dom0's qrexec policy on disk: the file that a VPN qube gets with `create`, and what the others say (dom0 only).

Over a policy file somebody can allow themselves anything, so a management qube is given no way to one: there, the
text is printed for the owner. The file opens nothing by itself: it names a tag that no qube bears until the owner
gives it to one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.base.exitcodes import ExitCode

DIRECTORY = Path("/etc/qubes/policy.d")
DEFAULT = "90-default-miragevpn.policy"
EVALUATE = "/usr/bin/qrexec-policy-exec"
MAX_FILE = 1 << 18  # bytes read of a policy file


def name_of(vpn: str) -> str:
    """The file of a VPN qube's: after the owner's own (30-), before the default (90-).

    qrexec wants small letters; a large one has a dot before it, which no qube's name holds.
    """
    return f"60-miragevpn-{re.sub('[A-Z]', lambda match: '.' + match[0].lower(), vpn)}.policy"


def text_of(vpn: str) -> str:
    """What is in it."""
    return (
        f"# Made by `qvm-miragevpn create {vpn}`; `qvm-miragevpn remove {vpn}` takes it away.\n"
        "# Your own rules go into a file that sorts before it, such as 30-user.policy.\n"
        "#\n"
        f"# Qubes with the tag miragevpn-client-{vpn} may see its state without a question. To have one be so:\n"
        f"#     qvm-tags QUBE add miragevpn-client-{vpn}\n"
        "\n"
        f"miragevpn.Status * @tag:miragevpn-client-{vpn} {vpn} allow autostart=no\n"
        f"miragevpn.Status * @tag:miragevpn-client-{vpn} @default allow target={vpn} autostart=no\n"
    )


def is_right(vpn: str) -> bool:
    """Whether the file is there as it should be."""
    return _read(DIRECTORY / name_of(vpn)) == text_of(vpn)


def is_there(vpn: str) -> bool:
    """Whether there is such a file at all."""
    return (DIRECTORY / name_of(vpn)).is_file()


def write(vpn: str) -> None:
    """Write the file in one step, readable by qrexec's daemon; raises `Failure`."""
    place = ""
    try:
        handle, place = tempfile.mkstemp(prefix=".miragevpn-", dir=DIRECTORY)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text_of(vpn))
            os.fchmod(file.fileno(), 0o664)
            file.flush()
            os.fsync(file.fileno())
        os.rename(place, DIRECTORY / name_of(vpn))
    except OSError as error:
        if place and os.path.exists(place):
            os.unlink(place)
        raise Failure(
            ExitCode.SYSTEM, f"{DIRECTORY} cannot be written: {error.strerror}", "run it as a user of the group qubes"
        ) from None


def remove(vpn: str) -> None:
    """Remove the file; raises `Failure`."""
    try:
        (DIRECTORY / name_of(vpn)).unlink(missing_ok=True)
    except OSError as error:
        raise Failure(
            ExitCode.SYSTEM, f"{DIRECTORY} cannot be written: {error.strerror}", "run it as a user of the group qubes"
        ) from None


def has_default() -> bool:
    """Whether the package's own policy is there."""
    return "miragevpn.ImportProfile" in (_read(DIRECTORY / DEFAULT) or "")


def allows(source: str, target: str, service: str) -> bool | None:
    """What dom0's policy as a whole makes of a call, without making it (ask counts as no); None if nobody can tell."""
    try:
        # The five words that every release of it takes; no call has a number or an ident here.
        ran = subprocess.run(
            [EVALUATE, "--just-evaluate", "0", source, target, service, "doctor"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: True, 1: False}.get(ran.returncode)


def update_proxies() -> list[tuple[str, str]]:
    """(source, target) of each rule that sends updates somewhere, the one that decides first."""
    found = []
    try:
        files = sorted(DIRECTORY.glob("*.policy"))
    except OSError:
        return []
    for file in files:
        for line in (_read(file) or "").splitlines():
            words = line.split()
            if len(words) >= 5 and words[0] == "qubes.UpdatesProxy" and words[4] == "allow":
                found += [(words[2], word.removeprefix("target=")) for word in words[5:] if word.startswith("target=")]
    return found


def _read(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return None
