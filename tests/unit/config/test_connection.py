# SPDX-License-Identifier: BSD-2-Clause
"""What a <connection> block says counts for its remote alone, and for nothing else in the profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qubes_miragevpn.config.model import ClientConfig, Common, NoWrap, Proto, TlsAuth, TlsCrypt
from qubes_miragevpn.config.rows.row import NoEffect, Refused
from qubes_miragevpn.config.rows.table import ROWS
from tests.unit.config.texts import STATIC_KEY_FILE, client, client_errors, without

BASE = without("remote")
INLINE = f"<tls-crypt>\n{STATIC_KEY_FILE}</tls-crypt>\n"
OTHER_INLINE = f"<tls-auth>\n{STATIC_KEY_FILE}</tls-auth>\n"


def blocks(*texts: str, file: str = "") -> ClientConfig:
    lines = "".join(f"<connection>\nremote host{n}\n{text}\n</connection>\n" for n, text in enumerate(texts))
    loaded = client(base=BASE + file + lines)
    assert loaded.warnings == ()
    return loaded.config


def seen(config: ClientConfig, number: int) -> Common:
    return config.at(config.remotes[number]).common


def test_each_remote_has_its_own_settings() -> None:
    config = blocks(
        "mssfix 1300 mtu", "tun-mtu 1400", "connect-timeout 7", "server-poll-timeout 8", "explicit-exit-notify 2", "",
        file="tun-mtu 1450\nmssfix 1200 mtu\n",
    )  # fmt: skip
    assert [seen(config, n).mssfix for n in range(6)] == [1300, 1200, 1200, 1200, 1200, 1200]
    assert [seen(config, n).tun_mtu for n in range(6)] == [1450, 1400, 1450, 1450, 1450, 1450]
    assert [seen(config, n).timers.connect_timeout for n in range(6)] == [120, 120, 7, 8, 120, 120]
    assert seen(config, 4).explicit_exit_notify == 2 and seen(config, 5) is config.common
    assert config.common.timers.connect_timeout == 120, "the profile itself is as it was"


def test_identity_and_trust_are_the_profile_s() -> None:
    config = blocks("mssfix 1300", file="cert own.crt\nkey own.key\n")
    assert seen(config, 0).identity is config.common.identity and seen(config, 0).peer is config.common.peer


def test_a_wrap_of_its_own_takes_the_place_of_the_profile_s() -> None:
    config = blocks("", INLINE, "tls-auth ta.key 0", OTHER_INLINE + "key-direction 1", file="tls-auth ta.key 1\n")
    wraps = [seen(config, n).wrap for n in range(4)]
    assert isinstance(wraps[0], TlsAuth) and wraps[0].direction == 1
    assert isinstance(wraps[1], TlsCrypt)
    assert isinstance(wraps[2], TlsAuth) and wraps[2].direction == 0
    assert isinstance(wraps[3], TlsAuth) and wraps[3].direction == 1


def test_a_wrap_of_one_block_alone() -> None:
    config = blocks("", "tls-crypt ta.key")
    assert isinstance(seen(config, 0).wrap, NoWrap) and isinstance(seen(config, 1).wrap, TlsCrypt)


def test_the_same_value_as_the_profile_s_is_none_of_its_own() -> None:
    assert blocks("mssfix 1300", file="mssfix 1300\n").remotes[0].common is None


def test_remotes_stay_apart_from_their_settings() -> None:
    config = blocks("proto tcp\nport 7\nmssfix 1300")
    assert (config.remotes[0].proto, config.remotes[0].port) == (Proto.TCP, 7)


def test_what_is_no_setting_of_a_connection() -> None:
    for line in ("verb 3", "route 10.0.0.0", "cert own.crt", "auth-user-pass", "client", "ca ca.crt"):
        (error,) = client_errors(BASE + f"<connection>\nremote a\n{line}\n</connection>\n")
        assert "is not supported in a <connection> block (write it outside" in error


# What openvpn 2.6 accepts in a block (options.c: OPT_P_CONNECTION).
PER_CONNECTION = (
    "bind", "connect-retry", "connect-timeout", "explicit-exit-notify", "float", "fragment", "http-proxy",
    "http-proxy-option", "key-direction", "link-mtu", "local", "lport", "max-packet-size", "mssfix", "mtu-disc",
    "nobind", "port", "proto", "remote", "rport", "server-poll-timeout", "socks-proxy", "tls-auth", "tls-crypt",
    "tls-crypt-v2", "tun-mtu", "tun-mtu-extra",
)  # fmt: skip


@pytest.mark.parametrize("name", PER_CONNECTION)
def test_every_option_of_a_connection_may_stand_there_or_is_refused_for_what_it_is(name: str) -> None:
    row = ROWS[name]
    assert row.connection or isinstance(row.client, (NoEffect, Refused))


def test_the_document_says_so() -> None:
    text = (Path(__file__).parents[3] / "doc" / "options.md").read_text(encoding="utf-8")
    for name in PER_CONNECTION:
        row = ROWS[name]
        if isinstance(row.client, Refused):
            continue
        (line,) = re.findall(rf"^\| `{re.escape(row.name)}[ `].*$", text, re.M)
        assert re.search(r"\| [^|]*\(?B\)?[^|]* \|", line), line
