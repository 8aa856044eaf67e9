# SPDX-License-Identifier: BSD-2-Clause
"""Files of a TLS tunnel between two: which end one is, what it may hold, and what openvpn's defaults are there."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import examine_client, load_point_client, load_point_server, looks_between_two
from qubes_miragevpn.config.model import Local, Proto, TlsCryptV2Server
from qubes_miragevpn.config.reading.sources import CommandLine
from tests.unit.config.texts import CLIENT, CONNECTS, SERVER, STATIC, WAITS, connects_errors, read_file, waits_errors


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (CONNECTS, "connects"),
        (WAITS, "waits"),
        (CONNECTS + "mode p2p\n", "connects"),
        (CLIENT, ""),
        (SERVER, ""),
        (STATIC, ""),
        ("tls-client\npull\n", ""),
        ("tls-server\nmode server\n", ""),
        ("tls-server\nserver 10.8.0.0 255.255.255.0\n", ""),
        ("<x", ""),
    ],
)
def test_which_end_a_file_is(text: str, end: str) -> None:
    assert looks_between_two(text.encode()) == end


def test_an_option_that_would_keep_others_out_is_not_passed_over() -> None:
    assert "'single-session' is not supported" in waits_errors(WAITS + "single-session\n")[0]


def test_the_command_line_counts() -> None:
    def said(*words: str) -> Surroundings:
        return Surroundings(command_line=CommandLine(words, "/"))

    assert looks_between_two(b"dev tun\n", said("--tls-server")) == "waits"
    assert looks_between_two(CONNECTS.encode(), said("--pull")) == ""


def test_both_ends_have_the_known_port_and_expect_no_pings() -> None:
    config = load_point_client(CONNECTS.encode(), file="p", read_file=read_file).config.client
    assert config.remotes[0].local == Local(None, 1194)
    assert config.common.timers.ping_restart == 0.0
    free = load_point_client((CONNECTS + "nobind\nkeepalive 10 60\n").encode(), file="p", read_file=read_file).config
    assert free.client.remotes[0].local == Local()
    waits = load_point_server((WAITS + "keepalive 10 60\n").encode(), file="p", read_file=read_file).config
    assert free.client.common.timers.ping_restart == waits.common.timers.ping_restart == 60.0


def test_where_the_waiting_end_listens_and_to_whom() -> None:
    more = "proto tcp-server\nport 443\nremote 192.0.2.9\ntls-crypt-v2 v2-server.key\nroute 10.2.0.0 255.255.0.0\n"
    config = load_point_server((WAITS + more).encode(), file="p", read_file=read_file).config
    assert (config.listen.proto, config.listen.port, config.only) == (Proto.TCP, 443, (ip_address("192.0.2.9"),))
    assert isinstance(config.common.wrap, TlsCryptV2Server) and len(config.client.routes) == 1
    loaded = load_point_server((WAITS + "remote a.example\nremote 192.0.2.9\n").encode(), file="p", read_file=read_file)
    assert loaded.config.only == () and any("names no address" in line for line in loaded.warnings)


@pytest.mark.parametrize("line", ["max-clients 5", "client-to-client", "duplicate-cn"])
def test_what_belongs_to_a_server_of_many(line: str) -> None:
    assert any("has no meaning" in error for error in waits_errors(WAITS + line + "\n"))


@pytest.mark.parametrize("proto", ["tcp-server", "tcp4-server"])
def test_the_other_ends_protocol(proto: str) -> None:
    assert connects_errors(CONNECTS + f"proto {proto}\n")
    assert waits_errors(WAITS + f"proto {proto.replace('server', 'client')}\n")
    assert not waits_errors(WAITS + f"proto {proto}\n")


def test_where_a_client_is_wanted_it_is_said_what_is_missing() -> None:
    """A VPN qube takes no such file: there a server gives addresses."""
    errors = examine_client(CONNECTS.encode(), file="c", read_file=read_file).errors
    assert any("'client' is missing" in str(error) for error in errors)
