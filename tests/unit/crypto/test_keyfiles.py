# SPDX-License-Identifier: BSD-2-Clause
"""Static key files: openvpn's form, and nothing else."""

from __future__ import annotations

import contextlib
import random

import pytest

from qubes_miragevpn.base.errors import ConfigError, MisuseError
from qubes_miragevpn.crypto.keyfiles import parse_static_key, render_static_key

KEY = bytes(range(256))
TEXT = render_static_key(KEY)


def test_form() -> None:
    """As `openvpn --genkey secret` of 2.6.14 writes it."""
    lines = TEXT.split("\n")
    assert lines[:4] == ["#", "# 2048 bit OpenVPN static key", "#", "-----BEGIN OpenVPN Static key V1-----"]
    assert lines[4] == "000102030405060708090a0b0c0d0e0f" and lines[19] == "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    assert lines[20:] == ["-----END OpenVPN Static key V1-----", ""]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.upper().replace("OPENVPN STATIC KEY", "OpenVPN Static key"),
        "comment\n" + TEXT + "more comment\n",
        TEXT.replace("\n", "\n  "),
        TEXT.rstrip("\n"),
    ],
)
def test_parsed(text: str) -> None:
    assert parse_static_key(text.encode()).reveal() == KEY


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no static key"),
        ("passphrase", "no static key"),
        (TEXT.replace("BEGIN", "BEGUN"), "no static key"),
        (TEXT.replace("-----END", "----END"), "no static key"),
        ("\n".join(reversed(TEXT.split("\n"))), "no static key"),
        (TEXT.replace("0f\n", "\n"), "has 255 bytes, not 256"),
        (TEXT.replace("0f\n", "0\n"), "not hexadecimal"),
        (TEXT.replace("0f\n", "0f00\n"), "has 257 bytes, not 256"),
        (TEXT.replace("0f\n", "xy\n"), "not hexadecimal"),
        (TEXT.replace("0f\n", "0f # x\n"), "not hexadecimal"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_static_key(text.encode())
    assert caught.value.fix and "00010203" not in str(caught.value)


def test_round_trip() -> None:
    source = random.Random(1)
    for _ in range(50):
        key = source.randbytes(256)
        assert parse_static_key(render_static_key(key).encode()).reveal() == key


def test_only_256_bytes_are_rendered() -> None:
    with pytest.raises(MisuseError):
        render_static_key(b"short")


def test_any_bytes_end_in_a_key_or_a_config_error() -> None:
    source = random.Random(2)
    base = TEXT.encode()
    for _ in range(2000):
        text = bytearray(base)
        for _ in range(source.randrange(1, 4)):
            at = source.randrange(len(text))
            text[at : at + source.randrange(3)] = source.randbytes(source.randrange(3))
        with contextlib.suppress(ConfigError):
            assert len(parse_static_key(bytes(text))) == 256
