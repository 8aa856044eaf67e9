# SPDX-License-Identifier: BSD-2-Clause
"""A server's file for one client, and how it is found by the client's name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Interface, ip_network
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import ClientDir, OneClient
from qubes_miragevpn.config.perclient import load_one_client
from qubes_miragevpn.runtime.operating.perclient import ClientFiles


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", OneClient()),
        ("disable", OneClient(disabled=True)),
        (
            "ifconfig-push 10.8.0.77 255.255.255.0",
            OneClient(ifconfig=(IPv4Address("10.8.0.77"), IPv4Address("255.255.255.0"))),
        ),
        ("ifconfig-ipv6-push fd42:8::77/64", OneClient(ifconfig6=(IPv6Interface("fd42:8::77/64"), None))),
        (
            "ifconfig-ipv6-push fd42:8::77/64 fd42:8::1",
            OneClient(ifconfig6=(IPv6Interface("fd42:8::77/64"), IPv6Address("fd42:8::1"))),
        ),
        (
            "iroute 10.5.0.0 255.255.0.0\niroute-ipv6 fd05::/32\niroute 10.6.0.1",
            OneClient(networks=(ip_network("10.5.0.0/16"), ip_network("10.6.0.1"), ip_network("fd05::/32"))),
        ),
        (
            'push "a b"\npush-reset\npush "c d"\npush-remove c',
            OneClient(pushes=(("push", "a b"), ("reset", ""), ("push", "c d"), ("remove", "c"))),
        ),
    ],
)
def test_what_it_means(text: str, meant: OneClient) -> None:
    assert load_one_client(text.encode(), file="ccd/x") == meant


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\nserver 10.8.0.0 255.255.255.0", "ccd/x:2: 'server' has no meaning in a server's file for one client"),
        ("route 10.5.0.0 255.255.0.0", "ccd/x:1: 'route' has no meaning"),
        ("ifconfig-push 127.0.0.1 255.255.255.0", "ccd/x:1: this cannot be a client's address"),
        ("iroute 10.5.0.1 255.255.0.0", "10.5.0.1 is not the first address of its network (write 10.5.0.0"),
        ("iroute-ipv6 fd05::1/32", "fd05::1 is not the first address of its network"),
        ("config other", "ccd/x:1: "),
        ("disabled", "unknown directive 'disabled'"),
    ],
)
def test_errors_name_file_and_line(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_one_client(text.encode(), file="ccd/x")
    assert error in str(caught.value)


def test_pushes_are_changed_in_order() -> None:
    ours = OneClient(pushes=(("remove", "route 10."), ("push", "route 10.9.0.0")))
    assert ours.pushed(["ping 10", "route 10.1.0.0", "route 192.0.2.0"]) == [
        "ping 10",
        "route 192.0.2.0",
        "route 10.9.0.0",
    ]
    assert OneClient(pushes=(("push", "a"), ("reset", ""), ("push", "b"))).pushed(["c"]) == ["b"]


def test_a_file_is_found_by_name_and_read_anew(tmp_path: Path) -> None:
    (tmp_path / "ccd").mkdir()
    files = ClientFiles(ClientDir("ccd"), tmp_path)
    assert files("ada") is None
    (tmp_path / "ccd" / "DEFAULT").write_text("disable")
    assert files("ada") == OneClient(disabled=True)
    (tmp_path / "ccd" / "ada").write_text("push x")
    assert files("ada") == OneClient(pushes=(("push", "x"),))
    alone = ClientFiles(ClientDir("ccd", exclusive=True), tmp_path)
    assert alone("ada") is not None and alone("bob") is None


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../ada", "a/b", "a\0b", "x" * 256, "é" * 128, "DEFAULT"])
def test_a_name_that_is_no_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        ClientFiles(ClientDir("."), tmp_path)(name)


def test_what_cannot_be_read_refuses(tmp_path: Path) -> None:
    files = ClientFiles(ClientDir("."), tmp_path)
    (tmp_path / "ada").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        files("ada")
    with pytest.raises(ConfigError, match="no such directory"):
        ClientFiles(ClientDir("nowhere"), tmp_path)
