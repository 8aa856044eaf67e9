# SPDX-License-Identifier: BSD-2-Clause
"""Whoever answers for the server's name: addresses that are no machine's, too many, none, others each time."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.model import Proto, Remote
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.remotes import MAX_ADDRESSES
from tests.interop.pki import Pki
from tests.pair.test_client import Play
from tests.pair.world import client_config


def resolving(pki: Pki) -> tuple[Play, int]:
    play = Play(client_config(pki, remotes=(Remote("vpn.example", 1194, Proto.UDP),)))
    play.do(c.UserCommand(c.Command.CONNECT))
    return play, play.all[-1].request


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "239.1.2.3", "ff02::1", "ff0e::1"])
def test_what_is_no_machines_address_is_left_out(pki: Pki, text: str) -> None:
    play, request = resolving(pki)
    play.do(c.NameResolved(request, (ip_address(text), ip_address("192.0.2.9"))))
    assert play.all[-1].address == ip_address("192.0.2.9")
    play, request = resolving(pki)
    play.do(c.NameResolved(request, (ip_address(text),) * 50))
    assert not any(isinstance(effect, c.OpenTransport) for effect in play.all)


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "10.8.0.1", "192.168.1.1", "fe80::1", "169.254.1.1"])
def test_another_machines_address_is_tried_and_has_to_prove_itself(pki: Pki, text: str) -> None:
    """A server may stand in one's own network; what is no server does not come further than its certificate."""
    play, request = resolving(pki)
    assert play.do(c.NameResolved(request, (ip_address(text),)))[0].startswith("open")


def test_a_thousand_addresses_and_none(pki: Pki) -> None:
    play, request = resolving(pki)
    many = tuple(ip_address(0xC6336400 + n) for n in range(1000))
    play.do(c.NameResolved(request, many))
    for number in range(MAX_ADDRESSES + 3):
        opened = [effect for effect in play.all if isinstance(effect, c.OpenTransport)]
        assert len(opened) == min(number + 1, MAX_ADDRESSES)
        play.do(c.TransportDown(opened[-1].link, "refused"))
    play, request = resolving(pki)
    play.do(c.NameResolved(request, ()))
    assert play.client.next_deadline() is not None, "it is asked again after a pause"


def test_addresses_that_alternate_never_make_it_faster(pki: Pki) -> None:
    play, request = resolving(pki)
    began = play.now
    for number in range(10):
        play.do(c.NameResolved(request, (ip_address(f"192.0.2.{1 + number % 2}"),)))
        play.do(c.TransportDown(play.all[-1].link, "refused"))
        play.wait()
        request = play.all[-1].request
    assert play.now - began >= 1 + 2 + 4 + 8 + 16 + 32 + 64
