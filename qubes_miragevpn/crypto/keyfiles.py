# SPDX-License-Identifier: BSD-2-Clause
"""OpenVPN's static key file: 2048 bits as hexadecimal lines between two marker lines.

The form of `openvpn --genkey secret` (its man page, section "Secret key generation"); used by ``tls-auth`` and
``tls-crypt``. Text before and after the markers is a comment. A key of any other length is refused, and so is the
free-form passphrase file of OpenVPN before 2.4. No message holds anything of the file's content.
"""

from __future__ import annotations

import binascii
import re

from qubes_miragevpn.base.errors import ConfigError, MisuseError
from qubes_miragevpn.base.secret import Secret

KEY_BYTES = 256
_BEGIN = "-----BEGIN OpenVPN Static key V1-----"
_END = "-----END OpenVPN Static key V1-----"
_WHITESPACE = re.compile(rb"[ \t\r\n\v\f]+")
_FIX = "make one with `miragevpn genkey FILE`, or copy the file again, whole"


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
