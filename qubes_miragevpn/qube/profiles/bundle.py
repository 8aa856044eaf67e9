# SPDX-License-Identifier: BSD-2-Clause
"""What is handed in for import: one profile as text, or a tar of a profile with the files that it names.

The reader of tar is our own and as small as can be (POSIX.1-2017 ustar, and the ``ustar  `` of GNU): header blocks of
plain files and directories, and nothing else. Links, devices, FIFOs, sparse files, long-name records, absolute
paths, ``..`` and odd characters are refused, compressed input too (it could unpack to anything). pax records, which
tar writes for a time stamp's fractions, are skipped unless they would change a name or a size. Nothing is
written here; what comes out is a `Bundle` in memory, bounded by the size of what came in.
"""

from __future__ import annotations

import errno
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from qubes_miragevpn.base.errors import ConfigError

MAX_IMPORT = 1 << 20  # bytes handed in; a profile with certificates and keys is a fiftieth of that
MAX_MEMBERS = 64  # files; a profile names about five
MAX_DEPTH = 3  # folders below the profile
SUFFIX = ".ovpn"

_BLOCK = 512
_PART = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}\Z")
"""One part of a member's path."""
_PAX_HARMFUL = (b" path=", b" linkpath=", b" size=", b"GNU.sparse")
_FILE, _DIRECTORY, _PAX = (b"0", b"\0"), (b"5",), (b"x", b"g")


@dataclass(frozen=True)
class Bundle:
    """A profile's text, and the files beside it by relative path (normalised, ``/`` between the parts)."""

    text: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)

    def reader(self) -> Callable[[str], bytes]:
        """The `read_file` of the configuration's loader: the files of the bundle and nothing of the machine's."""

        def read_file(path: str) -> bytes:
            name = posixpath.normpath(path)
            if name not in self.files:
                raise OSError(errno.ENOENT, "is not among the files that were handed in", path)
            return self.files[name]

        return read_file


def unpack(untrusted: bytes) -> Bundle:
    """Return what `untrusted` holds; raises `ConfigError`."""
    if len(untrusted) > MAX_IMPORT:
        raise ConfigError(f"larger than {MAX_IMPORT} bytes")
    if not untrusted.strip():
        raise ConfigError("empty")
    if untrusted[257:262] == b"ustar":
        return _from_members(dict(_members(untrusted)))
    if untrusted[:2] == b"\x1f\x8b" or untrusted[:3] == b"BZh" or untrusted[:6] == b"\xfd7zXZ\0":
        raise ConfigError("compressed", fix="hand in a plain tar, or the profile itself")
    if b"\0" in untrusted:
        raise ConfigError("neither a profile nor a tar")
    return Bundle(untrusted)


def _from_members(members: dict[str, bytes]) -> Bundle:
    profiles = [path for path in members if path.endswith(SUFFIX)]
    if len(profiles) != 1:
        raise ConfigError(f"the tar holds {len(profiles)} files *{SUFFIX}", fix="one is needed")
    folder = posixpath.dirname(profiles[0])
    files = {}
    for path, content in members.items():
        if path != profiles[0]:
            relative = posixpath.relpath(path, folder) if folder else path
            if relative.startswith(".."):
                raise ConfigError("a file of the tar lies outside the profile's folder")
            files[relative] = content
    return Bundle(members[profiles[0]], files)


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Each plain file, as (path, content); raises `ConfigError` for anything that is not a file or a folder."""
    place, seen, number = 0, set[str](), 0
    while place + _BLOCK <= len(data):
        header = data[place : place + _BLOCK]
        if not any(header):
            return  # the end is marked by blocks of zeros
        number += 1
        if number > 4 * MAX_MEMBERS:  # folders and pax records count as well
            raise ConfigError("the tar holds too many entries")
        size, kind = _checked(header), header[156:157]
        content = data[place + _BLOCK : place + _BLOCK + size]
        if len(content) != size:
            raise ConfigError("the tar is cut off")
        place += _BLOCK + -(-size // _BLOCK) * _BLOCK
        if kind in _PAX:
            if any(word in content for word in _PAX_HARMFUL):
                raise ConfigError("the tar uses extended names or sizes", fix="shorter names, or tar --format=ustar")
            continue
        if kind not in _FILE + _DIRECTORY:
            raise ConfigError("the tar holds something that is neither a plain file nor a folder")
        path = _path(header)
        if kind in _DIRECTORY or not path:
            continue
        if path in seen:
            raise ConfigError("the tar holds the same name twice")
        seen.add(path)
        if len(seen) > MAX_MEMBERS:
            raise ConfigError(f"the tar holds more than {MAX_MEMBERS} files")
        yield path, content
    raise ConfigError("the tar is cut off")


def _checked(header: bytes) -> int:
    """The member's size; the header's checksum must be right."""
    if header[257:262] != b"ustar":
        raise ConfigError("the tar is of a kind that is not read here", fix="tar --format=ustar")
    total = sum(header) - sum(header[148:156]) + 8 * 0x20
    if _octal(header[148:156]) != total:
        raise ConfigError("the tar is damaged")
    return _octal(header[124:136])


def _octal(untrusted_field: bytes) -> int:
    digits = untrusted_field.rstrip(b" \0").lstrip(b" ")
    if not digits or not all(0x30 <= digit <= 0x37 for digit in digits):
        raise ConfigError("the tar is damaged")
    return int(digits, 8)


def _path(header: bytes) -> str:
    """The member's path, normalised; "" for the folder that everything lies in (``./``)."""
    name, _, _ = header[:100].partition(b"\0")
    prefix, _, _ = header[345:500].partition(b"\0") if header[257:263] == b"ustar\0" else (b"", b"", b"")
    untrusted_path = b"/".join(part for part in (prefix, name) if part)
    if untrusted_path.startswith(b"/"):
        raise ConfigError("the tar holds an absolute path")
    parts = [part for part in untrusted_path.decode("ascii", "replace").split("/") if part not in ("", ".")]
    if any(part == ".." for part in parts):
        raise ConfigError('the tar holds a path with ".."')
    if not all(_PART.match(part) for part in parts):
        raise ConfigError("the tar holds a name with odd characters", fix="letters, digits and _.@+- only")
    if len(parts) > MAX_DEPTH + 1:
        raise ConfigError("the tar's folders are nested too deeply")
    return "/".join(parts)
