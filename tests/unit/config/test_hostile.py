# SPDX-License-Identifier: BSD-2-Clause
"""Any bytes at all: the only exception is `ConfigError` (`PeerError` for pushes), and time is bounded.

The texts are made by a seeded generator: pieces of real directives, cut, repeated and mixed with noise.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from qubes_miragevpn.base.errors import ConfigError, PeerError
from qubes_miragevpn.config.loader import examine_client, examine_server, load_client, load_server, looks_like_server
from qubes_miragevpn.config.model import ClientConfig, PulledOptions, ServerConfig
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.config.reading.lexer import MAX_TEXT
from qubes_miragevpn.config.render import render
from qubes_miragevpn.config.rows.table import ROWS
from tests.unit.config.texts import CERTIFICATE, CLIENT, SERVER, STATIC_KEY_FILE, client, read_file

WORDS = (
    "0", "1", "-1", "65536", "99999999999999999999", "10.8.0.0", "255.255.255.0", "255.0.255.0", "0.0.0.0", "::/0",
    "fd00::1/64", "fe80::1%eth0", "vpn_gateway", "net_gateway", "default", "udp", "tcp6-server", "tun", "server", "no",
    "def1", "!ipv4", "DNS", "address", "search-domains", "AES-256-GCM", "?AES-128-GCM:DEFAULT", ":::", "none",
    "[inline]",
    "name-prefix", "1.2", "or-highest", "ca.crt", "ta.key", "login", "nowhere", "../../etc/shadow",
    "a" * 300, "\\", '"',
    "'", "#", ";", "\x00", "\x1b[31m", "\udcff", "é", "<ca>", "</ca>", "\u2028", "\x85", "\u0661", "infinite", "opt",
)  # fmt: skip
NAMES = (*sorted(ROWS), "nonsense", "--client", "setenv opt", "</connection>", "")


def line(source: random.Random) -> str:
    words = [source.choice(WORDS) for _ in range(source.choice((0, 1, 1, 2, 2, 3, 4)))]
    return " ".join([source.choice(NAMES), *words])


def text(source: random.Random, base: str) -> bytes:
    """A text of up to 30 directives and blocks, then spoiled in places."""
    lines = base.splitlines() if source.random() < 0.7 else []
    for _ in range(source.choice((0, 1, source.randrange(30), source.randrange(30)))):
        name = source.choice(NAMES)
        content = source.choice((CERTIFICATE, STATIC_KEY_FILE, "alice\nword\n", line(source), line(source) + "\n", ""))
        block = f"<{name}>\n{content}" + (f"</{name}>" if source.random() < 0.9 else "")
        lines.insert(source.randrange(len(lines) + 1), block if source.random() < 0.3 else line(source))
    found = bytearray(source.choice(("\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "surrogateescape"))
    for _ in range(source.choice((0, 0, 1, 5))):
        at = source.randrange(len(found) + 1)
        found[at : at + source.randrange(4)] = source.randbytes(source.randrange(4))
    return bytes(found)


@pytest.mark.parametrize("seed", range(20))
def test_any_text_is_a_configuration_or_a_config_error(seed: int) -> None:
    source = random.Random(seed)
    loaded = 0
    for _ in range(100):
        profile, configuration = text(source, CLIENT), text(source, SERVER)
        looks_like_server(profile)
        try:
            config = load_client(profile, file="c", read_file=read_file).config
            assert isinstance(config, ClientConfig)
            loaded += 1
            written = render(config, show_secrets=True).encode("utf-8", "surrogateescape")
            assert load_client(written, file="c", read_file=read_file).config == config
        except ConfigError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
        try:
            assert isinstance(load_server(configuration, file="s", read_file=read_file).config, ServerConfig)
        except ConfigError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
    assert seed or loaded, "the generator should make some texts that load"


@pytest.mark.parametrize("seed", range(10))
def test_noise(seed: int) -> None:
    source = random.Random(seed)
    for length in (0, 1, 10, 1000, 20000):
        noise = source.randbytes(length)
        for examine in (examine_client, examine_server):
            examined = examine(noise, file="f", read_file=read_file)
            assert examined.config is None and examined.errors
            assert all(str(error).isprintable() for error in examined.errors)


@pytest.mark.parametrize("seed", range(20))
def test_any_push_is_taken_or_ends_the_session(seed: int) -> None:
    source = random.Random(seed)
    config = client(source.choice(("", "route-nopull\n", "pull-filter ignore route\nroute 10.0.0.0\n"))).config
    names = [name for name, row in ROWS.items() if row.pushed is not None]
    taken = 0
    for _ in range(300):
        options = [line(source) for _ in range(source.randrange(3))]
        for _ in range(source.randrange(6)):
            words = [source.choice(WORDS) for _ in range(source.randrange(4))]
            options.append(" ".join([source.choice(names), *words]))
        try:
            assert isinstance(pulled := parse_push(tuple(options), config, None), PulledOptions)
            assert all(note.isascii() and note.isprintable() for note in pulled.dropped)
            taken += 1
        except PeerError as error:
            assert error.reason.isprintable()
    assert taken > 10


BOUND = 2.0  # seconds for any file; half a second on a machine of 2020, four times that on a slow one

MEGABYTE = (
    b"remote a\n" * (MAX_TEXT // 9),
    b"route 10.0.0.0 255.0.0.0\n" * 32000,
    b"unknown-name-of-a-directive a b c d\n" * 29000,
    b"fast-io\n" * 32000,
    b"verb 1\nverb 2\n" * 16000,
    b"<connection>\nremote a\n</connection>\n" * 10000,
    b"<connection>\n" + b"remote a\n" * 20000 + b"</connection>\n",
    b"<ca>\n" * 32000,
    b"<ca>\n-----BEGIN CERTIFICATE-----\n</ca>\n" * 10000,
    b"<ca>\n" + b"-----BEGIN CERTIFICATE-----" * 9000 + b"\n</ca>\n",
    b"<ca>\n" + b"-----BEGIN A-----\n-----END A-----\n" * 7000 + b"</ca>\n",
    b"<peer-fingerprint>\n" + b"00:11\n" * 30000 + b"</peer-fingerprint>\n",
    b"<tls-crypt>\n" + b"0" * 260000 + b"\n</tls-crypt>\n",
    b"dhcp-option DNS 10.0.0.1\n" * 32000,
    b"dhcp-option DOMAIN " + b"a." * 100 + b"\n",
    b"ignore-unknown-option " + b"a " * 60 + b"\n",
    b"data-ciphers " + b"AES-128-GCM:" * 20 + b"\n",
    b"ca [inline]\n" * 32000,
    b"ca [inline]\n" * 16000 + b"<ca>\n</ca>\n" * 8000,
    b"push 'x'\n" * 32000,
    b"\xff" * MAX_TEXT,
    b" " * MAX_TEXT,
    b"\n" * 32000,
)


@pytest.mark.parametrize("number", range(len(MEGABYTE)))
def test_time_is_bounded_for_a_megabyte(number: int) -> None:
    hostile = MEGABYTE[number][:MAX_TEXT]
    padded = (CLIENT.encode() + hostile)[:MAX_TEXT]
    for content in (hostile, padded, MEGABYTE[number] * 10):
        for examine in (examine_client, examine_server):
            begun = time.process_time()  # other work on the machine is not counted
            examined = examine(content, file="f", read_file=read_file)
            assert time.process_time() - begun < BOUND
            assert len(examined.errors) <= 21 and len(examined.warnings) <= 200


@pytest.mark.parametrize(
    "line", [b"remote a\n", b"route 10.0.0.0 255.0.0.0\n", b"<connection>\nremote a\n</connection>\n"]
)
def test_a_hundred_thousand_lines_are_refused_at_once(line: bytes) -> None:
    begun = time.process_time()
    examined = examine_client(CLIENT.encode() + line * 100_000, file="f", read_file=read_file)
    assert examined.config is None and "the file has more than" in str(examined.errors[0])
    assert time.process_time() - begun < 0.1


def _with_hostile(content: bytes) -> Callable[[str], bytes]:
    return lambda path: content if path == "hostile" else read_file(path)


def test_a_hostile_file_named_by_a_profile() -> None:
    for content in MEGABYTE:
        for name in ("ca", "cert", "key", "tls-auth", "tls-crypt", "auth-user-pass"):
            profile = f"{CLIENT}{name} hostile\n" + ("cert own.crt\n" if name == "key" else "key own.key\n")
            examined = examine_client(
                profile.encode(),
                file="f",
                read_file=_with_hostile(content),
            )
            assert examined.config is None or name == "auth-user-pass"
