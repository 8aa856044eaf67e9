# SPDX-License-Identifier: BSD-2-Clause
"""OpenVPN's key files, between two marker lines: static keys in hexadecimal, tls-crypt-v2 keys in base64.

The forms of `openvpn --genkey secret`, `tls-crypt-v2-server` and `tls-crypt-v2-client` (its man page, section "Secret
key generation"). Text before and after the markers is a comment. A key of any other length is refused, and so is the
free-form passphrase file of OpenVPN before 2.4. No message holds anything of the file's content.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from qubes_miragevpn.base.errors import ConfigError, MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.token import SECRET_SIZE
from qubes_miragevpn.crypto.wrappedkey import LENGTH_SIZE, MAX_WRAPPED, MIN_WRAPPED, SERVER_KEY_SIZE

KEY_BYTES = 256
_BEGIN = "-----BEGIN OpenVPN Static key V1-----"
_END = "-----END OpenVPN Static key V1-----"
_WHITESPACE = re.compile(rb"[ \t\r\n\v\f]+")
_FIX = "make one with `miragevpn genkey FILE`, or copy the file again, whole"
_V2_CLIENT, _V2_SERVER = "OpenVPN tls-crypt-v2 client key", "OpenVPN tls-crypt-v2 server key"
_BASE64_LINE = 64


@dataclass(frozen=True)
class ClientKey:
    """A tls-crypt-v2 client's key file: its 256-byte key, and that key wrapped for the server."""

    key: Secret
    wrapped: bytes


def parse_static_key(text: bytes) -> Secret:
    """Return the 256 bytes of a static key file; raises `ConfigError` (without file and line)."""
    begin, end = text.find(_BEGIN.encode()), text.find(_END.encode())
    if begin < 0 or end < begin:
        raise ConfigError(f"no static key: the lines '{_BEGIN}' and '{_END}' are missing", fix=_FIX)
    digits = _WHITESPACE.sub(b"", text[begin + len(_BEGIN) : end])
    try:
        key = binascii.unhexlify(digits)
    except binascii.Error:
        raise ConfigError("the static key holds something that is not hexadecimal", fix=_FIX) from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the static key has {len(key)} bytes, not {KEY_BYTES}", fix=_FIX)
    return Secret(key)


def render_static_key(key: bytes) -> str:
    """Return the text of a key file for the 256 bytes `key`, as openvpn writes it."""
    if len(key) != KEY_BYTES:
        raise MisuseError(f"a static key has {KEY_BYTES} bytes, not {len(key)}")
    rows = [key[i : i + 16].hex() for i in range(0, KEY_BYTES, 16)]
    return "\n".join(["#", "# 2048 bit OpenVPN static key", "#", _BEGIN, *rows, _END, ""])


def parse_client_key(text: bytes) -> ClientKey:
    """Read a tls-crypt-v2 client's key file; raises `ConfigError` (without file and line)."""
    raw = _pem(text, _V2_CLIENT, _V2_SERVER)
    key, wrapped = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if not MIN_WRAPPED <= len(wrapped) <= MAX_WRAPPED or int.from_bytes(wrapped[-LENGTH_SIZE:], "big") != len(wrapped):
        raise ConfigError("the tls-crypt-v2 client key has a wrong length", fix="copy the file again, whole")
    return ClientKey(Secret(key), wrapped)


def parse_server_key(text: bytes) -> Secret:
    """Return the 128 bytes of a tls-crypt-v2 server's key file; raises `ConfigError` (without file and line)."""
    raw = _pem(text, _V2_SERVER, _V2_CLIENT)
    if len(raw) != SERVER_KEY_SIZE:
        raise ConfigError(f"the tls-crypt-v2 server key has {len(raw)} bytes, not {SERVER_KEY_SIZE}", fix=_V2_FIX)
    return Secret(raw)


def parse_token_secret(text: bytes) -> Secret:
    """Return the 32 bytes that seal session tokens, out of the file of `openvpn --genkey auth-token`."""
    raw = _pem(text, _TOKEN_SECRET)
    if len(raw) != SERVER_KEY_SIZE:
        raise ConfigError(f"the key of session tokens has {len(raw)} bytes, not {SERVER_KEY_SIZE}", fix=_TOKEN_FIX)
    return Secret(raw[_HMAC_PART : _HMAC_PART + SECRET_SIZE])


def render_client_key(key: ClientKey) -> str:
    """Return the text of a tls-crypt-v2 client's key file, as openvpn writes it."""
    return _render_pem(_V2_CLIENT, key.key.reveal() + key.wrapped)


def render_server_key(key: Secret) -> str:
    """Return the text of a tls-crypt-v2 server's key file, as openvpn writes it."""
    if len(key) != SERVER_KEY_SIZE:
        raise MisuseError(f"a tls-crypt-v2 server key has {SERVER_KEY_SIZE} bytes, not {len(key)}")
    return _render_pem(_V2_SERVER, key.reveal())


def render_token_secret(secret: Secret) -> str:
    """Return the text of a file that holds these 32 bytes for `parse_token_secret`."""
    rest = bytes(SERVER_KEY_SIZE - _HMAC_PART - SECRET_SIZE)
    return _render_pem(_TOKEN_SECRET, bytes(_HMAC_PART) + secret.reveal() + rest)


_TOKEN_SECRET = "OpenVPN auth-token server key"
_HMAC_PART = 64  # a `struct key` begins with 64 bytes for a cipher, which tokens have none of
_TOKEN_FIX = "make one with `openvpn --genkey auth-token FILE`, or copy the file again, whole"
_V2_FIX = "make one with `miragevpn genkey --tls-crypt-v2-server FILE`, or copy the file again, whole"


def _pem(text: bytes, label: str, other: str = "") -> bytes:
    begin, end = (f"-----{word} {label}-----".encode() for word in ("BEGIN", "END"))
    start, stop = text.find(begin), text.find(end)
    if start < 0 or stop < start:
        if other and f"-----BEGIN {other}-----".encode() in text:
            raise ConfigError(f"this is an '{other}'", fix=f"an '{label}' belongs here")
        raise ConfigError(f"no '{label}': the lines '{begin.decode()}' and '{end.decode()}' are missing")
    try:
        return base64.b64decode(_WHITESPACE.sub(b"", text[start + len(begin) : stop]), validate=True)
    except binascii.Error:
        raise ConfigError(f"the '{label}' is damaged: it is not base64", fix="copy the file again, whole") from None


def _render_pem(label: str, raw: bytes) -> str:
    encoded = base64.b64encode(raw).decode("ascii")
    rows = [encoded[at : at + _BASE64_LINE] for at in range(0, len(encoded), _BASE64_LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *rows, f"-----END {label}-----", ""])
