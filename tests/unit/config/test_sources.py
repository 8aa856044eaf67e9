# SPDX-License-Identifier: BSD-2-Clause
"""Includes and the command line: one sequence of directives, in openvpn's precedence, bounded."""

from __future__ import annotations

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import Loaded, load_client
from qubes_miragevpn.config.model import ClientConfig, Compression, Proto
from qubes_miragevpn.config.reading.sources import MAX_DEPTH, MAX_INCLUDES, CommandLine, directives
from tests.unit.config.texts import CLIENT, FILES, without


def load(text: str, files: dict[str, str] | None = None, *words: str, at: str = "/home") -> Loaded[ClientConfig]:
    everything = {**FILES, **(files or {})}

    def reader(path: str) -> bytes:
        if path not in everything:
            raise FileNotFoundError(2, "No such file or directory", path)
        return everything[path].encode()

    return load_client(
        text.encode(),
        file="c.ovpn",
        read_file=reader,
        surroundings=Surroundings(command_line=CommandLine(words, at)),
    )


def error_of(text: str, files: dict[str, str] | None = None, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, files, *words)
    return str(caught.value)


# --- includes -------------------------------------------------------------------------------------------


def test_config_stands_for_the_lines_of_its_file() -> None:
    config = load("verb 1\nconfig more\n" + CLIENT + "port 7\n", {"more": "verb 5\nport 5\n"}).config
    assert config.common.verb == 5 and config.remotes[0].port == 7


def test_paths_in_an_included_file_count_from_it() -> None:
    files = {"keys/more.conf": "ca own-ca.crt\nconfig ../other\n", "keys/own-ca.crt": FILES["ca.crt"]}
    loaded = load(without("ca") + "config keys/more.conf\n", {**files, "keys/../other": "verb 4\ntls-crypt ta\n",
                                                             "keys/../ta": FILES["ta.key"]})  # fmt: skip
    assert loaded.config.common.peer.ca_pem and loaded.config.common.verb == 4
    assert "cannot read 'keys/ca.crt' of 'ca'" in error_of("config keys/more.conf\n", {"keys/more.conf": CLIENT})


def test_absolute_and_home_paths_stay() -> None:
    files = {"sub/a": "ca /etc/ca\n", "/etc/ca": FILES["ca.crt"]}
    assert load(without("ca") + "config sub/a\n", files).config.common.peer.ca_pem


def test_errors_name_the_included_file() -> None:
    assert error_of(CLIENT + "config more\n", {"more": "\nnonsense\n"}).startswith("more:2: unknown directive")
    assert "c.ovpn:6: cannot read 'more' of 'config': No such file" in error_of(CLIENT + "config more\n")


def test_a_file_that_includes_itself() -> None:
    assert "'a' includes itself" in error_of(CLIENT + "config a\n", {"a": "config a\n"})
    assert "b:1: 'a' includes itself" in error_of(CLIENT + "config a\n", {"a": "config b\n", "b": "config a\n"})
    assert "'c.ovpn' includes itself" in error_of(CLIENT + "config c.ovpn\n")


def test_includes_are_bounded() -> None:
    chain = {f"f{n}": f"config f{n + 1}\n" for n in range(MAX_DEPTH + 1)}
    assert f"deeper than {MAX_DEPTH}" in error_of(CLIENT + "config f0\n", chain)
    wide = {f"f{n}": f"config f{n + 1}\n" * 3 for n in range(8)} | {"f8": ""}
    assert f"more than {MAX_INCLUDES} files" in error_of(CLIENT + "config f0\n", wide)
    assert "have more than" in error_of(CLIENT + "config f\n" * 9, {"f": "#" * 4000 + "\n" + ("#" * 4000 + "\n") * 50})


def test_config_has_no_place_in_a_connection_block() -> None:
    assert "'config' is not supported in a <connection> block" in error_of(
        CLIENT + "<connection>\nremote a\nconfig more\n</connection>\n", {"more": ""}
    )


# --- the command line -----------------------------------------------------------------------------------


def test_options_outrank_the_file_without_a_warning() -> None:
    loaded = load(CLIENT + "verb 1\nproto udp\n", {}, "--verb", "4", "--proto", "tcp", "--remote-random")
    assert loaded.config.common.verb == 4 and loaded.config.remotes[0].proto is Proto.TCP
    assert loaded.config.remote_random and loaded.warnings == ()


def test_options_alone_are_a_configuration() -> None:
    words = [
        "--client",
        "--remote",
        "a",
        "443",
        "tcp",
        "--ca",
        "/ca",
        "--auth-user-pass",
        "--remote-cert-tls",
        "server",
    ]
    loaded = load("", {"/ca": FILES["ca.crt"]}, *words)
    assert (loaded.config.remotes[0].host, loaded.config.remotes[0].port) == ("a", 443)


def test_options_that_add_up_follow_those_of_the_file() -> None:
    loaded = load(CLIENT, {}, "--remote", "second", "--route", "10.0.0.0", "255.0.0.0")
    assert [remote.host for remote in loaded.config.remotes] == ["vpn.example.org", "second"]
    assert len(loaded.config.routes) == 1


def test_paths_on_the_command_line_count_from_the_caller_s_directory() -> None:
    assert load(without("ca"), {"/home/own": FILES["ca.crt"]}, "--ca", "own").config.common.peer.ca_pem
    assert load(CLIENT, {"/home/x": "verb 6\n"}, "--config", "x").config.common.verb == 6


def test_precedence_follows_the_order_of_words() -> None:
    files = {"/home/x": "verb 6\n"}
    assert load(CLIENT, files, "--verb", "2", "--config", "x").config.common.verb == 6
    assert load(CLIENT, files, "--config", "x", "--verb", "2").config.common.verb == 2


def test_of_directives_that_exclude_each_other_the_last_counts_wherever_it_stands() -> None:
    files = {"/home/x": "ping-exit 7\ncompress stub-v2\n", "x": "ping-restart 8\ncomp-lzo no\n"}
    below = "\n\n\nping-restart 60\ncomp-lzo no\n"
    for loaded in (
        load(CLIENT + below, files, "--ping-exit", "7", "--compress", "stub-v2"),
        load(CLIENT + below, files, "--config", "x"),
    ):
        common = loaded.config.common
        assert (common.timers.ping_restart, common.timers.ping_exit) == (0, 7)
        assert common.compression is Compression.STUB_V2
    common = load("ping-exit 60\n\n\ncompress stub-v2\nconfig x\n" + CLIENT, files).config.common
    assert (common.timers.ping_restart, common.timers.ping_exit) == (8, 0)
    assert common.compression is Compression.STUB_LZO


def test_words_are_taken_as_they_are() -> None:
    words = ("--verify-x509-name", "C=AA, CN=a 'quoted' \\name", "subject")
    name = load(CLIENT, {}, *words).config.common.peer.name
    assert name is not None and name.expected == words[1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("verb", "3"), "command line: 'verb' is not an option (options are written as --NAME ARGUMENTS)"),
        (("--",), "command line: '--' is not an option"),
        (("--nonsense",), "command line: unknown directive 'nonsense'"),
        (("--verb", "x"), "command line: the level of 'verb' must be a number"),
        (("--verb", "1\n2"), "command line: holds a control character"),
        (("--verb", "\udcff"), "command line: holds a control character, or is not UTF-8"),
        (("--up", "/bin/true"), ""),
        (("--plugin", "x"), "command line: 'plugin' is never supported"),
        (("--show-ciphers",), "command line: 'show-ciphers' is a command of openvpn's"),
        (("--verb", "x" * 5000), "command line: is too long"),
    ],
)
def test_errors(words: tuple[str, ...], error: str) -> None:
    if error:
        assert error_of(CLIENT, {}, *words).startswith(error)
    else:
        assert load(CLIENT, {}, *words).warnings[0].startswith("command line: 'up' has no effect")


def test_directives_come_in_order() -> None:
    found = directives(b"a\nb\n", file="f", command_line=CommandLine(("--c", "d"), "/x"))
    assert [(one.name, one.words, one.line, one.folder) for one in found] == [
        ("a", (), 1, ""), ("b", (), 2, ""), ("c", ("d",), 0, "/x"),
    ]  # fmt: skip
