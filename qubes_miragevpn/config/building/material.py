# SPDX-License-Identifier: BSD-2-Clause
"""Keys, certificates and passwords that a configuration holds or names: read, checked for form, never quoted.

The form of PEM is RFC 7468's. Whether a certificate is valid is the TLS library's business; here a file of the wrong
kind, a cut one or an encrypted key is told apart with words that help. No message holds a byte of any content.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.config.reading.collect import Entry
from qubes_miragevpn.config.rows.arguments import FINGERPRINT
from qubes_miragevpn.crypto.keyfiles import ClientKey, parse_client_key, parse_server_key, parse_static_key

MAX_FILE = 1 << 20
MAX_CREDENTIAL = 127  # bytes; openvpn's buffer is 128 with the NUL
MAX_FINGERPRINTS = 1024

ReadFile = Callable[[str], bytes]
T = TypeVar("T")

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")


def content(entry: Entry, read_file: ReadFile) -> bytes:
    """The block of `entry`, or the file that its first argument names."""
    if entry.block is not None:
        return entry.block
    path = entry.args[0]
    try:
        found = read_file(path)
    except OSError as error:
        why = printable(error.strerror or type(error).__name__, 80)
        raise entry.error(f"cannot read '{printable(path)}' of '{entry.row.name}': {why}") from None
    if len(found) > MAX_FILE:
        raise entry.error(f"'{printable(path)}' of '{entry.row.name}' has more than {MAX_FILE} bytes")
    return found


def certificates(entry: Entry, read_file: ReadFile) -> bytes:
    """The certificates in `entry`'s content, as PEM and without whatever stands between them."""
    found = [pem for label, pem in _pem_blocks(entry, content(entry, read_file)) if label == "CERTIFICATE"]
    if not found:
        raise entry.error(f"'{entry.row.name}' holds no certificate", "it must be PEM: '-----BEGIN CERTIFICATE-----'")
    return b"".join(found)


def private_key(entry: Entry, read_file: ReadFile) -> Secret:
    """The private key in `entry`'s content, as PEM; an encrypted one is refused."""
    for label, pem in _pem_blocks(entry, content(entry, read_file)):
        if label == "ENCRYPTED PRIVATE KEY" or (label.endswith("PRIVATE KEY") and b"ENCRYPTED" in pem):
            raise entry.error(
                "the private key is encrypted, which is not supported yet",
                "remove its password: openssl pkey -in OLD.key -out NEW.key",
            )
        if label.endswith("PRIVATE KEY"):
            return Secret(pem)
    raise entry.error(f"'{entry.row.name}' holds no private key", "it must be PEM: '-----BEGIN PRIVATE KEY-----'")


def static_key(entry: Entry, read_file: ReadFile) -> Secret:
    """The 2048-bit static key in `entry`'s content."""
    return _key_file(entry, read_file, parse_static_key)


def client_key(entry: Entry, read_file: ReadFile) -> ClientKey:
    """The tls-crypt-v2 client key in `entry`'s content."""
    return _key_file(entry, read_file, parse_client_key)


def server_key(entry: Entry, read_file: ReadFile) -> Secret:
    """The tls-crypt-v2 server key in `entry`'s content."""
    return _key_file(entry, read_file, parse_server_key)


def _key_file(entry: Entry, read_file: ReadFile, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(content(entry, read_file))
    except ConfigError as error:
        if error.file:
            raise
        raise entry.error(f"'{entry.row.name}': {error.problem}", error.fix) from None


def credentials(entry: Entry, read_file: ReadFile) -> Credentials | None:
    """User name and password, one per line; None where the password is missing."""
    lines = [line.removesuffix(b"\r") for line in content(entry, read_file).split(b"\n")]
    fields = [line for line in lines[:2] if line]
    for line in fields:
        if len(line) > MAX_CREDENTIAL:
            raise entry.error(f"a user name or a password has more than {MAX_CREDENTIAL} bytes")
        if re.search(rb"[\x00-\x1f\x7f]", line):
            raise entry.error("a user name or a password holds a control character")
    if not fields or not lines[0]:
        raise entry.error("there is no user name", "write the user name on the first line, the password on the second")
    try:
        username = lines[0].decode("utf-8")
    except UnicodeDecodeError:
        raise entry.error("the user name is not UTF-8") from None
    return Credentials(username, Secret(lines[1])) if len(fields) == 2 else None


def fingerprints(entry: Entry) -> Iterator[bytes]:
    """The fingerprints of a ``peer-fingerprint`` line or block."""
    if entry.block is None:
        yield entry.args[0]
        return
    for number, line in enumerate(entry.block.decode("utf-8", "replace").split("\n"), entry.line + 1):
        word = line.strip()
        if not word or word[0] in "#;":
            continue
        try:
            yield FINGERPRINT.parse(word)
        except ValueError:
            raise ConfigError(f"this must be {FINGERPRINT.expected}", file=entry.file, line=number) from None


def _pem_blocks(entry: Entry, text: bytes) -> Iterator[tuple[str, bytes]]:
    """Every PEM block as (label, block), its form checked; time is linear in the text."""
    at = 0
    while (begin := _BEGIN.search(text, at)) is not None:
        closing = b"-----END " + begin[1] + b"-----"
        end = text.find(closing, begin.end())
        if end < 0:
            raise entry.error(f"'{entry.row.name}' is cut: a PEM block does not end", "copy the file again, whole")
        _check_body(entry, text[begin.end() : end])
        at = end + len(closing)
        yield begin[1].decode("ascii"), text[begin.start() : at] + b"\n"


def _check_body(entry: Entry, body: bytes) -> None:
    head, blank, rest = body.replace(b"\r\n", b"\n").partition(b"\n\n")
    encoded = rest if blank and b":" in head else body
    try:
        der = base64.b64decode(b"".join(encoded.split()), validate=True)
    except binascii.Error:
        der = b""
    if not der.startswith(b"\x30"):  # everything that belongs here is an ASN.1 sequence
        raise entry.error(f"'{entry.row.name}' is damaged: a PEM block does not decode", "copy the file again, whole")
