# SPDX-License-Identifier: BSD-2-Clause
"""Writing to disk so that a crash at any instruction leaves the old or the new, never half of either.

Everything is made under a name of its own in the same folder, for the owner's eyes only, flushed, and renamed. A
folder takes the place of another by renameat2(2) with RENAME_EXCHANGE, which swaps the two in one step. What a
crash left under such a name begins with a dot, is no profile's name, and is removed by `sweep` at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PREFIX = ".new-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Make `path` hold `content`; raises OSError and leaves it as it was."""
    descriptor, temporary = tempfile.mkstemp(prefix=PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    flush(path.parent)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else is between reading and writing in `folder` (flock(2), which ends with its holder)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create_file(path: Path, content: bytes) -> None:
    """Write a file that did not exist; raises OSError (FileExistsError if it does), and half of it does not stay."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make `path` a folder that holds `files` (by relative path) and nothing else; raises OSError as above."""
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
    try:
        for name, content in files.items():
            target = temporary / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_file(target, content)
        for folder in {(temporary / name).parent for name in files} | {temporary}:
            flush(folder)
        if path.is_symlink() or not path.is_dir():
            os.rename(temporary, path)  # over nothing, or an error
        else:
            _exchange(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(path: Path) -> bool:
    """Remove a file or a folder with all that is in it, in one step as others see it; False if there was none."""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        grave = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
        os.rename(path, grave / "gone")
        shutil.rmtree(grave, ignore_errors=True)
    flush(path.parent)
    return True


def sweep(folder: Path) -> None:
    """Remove what a crash left behind in `folder`."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(PREFIX):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def flush(folder: Path) -> None:
    """Have the names in `folder` on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
