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
from qubes_miragevpn.crypto.keyfiles import (
    ClientKey,
    parse_client_key,
    parse_server_key,
    parse_static_key,
    parse_token_secret,
)

MAX_FILE = 1 << 20
MAX_CREDENTIAL = 127  # bytes; openvpn's buffer is 128 with the NUL
MAX_FINGERPRINTS = 1024

ReadFile = Callable[[str], bytes]
T = TypeVar("T")

_BOM = b"\xef\xbb\xbf"  # editors of Windows put it in front, and nobody sees it
_END_CERTIFICATE = b"-----END CERTIFICATE-----"
_END_CRL = b"-----END X509 CRL-----"
_HASH = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+\Z")
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")


def content(entry: Entry, read_file: ReadFile) -> bytes:
    """The block of `entry`, or the file that its first argument names."""
    if entry.block is not None:
        return entry.block
    return file_content(entry, entry.args[0], read_file)


def file_content(entry: Entry, path: str, read_file: ReadFile) -> bytes:
    """The content of the file `path`, which `entry` names."""
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
    found = certificates_in(entry, content(entry, read_file))
    if not found:
        raise entry.error(f"'{entry.row.name}' holds no certificate", "it must be PEM: '-----BEGIN CERTIFICATE-----'")
    return found


def certificates_in(entry: Entry, text: bytes) -> bytes:
    """The certificates in `text`, or nothing."""
    return b"".join(pem for label, pem in _pem_blocks(entry, text) if label == "CERTIFICATE")


def split_certificates(pem: bytes) -> list[bytes]:
    """The single certificates of what `certificates` returned."""
    return [block + _END_CERTIFICATE for block in pem.split(_END_CERTIFICATE)[:-1]]


def revocations(entry: Entry, read_file: ReadFile) -> bytes:
    """The lists of revoked certificates in `entry`'s content."""
    found = revocations_in(entry, content(entry, read_file))
    if not found:
        raise entry.error(f"'{entry.row.name}' holds no list", "it must be PEM: '-----BEGIN X509 CRL-----'")
    return found


def revocations_in(entry: Entry, text: bytes) -> bytes:
    """The lists of revoked certificates in `text`, or nothing."""
    return b"".join(pem for label, pem in _pem_blocks(entry, text) if label == "X509 CRL")


def split_revocations(pem: bytes) -> list[bytes]:
    """The single lists of what `revocations` returned."""
    return [block + _END_CRL for block in pem.split(_END_CRL)[:-1]]


def first_line(entry: Entry, read_file: ReadFile) -> Secret:
    """The first line of `entry`'s content: a password."""
    line = content(entry, read_file).removeprefix(_BOM).split(b"\n", 1)[0].removesuffix(b"\r")
    if len(line) > MAX_CREDENTIAL:
        raise entry.error(f"the password has more than {MAX_CREDENTIAL} bytes")
    return Secret(line)


def private_key(entry: Entry, read_file: ReadFile) -> bytes:
    """The private key in `entry`'s content, as PEM, encrypted or not."""
    for label, pem in _pem_blocks(entry, content(entry, read_file)):
        if label.endswith("PRIVATE KEY"):
            return pem
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


def token_secret(entry: Entry, read_file: ReadFile) -> Secret:
    """The key of session tokens in `entry`'s content."""
    return _key_file(entry, read_file, parse_token_secret)


def _key_file(entry: Entry, read_file: ReadFile, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(content(entry, read_file))
    except ConfigError as error:
        if error.file:
            raise
        raise entry.error(f"'{entry.row.name}': {error.problem}", error.fix) from None


def credentials(entry: Entry, read_file: ReadFile) -> Credentials | None:
    """User name and password, one per line; None where the password is missing."""
    return credentials_of(entry, content(entry, read_file))


def credentials_of(entry: Entry, text: bytes) -> Credentials | None:
    """User name and password in `text`, which `entry` gives or names."""
    name, password = _login(entry, text)
    return None if password is None else Credentials(name, Secret(password))


def username(entry: Entry, read_file: ReadFile) -> str:
    """The user name alone."""
    return _login(entry, content(entry, read_file))[0]


def _login(entry: Entry, text: bytes) -> tuple[str, bytes | None]:
    lines = [line.removesuffix(b"\r") for line in text.removeprefix(_BOM).split(b"\n", 2)]
    fields = [line for line in lines[:2] if line]
    for line in fields:
        if len(line) > MAX_CREDENTIAL:
            raise entry.error(f"a user name or a password has more than {MAX_CREDENTIAL} bytes")
        if re.search(rb"[\x00-\x1f\x7f]", line):
            raise entry.error("a user name or a password holds a control character")
    if not fields or not lines[0]:
        raise entry.error("there is no user name", "write the user name on the first line, the password on the second")
    try:
        return lines[0].decode("utf-8"), (lines[1] if len(fields) == 2 else None)
    except UnicodeDecodeError:
        raise entry.error("the user name is not UTF-8") from None


def fingerprints(entry: Entry) -> Iterator[bytes]:
    """The fingerprints of a ``peer-fingerprint`` line or block."""
    if entry.block is None:
        yield entry.args[0]
    else:
        yield from hashes(entry, 32)


def hashes(entry: Entry, size: int) -> Iterator[bytes]:
    """The hashes of `size` bytes of a line or of a block with one on each line."""
    lines = [entry.args[0]] if entry.block is None else entry.block.decode("utf-8", "replace").split("\n")
    first = entry.line if entry.block is None else entry.line + 1
    found = 0
    for number, line in enumerate(lines, first):
        word = line.strip()
        if not word or word[0] in "#;":
            continue
        found += 1
        if not _HASH.match(word) or len(word) != 3 * size - 1:
            kind = "a SHA-256 fingerprint" if size == 32 else "a SHA-1 fingerprint"
            expected = f"{kind}: {size} hexadecimal bytes with ':' between"
            raise ConfigError(f"this must be {expected}", file=entry.file, line=number)
        if found > MAX_FINGERPRINTS:
            raise entry.error(f"there are more than {MAX_FINGERPRINTS} lines in '{entry.row.name}'")
        yield bytes.fromhex(word.replace(":", ""))


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
