# SPDX-License-Identifier: BSD-2-Clause
"""Words, comments, quotes, blocks: as openvpn 2.6.14 reads them (each case was tried with it), and their bounds."""

from __future__ import annotations

import contextlib
import time

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.reading import lexer
from qubes_miragevpn.config.reading.lexer import WordError, lex, split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ()),
        ("   \t ", ()),
        ("# dev tun", ()),
        ("   ; dev tun", ()),
        ("dev tun", ("dev", "tun")),
        ("\tdev\ttun \r", ("dev", "tun")),
        ("dev tun # the device", ("dev", "tun")),
        ("dev tun#0", ("dev", "tun#0")),
        ("dev tun;0", ("dev", "tun;0")),
        ('push "route 10.0.0.0 255.0.0.0"', ("push", "route 10.0.0.0 255.0.0.0")),
        ("push 'a \"b\" c'", ("push", 'a "b" c')),
        (r"push 'a\b'", ("push", r"a\b")),
        (r'push "a \"b\" \\ c"', ("push", r'a "b" \ c')),
        (r"ca a\ b", ("ca", "a b")),
        (r"ca C:\\vpn\\ca.crt", ("ca", r"C:\vpn\ca.crt")),
        ('echo ""', ("echo", "")),
        ('echo a"b', ("echo", 'a"b')),
        ('echo "a"b', ("echo", "a", "b")),
        ("echo it's", ("echo", "it's")),
        ('"dev" "tun"', ("dev", "tun")),
        ("verify-x509-name Zürich", ("verify-x509-name", "Zürich")),
    ],
)
def test_words(line: str, words: tuple[str, ...]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('push "route', "not closed"),
        ("push 'route", "not closed"),
        (r"ca C:\vpn\ca.crt", "backslash stands before"),
        ("ca a\\", "ends in a backslash"),
        ("dev \x1b[31m", "control character"),
        ("dev t\x00n", "control character"),
        ("dev \udce4", "not UTF-8"),
        ("a " * (lexer.MAX_WORDS + 1), "more than 64 words"),
        ("a" * (lexer.MAX_LINE + 1), "more than 4096 characters"),
    ],
)
def test_bad_lines(line: str, problem: str) -> None:
    with pytest.raises(WordError, match=problem):
        split_words(line)


def test_directives_carry_name_words_and_line() -> None:
    found = lex(b"\xef\xbb\xbfclient\r\n\r\n--dev tun\r\n# x\r\n  remote a 1\r\n", file="f")
    assert [(d.name, d.words, d.line, d.file) for d in found] == [
        ("client", (), 1, "f"),
        ("dev", ("tun",), 3, "f"),
        ("remote", ("a", "1"), 5, "f"),
    ]


def test_a_comment_may_be_of_any_encoding() -> None:
    assert [d.name for d in lex(b"# Z\xfcrich \x07\nclient\n", file="f")] == ["client"]


def test_block() -> None:
    text = b'a\n  <ca> # comment\nline "one\n  two \\ #\n </ca> trailing\nb\n'
    first, block, last = lex(text, file="f")
    assert (first.name, last.name, last.line) == ("a", "b", 6)
    assert (block.name, block.line, block.words, block.block) == ("ca", 2, (), b'line "one\n  two \\ #\n')


def test_block_keeps_bytes_and_drops_carriage_returns() -> None:
    (block,) = lex(b"<x>\r\n\xff\xfe\r\n</x>\r\n", file="f")
    assert block.block == b"\xff\xfe\n"


def test_only_a_tag_alone_starts_a_block() -> None:
    assert [d.words for d in lex(b"<ca> file\n", file="f")] == [("file",)]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (b"dev tun\n<ca>\nx\n", 2, "<ca> is not closed"),
        (b"<ca>\n</cert>\n", 1, "<ca> is not closed"),
        (b'dev tun\n\npush "x\n', 3, "not closed"),
        (b"<ca>\n" + b"x" * (lexer.MAX_BLOCK + 1) + b"\n</ca>\n", 1, "more than 262144 bytes"),
        (b"\n" * (lexer.MAX_LINES + 1), 0, "more than 32768 lines"),
        (b"#" * (lexer.MAX_TEXT + 1), 0, "more than 1048576 bytes"),
        ("client\n".encode("utf-16"), 1, "control character|not UTF-8"),
    ],
)
def test_errors_name_file_and_line(text: bytes, line: int, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        lex(text, file="f")
    assert (caught.value.file, caught.value.line) == ("f", line)


@pytest.mark.parametrize(
    "text",
    [
        b"<a>\n" * 32000,
        b"<a>\n</a>\n" * 16000,
        (b'"' + b"\\\\" * 2000 + b"\n") * 250,
        (b"'a' " * 1000 + b"\n") * 250,
        b"\\ " * (1 << 19),
        b'""' * (1 << 19),
        b"-" * (1 << 20),
    ],
)
def test_time_is_bounded(text: bytes) -> None:
    begun = time.monotonic()
    with contextlib.suppress(ConfigError):
        lex(text[: 1 << 20], file="f")
    assert time.monotonic() - begun < 5
