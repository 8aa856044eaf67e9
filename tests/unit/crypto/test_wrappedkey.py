# SPDX-License-Identifier: BSD-2-Clause
"""tls-crypt-v2 keys: the published files, read and written byte for byte; damaged ones, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError, Consequence, MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.keyfiles import (
    ClientKey,
    parse_client_key,
    parse_server_key,
    render_client_key,
    render_server_key,
)
from qubes_miragevpn.crypto.wrappedkey import (
    MAX_METADATA,
    MAX_WRAPPED,
    MIN_WRAPPED,
    issued_at,
    timestamp_metadata,
    unwrap_client_key,
    user_metadata,
    wrap_client_key,
    wrapped_size,
)
from tests.pair.link import flip

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "tls_crypt_v2.json").read_text())
SERVER_KEY, CLIENT_KEY = Secret(bytes(range(128))), Secret(bytes(range(256)))


def text(lines: list[str], kind: str) -> str:
    label = f"OpenVPN tls-crypt-v2 {kind} key"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


SERVER_TEXT = text(VECTORS["server_key"], "server")
CLIENT_TEXTS = [(bytes.fromhex(v["metadata"]), text(v["lines"], "client")) for v in VECTORS["client_keys"]]


def test_published_server_key() -> None:
    assert parse_server_key(SERVER_TEXT.encode()) == SERVER_KEY
    assert render_server_key(SERVER_KEY) == SERVER_TEXT


@pytest.mark.parametrize(("metadata", "published"), CLIENT_TEXTS)
def test_published_client_keys(metadata: bytes, published: str) -> None:
    found = parse_client_key(published.encode())
    assert found.key == CLIENT_KEY
    assert unwrap_client_key(SERVER_KEY, found.wrapped) == (CLIENT_KEY, metadata)
    assert render_client_key(ClientKey(CLIENT_KEY, wrap_client_key(SERVER_KEY, CLIENT_KEY, metadata))) == published


def test_metadata() -> None:
    assert issued_at(timestamp_metadata(1_700_000_000)) == 1_700_000_000
    assert timestamp_metadata(0) == CLIENT_TEXTS[0][0]
    for other in (b"", b"\1", b"\1" + bytes(7), b"\1" + bytes(9), user_metadata(bytes(8)), b"\2" + bytes(8)):
        assert issued_at(other) is None
    with pytest.raises(MisuseError):
        user_metadata(bytes(MAX_METADATA))


@pytest.mark.parametrize("size", [0, 1, 100, MAX_METADATA])
def test_metadata_of_any_size_that_fits(size: int) -> None:
    metadata = bytes(range(256)) * 3
    wrapped = wrap_client_key(SERVER_KEY, CLIENT_KEY, metadata[:size])
    assert len(wrapped) == MIN_WRAPPED + size <= MAX_WRAPPED
    assert unwrap_client_key(SERVER_KEY, wrapped) == (CLIENT_KEY, metadata[:size])


def test_metadata_that_do_not_fit() -> None:
    with pytest.raises(MisuseError):
        wrap_client_key(SERVER_KEY, CLIENT_KEY, bytes(MAX_METADATA + 1))


def test_every_bit_and_every_length_of_a_wrapped_key_counts() -> None:
    wrapped = wrap_client_key(SERVER_KEY, CLIENT_KEY, timestamp_metadata(5))
    damaged = [flip(wrapped, bit) for bit in range(0, 8 * len(wrapped), 3)]
    damaged += [wrapped[:size] for size in range(0, len(wrapped), 7)] + [wrapped + b"\0", b"\0" + wrapped]
    for one in damaged:
        with pytest.raises(PeerError, match="not authentic") as caught:
            unwrap_client_key(SERVER_KEY, one)
        assert caught.value.consequence is Consequence.DROP


def test_another_servers_key() -> None:
    with pytest.raises(PeerError):
        unwrap_client_key(Secret(bytes(128)), wrap_client_key(SERVER_KEY, CLIENT_KEY, b""))


@pytest.mark.parametrize("size", [0, 1, 289, 1025, 65535])
def test_a_length_that_no_wrapped_key_has(size: int) -> None:
    with pytest.raises(PeerError):
        wrapped_size(bytes(1998) + size.to_bytes(2, "big"))


def test_a_wrapped_key_that_is_longer_than_its_packet() -> None:
    assert wrapped_size(bytes(288) + (290).to_bytes(2, "big")) == 290
    for packet in (b"", b"\1", bytes(287) + (290).to_bytes(2, "big")):
        with pytest.raises(PeerError):
            wrapped_size(packet)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "the lines .* are missing"),
        (SERVER_TEXT, "this is an 'OpenVPN tls-crypt-v2 server key'"),
        (CLIENT_TEXTS[0][1].replace("-----END", "----END"), "are missing"),
        (CLIENT_TEXTS[0][1].replace("AAEC", "!AEC"), "not base64"),
        (CLIENT_TEXTS[0][1].replace("AAECAwQF", ""), "a wrong length"),
        (text([], "client"), "a wrong length"),
        (text(VECTORS["client_keys"][0]["lines"][:5], "client"), "a wrong length"),
    ],
)
def test_a_client_key_file_that_is_none(content: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_client_key(content.encode())
    assert "AAEC" not in str(caught.value)


@pytest.mark.parametrize("content", ["", CLIENT_TEXTS[0][1], text(VECTORS["server_key"][:2], "server")])
def test_a_server_key_file_that_is_none(content: str) -> None:
    with pytest.raises(ConfigError):
        parse_server_key(content.encode())


def test_line_ends_and_comments_do_not_matter() -> None:
    published = "# a comment\n" + CLIENT_TEXTS[0][1].replace("\n", "\r\n") + "more\n"
    assert parse_client_key(published.encode()).key == CLIENT_KEY
