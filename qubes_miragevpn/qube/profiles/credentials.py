# SPDX-License-Identifier: BSD-2-Clause
"""User names and passwords: a folder of their own, one file per profile, two lines, for the service's eyes only.

They are set and forgotten, and used by the tunnel; nothing gives them out again, be it a status, a log or a
reply. A file that others may read is not used.
"""

from __future__ import annotations

import stat
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.building.material import MAX_CREDENTIAL
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.files import read_bounded

MAX_CREDENTIALS = 4096  # bytes, both lines


def read(folder: Path, name: str) -> Credentials | None:
    """User name and password of profile `name` (a valid name), None if there are none; raises `ConfigError`."""
    path, shown = folder / name, f"credentials/{name}"
    try:
        status = path.stat()
        text = read_bounded(path, beneath=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=shown) from None
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError("may be read by others", file=shown, fix="chmod 600")
    return parse(text, shown)


def parse(untrusted: bytes, shown: str) -> Credentials:
    """The credentials in `untrusted`; raises `ConfigError`, which repeats nothing of them."""
    text = untrusted[: MAX_CREDENTIALS + 1].decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines = text.split("\n")
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if len(untrusted) > MAX_CREDENTIALS or len(lines) != 2 or not lines[0] or "\0" in "".join(lines):
        raise ConfigError("must be two lines, user name and password", file=shown)
    if any(len(line.encode("utf-8", "surrogateescape")) > MAX_CREDENTIAL for line in lines):
        raise ConfigError(f"no server takes more than {MAX_CREDENTIAL} bytes of a user name or a password", file=shown)
    return Credentials(lines[0], Secret(lines[1].encode("utf-8", "surrogateescape")))


def write(folder: Path, name: str, untrusted: bytes) -> bool:
    """Set the credentials of profile `name`; nothing at all in `untrusted` forgets them, and returns False.

    Raises `ConfigError`, and OSError if the disk refuses.
    """
    if not untrusted:
        disk.remove(folder / name)
        return False
    given = parse(untrusted, "what was handed in")
    text = given.username.encode("utf-8", "surrogateescape") + b"\n" + given.password.reveal() + b"\n"
    disk.write_file(folder / name, text)
    return True
