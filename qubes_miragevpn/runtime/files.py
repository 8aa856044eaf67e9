# SPDX-License-Identifier: BSD-2-Clause
"""Reading the files that a profile names.

The configuration layer does no I/O: it is handed a function `read_file(path) -> bytes`, made here. It reads
regular files of at most 1 MiB and nothing else (no device, no FIFO that blocks for ever). Confined, it also
refuses every path that leaves the profile's directory, be it by `..`, by an absolute path or by a symbolic link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

MAX_NAMES = 4096  # entries of a directory
MAX_FILE = 1 << 20  # bytes; a certificate bundle of 500 authorities is a quarter of that


def read_bounded(path: Path, *, beneath: Path | None = None) -> bytes:
    """Return the content of the regular file `path`.

    Raises OSError: also EFBIG above `MAX_FILE`, EINVAL if it is no regular file, and EACCES if it is not, with
    all links followed, inside the directory `beneath`.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer; it means nothing for regular files
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if beneath is not None:
            _demand_beneath(descriptor, path, beneath)
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise OSError(errno.EFBIG, f"larger than {MAX_FILE} bytes", str(path))
    return content


def profile_reader(directory: Path, *, confined: bool) -> Callable[[str], bytes]:
    """Make the `read_file` of a profile that lies in `directory`, from where its relative paths count.

    The function raises OSError as `read_bounded` does; a path with a NUL byte is EINVAL.
    """

    def read_file(path: str) -> bytes:
        if "\0" in path or not path:
            raise OSError(errno.EINVAL, "not a file name", path)
        if confined and Path(path).is_absolute():
            raise OSError(errno.EACCES, "must be inside the profile's directory", path)
        expanded = path if confined else os.path.expanduser(path)
        return read_bounded(directory / expanded, beneath=directory if confined else None)

    return read_file


def directory_lister(directory: Path, *, confined: bool) -> Callable[[str], list[str]]:
    """Make what lists the directories that a profile in `directory` names; paths count and are judged as for files.

    The function raises OSError, also E2BIG for a directory of more than `MAX_NAMES` entries.
    """

    def list_directory(path: str) -> list[str]:
        if "\0" in path or not path:
            raise OSError(errno.EINVAL, "not a directory's name", path)
        if confined and Path(path).is_absolute():
            raise OSError(errno.EACCES, "must be inside the profile's directory", path)
        where = directory / (path if confined else os.path.expanduser(path))
        descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if confined:
                _demand_beneath(descriptor, where, directory)
            with os.scandir(descriptor) as entries:
                names = [entry.name for entry, _ in zip(entries, range(MAX_NAMES + 1), strict=False)]
        finally:
            os.close(descriptor)
        if len(names) > MAX_NAMES:
            raise OSError(errno.E2BIG, f"more than {MAX_NAMES} entries", path)
        return names

    return list_directory


def _demand_beneath(descriptor: int, path: Path, directory: Path) -> None:
    """Judge the file that was opened, not its name: nothing can be exchanged between check and use."""
    opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if not opened.is_relative_to(directory.resolve(strict=True)):
        raise OSError(errno.EACCES, "outside the profile's directory", str(path))
