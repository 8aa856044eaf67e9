# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn genkey [FILE]`: make a key for `tls-auth`, `tls-crypt` or `tls-crypt-v2`, in openvpn's form.

The file is its owner's alone (mode 0600) from the first byte on. A file that exists is left as it is, unless
`--force` is given: then it is replaced in one step.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import time
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `genkey` to the command line."""
    parser = subparsers.add_parser(
        "genkey",
        help="make a key for tls-auth, tls-crypt or tls-crypt-v2",
        description="Make a 2048-bit static key for tls-auth or tls-crypt, or a key for tls-crypt-v2.",
    )
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="where to write it; '-' is standard output"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--tls-crypt-v2-server", action="store_true", help="make a server's key for tls-crypt-v2")
    kind.add_argument(
        "--tls-crypt-v2-client", metavar="SERVER-KEY", help="make a client's key for tls-crypt-v2 and that server key"
    )
    parser.add_argument(
        "--metadata", metavar="BASE64", help="what the client's key tells the server, instead of the time of its making"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the key and write it."""
    text = _make(arguments)
    if arguments.file == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return ExitCode.OK
    from qubes_miragevpn.runtime import disk

    path = Path(arguments.file)
    if arguments.force:
        disk.write_file(path, text.encode())
    else:
        try:
            disk.create_file(path, text.encode())
        except FileExistsError:
            raise ConfigError("the file exists already", file=str(path), fix="--force replaces it") from None
    return ExitCode.OK


def _make(arguments: argparse.Namespace) -> str:
    from qubes_miragevpn.base.secret import Secret
    from qubes_miragevpn.crypto import keyfiles
    from qubes_miragevpn.crypto.wrappedkey import SERVER_KEY_SIZE

    if arguments.metadata is not None and arguments.tls_crypt_v2_client is None:
        raise ConfigError("--metadata belongs to --tls-crypt-v2-client")
    if arguments.tls_crypt_v2_client is not None:
        return _client_key(Path(arguments.tls_crypt_v2_client), arguments.metadata)
    if arguments.tls_crypt_v2_server:
        return keyfiles.render_server_key(Secret(os.urandom(SERVER_KEY_SIZE)))
    return keyfiles.render_static_key(os.urandom(keyfiles.KEY_BYTES))


def _client_key(server_file: Path, metadata: str | None) -> str:
    from qubes_miragevpn.base.secret import Secret
    from qubes_miragevpn.crypto import keyfiles, wrappedkey
    from qubes_miragevpn.runtime.files import read_bounded

    try:
        server_key = keyfiles.parse_server_key(read_bounded(server_file))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(server_file)) from None
    except ConfigError as error:
        raise ConfigError(error.problem, file=str(server_file), fix=error.fix) from None
    key = Secret(os.urandom(keyfiles.KEY_BYTES))
    said = wrappedkey.timestamp_metadata(int(time.time())) if metadata is None else _user_metadata(metadata)
    return keyfiles.render_client_key(keyfiles.ClientKey(key, wrappedkey.wrap_client_key(server_key, key, said)))


def _user_metadata(encoded: str) -> bytes:
    from qubes_miragevpn.crypto.wrappedkey import MAX_METADATA, user_metadata

    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise ConfigError("--metadata must be base64") from None
    if len(content) >= MAX_METADATA:
        raise ConfigError(f"--metadata has {len(content)} bytes; {MAX_METADATA - 1} are the most")
    return user_metadata(content)
