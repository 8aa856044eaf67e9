# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn genkey [FILE]`: make a static key for `tls-auth` or `tls-crypt`, in openvpn's form.

The file is its owner's alone (mode 0600) from the first byte on. A file that exists is left as it is, unless
`--force` is given: then it is replaced in one step.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `genkey` to the command line."""
    parser = subparsers.add_parser(
        "genkey", help="make a static key for tls-auth or tls-crypt", description="Make a 2048-bit static key."
    )
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="where to write it; '-' is standard output"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the key and write it."""
    from qubes_miragevpn.crypto.keyfiles import KEY_BYTES, render_static_key

    text = render_static_key(os.urandom(KEY_BYTES))
    if arguments.file == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return ExitCode.OK
    path = Path(arguments.file)
    if arguments.force:
        _replace(path, text)
    else:
        try:
            _create(path, text)
        except FileExistsError:
            raise ConfigError("the file exists already", file=str(path), fix="--force replaces it") from None
    return ExitCode.OK


def _create(path: Path, text: str) -> None:
    """Write a file that did not exist; a half-written one does not stay."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    _create(beside, text)
    try:
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
