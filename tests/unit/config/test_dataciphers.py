# SPDX-License-Identifier: BSD-2-Clause
"""Which ciphers and which digest a profile asks for, and what is left out, refused or warned of."""

from __future__ import annotations

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import DEFAULT_DATA_CIPHERS
from tests.unit.config.texts import client, server

GCM = "AES-256-GCM"


@pytest.mark.parametrize(
    ("lines", "offered", "fallback", "digest"),
    [
        ("", DEFAULT_DATA_CIPHERS, None, "SHA1"),
        ("cipher aes-256-cbc\nauth SHA256", (*DEFAULT_DATA_CIPHERS, "AES-256-CBC"), "AES-256-CBC", "SHA256"),
        ("cipher AES-192-CBC\nauth sha-512", (*DEFAULT_DATA_CIPHERS, "AES-192-CBC"), "AES-192-CBC", "SHA512"),
        ("cipher AES-192-GCM", (*DEFAULT_DATA_CIPHERS, "AES-192-GCM"), "AES-192-GCM", "SHA1"),
        ("cipher AES-256-GCM", DEFAULT_DATA_CIPHERS, None, "SHA1"),
        ("cipher AES-128-CBC\ndata-ciphers-fallback AES-256-CBC", (*DEFAULT_DATA_CIPHERS, "AES-128-CBC"),
         "AES-256-CBC", "SHA1"),
        ("cipher AES-128-CBC\ndata-ciphers AES-256-GCM", (GCM,), None, "SHA1"),
        ("data-ciphers AES-256-GCM:AES-256-CBC\nauth SHA3-256", (GCM, "AES-256-CBC"), None, "SHA3-256"),
        ("data-ciphers ?AES-256-CBC:AES-256-GCM\nauth none", (GCM,), None, ""),
        ("auth none", DEFAULT_DATA_CIPHERS, None, ""),
        ("cipher BF-CBC\nallow-insecure-crypto BF-CBC", (*DEFAULT_DATA_CIPHERS, "BF-CBC"), "BF-CBC", "SHA1"),
        ("data-ciphers none\nallow-insecure-crypto none MD5\nauth MD5", ("none",), None, "MD5"),
        ("cipher BF-CBC\nallow-insecure-crypto none", DEFAULT_DATA_CIPHERS, None, "SHA1"),
    ],
)  # fmt: skip
def test_what_is_offered(lines: str, offered: tuple[str, ...], fallback: str | None, digest: str) -> None:
    for config in (client(lines).config, server(lines).config):
        common = config.common
        assert (common.data_ciphers, common.data_ciphers_fallback, common.digest) == (offered, fallback, digest)


@pytest.mark.parametrize(
    ("lines", "warnings"),
    [
        ("cipher AES-256-CBC", []),
        ("cipher BF-CBC", ["'BF-CBC' is insecure (its blocks of 64 bits", "'cipher BF-CBC' is ignored"]),
        ("cipher AES-256-CBC\nauth none", ["because of 'auth none'", "'cipher AES-256-CBC' is ignored"]),
        ("data-ciphers AES-256-GCM:DES-EDE3-CBC", ["'DES-EDE3-CBC' is insecure"]),
        ("data-ciphers AES-256-GCM:?DES-EDE3-CBC", []),
        ("data-ciphers AES-256-GCM:none", ["'none' is insecure (nothing is encrypted"]),
        ("cipher BF-CBC\nallow-insecure-crypto BF-CBC", ["INSECURE: the tunnel's packets may use 'BF-CBC'"]),
        (
            "data-ciphers AES-256-GCM:none\nauth RIPEMD160\nallow-insecure-crypto RIPEMD160 none",
            ["INSECURE: the tunnel's packets may use 'none'", "INSECURE: the tunnel's packets may use 'RIPEMD160'"],
        ),
        ("allow-insecure-crypto BF-CBC", []),
    ],
)
def test_warnings(lines: str, warnings: list[str]) -> None:
    said = client(lines).warnings
    assert len(said) == len(warnings), said
    for line, words in zip(said, warnings, strict=True):
        assert words in line and line.startswith("c.ovpn:")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("auth MD5", "c.ovpn:6: the digest 'MD5' is insecure"),
        ("auth WHIRLPOOL", "c.ovpn:6: the digest 'WHIRLPOOL' is not supported"),
        ("data-ciphers BF-CBC", "none of these data ciphers can be used"),
        ("data-ciphers AES-256-CBC\nauth none", "none of these data ciphers can be used"),
        ("allow-insecure-crypto", "'allow-insecure-crypto' needs name"),
        ("allow-insecure-crypto AES-256-GCM", "must be 'BF-CBC', 'DES-EDE3-CBC', 'none', 'MD5' or 'RIPEMD160'"),
        ("allow-insecure-crypto BF-CBC MD4", "must be 'BF-CBC'"),
    ],
)
def test_errors(lines: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client(lines)
    assert problem in str(caught.value)
