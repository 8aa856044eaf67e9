# SPDX-License-Identifier: BSD-2-Clause
"""The packages of this clone as it is now, built once however many tests ask, and what is in them.

What was built stays in build/tested as long as no tracked file changes. Nothing is downloaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TESTED = REPOSITORY / "build" / "tested"
NAMES = {"deb": "qubes-miragevpn", "rpm": "qubes-miragevpn", "dom0": "qubes-miragevpn-dom0"}


@dataclass(frozen=True, order=True)
class Entry:
    """A file of a package; `mode` as ls shows it, `name` with a slash at the end for a folder."""

    name: str
    mode: str
    owner: str
    group: str


ENVIRONMENT = {**os.environ, "CARGO_TARGET_DIR": str(TESTED / "cargo")}
"""All builds share the crates that are compiled; our own are compiled each time."""


def run(*command: str | Path, **options: object) -> str:
    """Run a program of the machine; raises with what it said when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return str(done.stdout)


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """Only one process at a time works on `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def fingerprint() -> str:
    """Changes with every tracked file, and with the commit."""
    digest = hashlib.sha256(run("git", "rev-parse", "HEAD", cwd=REPOSITORY).encode())
    for name in sorted(tracked(REPOSITORY)):
        path = REPOSITORY / name
        if path.is_file():
            digest.update(f"{name} {path.stat().st_mode & 0o111} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def built(kind: str) -> Path:
    """The folder with the packages of `kind` ("deb", "rpm"); without Debian's tools a test of a deb is left out."""
    if kind == "deb" and shutil.which("apt-get") is None:
        pytest.skip("Debian's packages are built on Debian")
    with alone(TESTED / kind) as folder:
        key, note = fingerprint(), folder / "key"
        if not note.exists() or note.read_text() != key:
            note.unlink(missing_ok=True)
            run("tools/package", kind, folder, cwd=REPOSITORY, env=ENVIRONMENT)
            note.write_text(key)
    return folder


def package(kind: str) -> Path:
    """The package file: "deb", "rpm" (of the VM), "dom0"."""
    folder = built("deb" if kind == "deb" else "rpm")
    rest = r"_[^-]*\.deb" if kind == "deb" else r"-\d[^-]*-[^-]*\.(?!src)\w+\.rpm"
    pattern = re.compile(re.escape(NAMES[kind]) + rest)
    (found,) = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return found


def entries(kind: str) -> list[Entry]:
    """Everything in the package."""
    path = package(kind)
    if kind == "deb":
        return sorted(_of_deb(path))
    lines = run("rpm", "-qp", "--qf", "[%{FILENAMES}\t%{FILEMODES:perms}\t%{FILEUSERNAME}\t%{FILEGROUPNAME}\n]", path)
    return sorted(_of_rpm(line.split("\t")) for line in lines.splitlines())


def _of_rpm(fields: list[str]) -> Entry:
    name, mode, owner, group = fields
    return Entry(name + "/" * mode.startswith("d"), mode, owner, group)


def _of_deb(path: Path) -> Iterator[Entry]:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as unpacking:
        assert unpacking.stdout is not None
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as members:
            for member in members:
                name = member.name.removeprefix(".") + "/" * member.isdir()
                if name != "/":
                    mode = tarfile.stat.filemode(member.mode | (0o040000 if member.isdir() else 0o100000))  # type: ignore[attr-defined]
                    yield Entry(name, mode, member.uname, member.gname)


def tracked(folder: Path) -> set[str]:
    """The files that git knows of in a clone."""
    return set(filter(None, run("git", "ls-files", "-z", cwd=folder).split("\0")))


def clone(target: Path) -> Path:
    """Another clone of the same commit, with the same changes to tracked files."""
    run("git", "clone", "--quiet", "--shared", REPOSITORY, target)
    ours = tracked(REPOSITORY)
    for name in tracked(target) - ours:
        run("git", "rm", "--quiet", name, cwd=target)
    for name in ours:
        (target / name).unlink(missing_ok=True)
        if (REPOSITORY / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)
    run("git", "add", "--all", cwd=target)
    return target
