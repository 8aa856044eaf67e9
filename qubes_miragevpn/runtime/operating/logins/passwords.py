# SPDX-License-Identifier: BSD-2-Clause
"""A file of names and password hashes, for ``auth-user-pass-file``; `miragevpn passwd` writes it.

    name:$scrypt$ln=15,r=8,p=1$salt$hash          (base64 without padding; the PHC string format)

scrypt (RFC 7914) with 32 MiB takes a tenth of a second, so that a stolen file is no list of passwords. A name that is
not there takes as long as one that is. The file is read for every login: a change counts at once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.digests import same
from qubes_miragevpn.runtime import disk
from qubes_miragevpn.runtime.files import read_bounded
from qubes_miragevpn.runtime.operating.logins.judge import Case, Verdict

COST = 15  # log2 of scrypt's N
BLOCK, PARALLEL = 8, 1
MAX_COST, MAX_BLOCK, MAX_PARALLEL = 17, 16, 4
SALT_SIZE, HASH_SIZE = 16, 32
MAX_PASSWORD = 1024
_NAME = re.compile(r"[^\s:#][^:\r\n]{0,127}")
_HASH = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]{16,64})\$([A-Za-z0-9+/]{20,128})")
_NOBODY = f"$scrypt$ln={COST},r={BLOCK},p={PARALLEL}${'A' * 22}${'A' * 43}"


class Passwords:
    """Judges by the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def judge(self, case: Case) -> Verdict:
        """Compare the password with the name's hash."""
        async with case.turn:
            return await asyncio.to_thread(self._compare, case.asked.username, case.asked.password)

    def _compare(self, username: str, password: Secret) -> Verdict:
        hashed = read(read_bounded(self._path), str(self._path)).get(username)
        good = matches(password, hashed or _NOBODY)
        if hashed is None:
            return Verdict(False, why="no such user")
        return Verdict(good, why="" if good else "wrong password")


def read(text: bytes, file: str) -> dict[str, str]:
    """The names in a password file with their hashes; raises `ConfigError` with the line that cannot be read."""
    known: dict[str, str] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, hashed = line.partition(":")
        if not _NAME.fullmatch(name) or not _HASH.fullmatch(hashed.strip()):
            raise ConfigError("not NAME:HASH", file=file, line=number, fix="write it with `miragevpn passwd`")
        known[name] = hashed.strip()
    return known


def hash_password(password: Secret, salt: bytes) -> str:
    """The hash of a password, as the file holds it."""
    hashed = _scrypt(password, salt, COST, BLOCK, PARALLEL)
    return f"$scrypt$ln={COST},r={BLOCK},p={PARALLEL}${_b64(salt)}${_b64(hashed)}"


def matches(password: Secret, hashed: str) -> bool:
    """Whether this is the password; a hash that asks for too much work is nobody's."""
    found = _HASH.fullmatch(hashed)
    if found is None or len(password) > MAX_PASSWORD:
        return False
    cost, block, parallel = (int(found[number]) for number in (1, 2, 3))
    if not (1 <= cost <= MAX_COST and 1 <= block <= MAX_BLOCK and 1 <= parallel <= MAX_PARALLEL):
        return False
    try:
        salt, expected = _unb64(found[4]), _unb64(found[5])
    except binascii.Error:
        return False
    return len(expected) == HASH_SIZE and same(_scrypt(password, salt, cost, block, parallel), expected)


def write(path: Path, name: str, password: Secret | None) -> bool:
    """Set the password of `name` in the file, or (None) remove it; False if there was none to remove."""
    if not _NAME.fullmatch(name) or not name.isprintable():  # else it would end its line
        raise ConfigError("not a name: 1 to 128 characters, no ':'")
    hashed = None if password is None else hash_password(password, os.urandom(SALT_SIZE))
    with disk.alone(path.parent):  # two at once would each write what they have read, and one change be lost
        try:
            known = read(read_bounded(path), str(path))
        except FileNotFoundError:
            known = {}
        if hashed is not None:
            known[name] = hashed
        elif known.pop(name, None) is None:
            return False
        disk.write_file(path, "".join(f"{name}:{hashed}\n" for name, hashed in known.items()).encode())
    return True


def _scrypt(password: Secret, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    n = 1 << cost
    room = 128 * block * (n + parallel + 2) + (1 << 20)
    return hashlib.scrypt(password.reveal(), salt=salt, n=n, r=block, p=parallel, maxmem=room, dklen=HASH_SIZE)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii").rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
