# SPDX-License-Identifier: BSD-2-Clause
"""Files of the static key mode: what they come to, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.loader import examine_client, examine_server, examine_static, looks_static
from qubes_miragevpn.config.model import Family, Listen, Local, Proto, StaticConfig
from tests.unit.config.texts import CLIENT, SERVER, STATIC, STATIC_KEY, STATIC_KEY_FILE, read_file, static_errors


def load(text: str) -> StaticConfig:
    examined = examine_static(text.encode(), file="k.conf", read_file=read_file)
    assert examined.config is not None, examined.errors
    return examined.config


def test_what_it_comes_to() -> None:
    config = load(STATIC + "topology p2p\nifconfig-ipv6 fd01::2/64 fd01::1\n")
    assert (config.key.reveal(), config.direction, config.cipher) == (STATIC_KEY, 0, "AES-256-CBC")
    assert config.tunnel == ("topology p2p", "ifconfig 10.1.0.2 10.1.0.1", "ifconfig-ipv6 fd01::2/64 fd01::1")
    assert config.client.common.timers.ping_restart == 0, "nobody said that the other end sends pings"
    assert config.client.common.digest == "SHA1"


@pytest.mark.parametrize(
    ("text", "listen", "only"),
    [
        (STATIC.replace("remote", "#"), Listen("", 1194, Proto.UDP), ()),
        (STATIC.replace("remote", "#") + "lport 7\nlocal 192.0.2.9\n",
         Listen("192.0.2.9", 7, Proto.UDP, Family.IPV4), ()),
        (STATIC.replace("remote", "#") + "proto tcp-server\nport 443\n", Listen("", 443, Proto.TCP), ()),
        (STATIC + "proto tcp4-server\n", Listen("", 1194, Proto.TCP, Family.IPV4), (ip_address("192.0.2.1"),)),
    ],
)  # fmt: skip
def test_an_end_that_waits(text: str, listen: Listen, only: tuple[object, ...]) -> None:
    config = load(text)
    assert (config.listen, config.only, config.client.remotes) == (listen, only, ())


def test_inline_with_direction() -> None:
    text = STATIC.replace("secret ta.key 0", f"key-direction 1\n<secret>\n{STATIC_KEY_FILE}</secret>")
    assert (load(text).direction, load(text).key.reveal()) == (1, STATIC_KEY)


@pytest.mark.parametrize(
    ("line", "port"), [("", 1194), ("port 5000", 5000), ("lport 7", 7), ("nobind", 0), ("proto tcp", 0)]
)
def test_the_other_end_knows_our_port(line: str, port: int) -> None:
    assert load(f"{STATIC}{line}\n").client.remotes[0].local == Local(None, port)


def test_a_block_says_its_own() -> None:
    text = STATIC.replace("remote 192.0.2.1\n", "<connection>\nremote 192.0.2.1\nnobind\nmssfix 1300\n</connection>\n")
    remote = load(text).client.remotes[0]
    assert remote.local == Local() and remote.common is not None
    assert remote.common.timers.ping_restart == 0, "nobody said that the other end sends pings"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (STATIC.replace("cipher AES-256-CBC\n", ""), "'cipher' is missing"),
        (STATIC.replace("ifconfig", "#"), "'ifconfig' is missing"),
        (STATIC.replace("allow-d", "#"), "no forward secrecy"),
        (STATIC.replace("AES-256-CBC", "AES-256-GCM"), "cannot be used with a static key"),
        (STATIC.replace("AES-256-CBC", "none"), "cannot be used with a static key"),
        (STATIC.replace("AES-256-CBC", "BF-CBC"), "is insecure"),
        (STATIC + "auth none\n", "would authenticate the packets"),
        (STATIC + "ca ca.crt\n", "'ca' means nothing in the static key mode"),
        (STATIC + "remote-cert-tls server\n", "'remote-cert-tls' means nothing"),
        (STATIC + "verify-x509-name x name\n", "'verify-x509-name' means nothing"),
        (STATIC + "tls-crypt ta.key\n", "'tls-crypt' means nothing"),
        (STATIC + "client\n", "'client' means nothing"),
        (STATIC + "reneg-sec 600\n", "'reneg-sec' means nothing"),
        (STATIC + "keepalive 10 15\n", "at least twice its interval"),
        (STATIC + "dev tap0\n", "not supported"),
        (STATIC + "socks-proxy h 1 stdin\n", "'socks-proxy' cannot ask for a password with a static key"),
        (STATIC + "proto tcp-client\nhttp-proxy h 1 stdin\n", "'http-proxy' cannot ask"),
        (STATIC + "proto tcp-client\nhttp-proxy h 1\nhttp-proxy-user-pass stdin\n",
         "'http-proxy-user-pass' cannot ask"),
        (STATIC.replace("remote 192.0.2.1\n", "<connection>\nremote 192.0.2.1\nsocks-proxy h 1 stdin\n</connection>\n"),
         "'socks-proxy' cannot ask"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    errors = static_errors(text)
    assert [error for error in errors if problem in error], errors


def test_clients_and_servers_and_so_qubes_do_not_speak_it() -> None:
    for examine, base in ((examine_client, CLIENT), (examine_server, SERVER)):
        errors = examine((base + "secret ta.key\n").encode(), file="x", read_file=read_file).errors
        assert [error for error in errors if "static key mode" in str(error)]


def test_which_files_are_of_this_kind() -> None:
    assert looks_static(STATIC.encode()) and not looks_static(CLIENT.encode()) and not looks_static(b"<x")
