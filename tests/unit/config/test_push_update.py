# SPDX-License-Identifier: BSD-2-Clause
"""PUSH_UPDATE: what replaces what, the marks ``-`` and ``?``, and what takes a new connection."""

from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.config.pushed import MAX_BYTES, UPDATABLE, apply_update, parse_push
from qubes_miragevpn.config.rows.table import ROWS
from tests.unit.config.texts import client

REPLY = (
    "route 10.1.0.0 255.255.0.0",
    "route 10.2.0.0 255.255.0.0 vpn_gateway 5",
    "dhcp-option DNS 10.8.0.1",
    "redirect-gateway def1",
    "ifconfig 10.8.0.2 255.255.255.0",
    "peer-id 3",
    "cipher AES-256-GCM",
)


def names(options: tuple[str, ...]) -> list[str]:
    return [option.split()[0] for option in options]


def test_a_kind_that_is_named_replaces_all_of_that_kind() -> None:
    updated = apply_update(REPLY, ("route 10.3.0.0 255.255.0.0", "route 10.4.0.0 255.255.0.0"))
    assert names(updated.options).count("route") == 2 and "peer-id 3" in updated.options
    pulled = parse_push(updated.options, client().config, None)
    assert [route.network for route in pulled.tunnel.routes] == [IPv4Network("10.3.0.0/16"), IPv4Network("10.4.0.0/16")]
    assert pulled.peer_id == 3 and pulled.tunnel.redirect == frozenset({"def1"})


@pytest.mark.parametrize("mark", ["-", "-?", " -"])
def test_minus_takes_away(mark: str) -> None:
    updated = apply_update(REPLY, (f"{mark}route", f"{mark}dhcp-option"))
    assert names(updated.options) == ["redirect-gateway", "ifconfig", "peer-id", "cipher"]
    assert updated.ignored == ()


def test_removal_and_new_values_in_one_update() -> None:
    assert names(apply_update(REPLY, ("-route", "?route 10.9.0.0 255.255.0.0")).options).count("route") == 1


def test_redirect_private_replaces_redirect_gateway() -> None:
    assert "redirect-gateway def1" not in apply_update(REPLY, ("redirect-private",)).options


@pytest.mark.parametrize("name", ["cipher AES-128-GCM", "peer-id 4", "ping 5", "up /bin/sh", "nonsense", "setenv A b"])
def test_anything_else_takes_a_new_connection_unless_optional(name: str) -> None:
    with pytest.raises(PeerError, match="takes a new connection") as found:
        apply_update(REPLY, (name,))
    assert found.value.consequence is Consequence.END_SESSION
    updated = apply_update(REPLY, (f"?{name}", "-route"))
    assert updated.ignored == (name.split()[0],) and "route" not in names(updated.options)


@pytest.mark.parametrize("option", ["-", "?", "-?", "?-route", "--route", "??route", "- route", "-? route"])
def test_misplaced_marks(option: str) -> None:
    with pytest.raises(PeerError, match="misplaced marks"):
        apply_update(REPLY, (option,))


def test_updates_in_a_row_stay_bounded() -> None:
    options = REPLY
    with pytest.raises(PeerError, match="grow without end"):
        apply_update(options, ("route 10.0.0.0 255.0.0.0",) * (2 * MAX_BYTES // 24))


def test_empty_pieces_change_nothing() -> None:
    assert apply_update(REPLY, ("", "  ")).options == REPLY


def test_every_updatable_option_has_a_row() -> None:
    assert set(ROWS) >= UPDATABLE


@pytest.mark.parametrize("seed", range(10))
def test_any_update_is_taken_or_ends_the_session(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(200):
        words = [source.choice((*sorted(UPDATABLE), "cipher", "'", "\\", "\x00", "é")) for _ in range(3)]
        update = tuple(source.choice(("", "-", "?", "-?", "?-")) + " ".join(words[at:]) for at in range(3))
        try:
            options = apply_update(REPLY, update).options
        except PeerError as error:
            assert error.reason.isprintable()
        else:
            assert set(options) >= {"peer-id 3", "cipher AES-256-GCM"}
