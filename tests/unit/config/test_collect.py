# SPDX-License-Identifier: BSD-2-Clause
"""Looking directives up: unknown, misplaced, repeated, optional; what messages say and what they never show."""

from __future__ import annotations

import pytest

from qubes_miragevpn.config.reading.collect import MAX_ERRORS, Place, collect
from tests.unit.config.texts import CERTIFICATE, CLIENT, STATIC_KEY_FILE, client, client_errors, server_errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clent", "c.ovpn:1: unknown directive 'clent' (did you mean 'client'?)"),
        (
            "frobnicate 1",
            "c.ovpn:1: unknown directive 'frobnicate' (remove the line if the connection does not need it)",
        ),
        ("remote", "c.ovpn:1: 'remote' needs host: write remote HOST [PORT] [PROTOCOL]"),
        ("remote a 0", "c.ovpn:1: the port of 'remote' must be a number from 1 to 65535, not '0'"),
        ("remote a 1 udp x", "c.ovpn:1: 'remote' has too many words: write remote HOST [PORT] [PROTOCOL]"),
        ("nobind x", "c.ovpn:1: 'nobind' has too many words: write nobind"),
        ("server 10.8.0.0 255.255.255.0", "'server' has no meaning in a client's file, only in a server's file"),
        ("peer-id 1", "'peer-id' is for a server's push only"),
        ("auth-token x", "'auth-token' is for a server's push only"),
        ("<nobind>\n</nobind>", "'nobind' cannot be given as a block (write nobind)"),
        ("<frobnicate>\n</frobnicate>", "unknown directive 'frobnicate'"),
        ("</ca>", "a closing tag has no opening one"),
        ("connection", "'connection' is a block"),
        ("ca [inline]", "'ca [inline]' has no block <ca>"),
        ("tls-verify /bin/true", "'tls-verify' runs a script"),
        ("keepalive 10 x", "the timeout of 'keepalive' must be a number of seconds from 1 to 86400, not 'x'"),
        ("verb \\\\n", "not '\\x5cn'"),
    ],
)
def test_errors(line: str, message: str) -> None:
    assert message in client_errors(line)[0]


def test_a_client_directive_in_a_server_file() -> None:
    assert "'remote' has no meaning in a server's file, only in a client's file" in server_errors("remote a")[0]


def test_all_errors_are_found_up_to_a_bound() -> None:
    errors = client_errors("remote\nverb x\n\nfoo\n")
    assert [error.split(":")[1] for error in errors] == ["1", "2", "4"]
    assert len(client_errors("foo\n" * 1000)) == MAX_ERRORS


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7",
        "a1b2c3d4e5f60718293a4b5c6d7e8f90",  # a line of a static key
        "Secretpassword",
        "auth-user-pass alice secretpassword",
        "socks-proxy 192.0.2.8 1080 alice secretpassword",
        "<secret>\nsecretpassword\n</secret>",
        "auth-token secretpassword",
    ],
)
def test_what_may_be_a_secret_is_never_shown(text: str) -> None:
    (error,) = client_errors(text)
    for word in text.split():
        if len(word) > 8 and word not in (
            "auth-user-pass",
            "socks-proxy",
            "auth-token",
            "<secret>",
            "</secret>",
        ):
            assert word not in error


def test_optional_directives_may_be_unknown() -> None:
    loaded = client("setenv opt frobnicate 1\nignore-unknown-option shiny dull\nshiny 2\ndull\n")
    assert [line.split(": ", 1)[1] for line in loaded.warnings] == [
        "'frobnicate' is unknown; ignored, as the file allows",
        "'shiny' is unknown; ignored, as the file allows",
        "'dull' is unknown; ignored, as the file allows",
    ]


def test_optional_does_not_mean_that_a_known_one_is_ignored() -> None:
    assert client("setenv opt verb 5\n").config.common.verb == 5
    assert "'tls-verify' runs a script" in client_errors(CLIENT + "setenv opt tls-verify x\n")[0]
    assert "'tls-verify'" in client_errors(CLIENT + "ignore-unknown-option tls-verify\ntls-verify x\n")[0]


def test_the_last_line_counts_and_is_told() -> None:
    loaded = client("verb 3\nverb 4\n")
    assert loaded.config.common.verb == 4
    assert loaded.warnings == ("c.ovpn:7: 'verb' was given in line 6 as well; the last one counts",)
    assert client("verb 3\nverb 3\n").warnings == ()


def test_the_last_block_counts_and_is_told() -> None:
    block = f"<tls-crypt>\n{STATIC_KEY_FILE}</tls-crypt>\n"
    other = block.replace("00", "ff")
    loaded = client(other + block)
    assert loaded.warnings == ("c.ovpn:29: 'tls-crypt' was given in line 6 as well; the last one counts",)
    assert loaded.config.common.wrap == client(block).config.common.wrap
    assert client(block * 2).warnings == ()


@pytest.mark.parametrize("text", ["ca [inline]\n<ca>\n{0}</ca>\n", "<ca>\n{0}</ca>\nca [inline]\n"])
def test_inline_line_with_its_block(text: str) -> None:
    base = CLIENT.replace("ca ca.crt\n", text.format(CERTIFICATE))
    assert client(base=base).config.common.peer.ca_pem == CERTIFICATE.encode()


def test_aliases_are_one_directive() -> None:
    assert client("server-poll-timeout 20\n").config.common.timers.connect_timeout == 20
    assert client("ncp-ciphers AES-128-GCM\n").config.common.data_ciphers == ("AES-128-GCM",)


def test_repeats_are_bounded() -> None:
    _, findings = collect(b"route 10.0.0.0\n" * 2001, file="f", place=Place.CLIENT)
    assert str(findings.errors[0]) == "f:2001: there are more than 2000 lines of 'route'"
    _, findings = collect(b"fast-io\n" * 3 + b"multihome\n" * 500, file="f", place=Place.CLIENT)
    assert len(findings.warnings) == 200 and not findings.errors
