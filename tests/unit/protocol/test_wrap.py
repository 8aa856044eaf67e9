# SPDX-License-Identifier: BSD-2-Clause
"""Control-channel protection: captured packets, every truncation and bit flip, replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ControlWrap, NoWrap, TlsAuth, TlsCrypt
from qubes_miragevpn.crypto.ctr import aes256_ctr
from qubes_miragevpn.crypto.digests import hmac_digest
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp, WrapKeys, wrap_keys
from qubes_miragevpn.protocol.wrap.state import WrapState
from tests.pair.link import flip

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "control_channel.json").read_text())
KEY = Secret(bytes.fromhex("".join(VECTORS["static_key"]["lines"])))
RESET_AUTH = bytes.fromhex(VECTORS["packets"]["client_reset_tls_auth"])
RESET_CRYPT = bytes.fromhex(VECTORS["packets"]["client_reset_tls_crypt"])
HELLO_AUTH = bytes.fromhex("".join(VECTORS["control_tls_auth"]["packet"]))
RESET = Body((), None, 0)

AUTH_SERVER, AUTH_CLIENT = TlsAuth(KEY, 0, "SHA1"), TlsAuth(KEY, 1, "SHA1")
PROTECTED: dict[str, tuple[ControlWrap, ControlWrap]] = {  # client's, server's
    "tls-auth 1/0": (AUTH_CLIENT, AUTH_SERVER),
    "tls-auth both ways": (TlsAuth(KEY, None, "SHA256"), TlsAuth(KEY, None, "SHA256")),
    "tls-auth SHA512": (TlsAuth(KEY, 1, "SHA512"), TlsAuth(KEY, 0, "SHA512")),
    "tls-crypt": (TlsCrypt(KEY), TlsCrypt(KEY)),
}


def ends(name: str) -> tuple[WrapKeys, WrapKeys]:
    ours, theirs = PROTECTED[name]
    return wrap_keys(ours, server=False), wrap_keys(theirs, server=True)


def test_captured_tls_auth_reset() -> None:
    opened = wrap_keys(AUTH_SERVER, server=True).open(RESET_AUTH)
    assert opened.head == Head(Opcode.HARD_RESET_CLIENT, 0, bytes.fromhex("de694c5c7bfba274"))
    assert opened.stamp == Stamp(1, 0x61D3BF6C)
    assert read_body(opened.head.opcode, opened.body) == RESET


def test_captured_tls_crypt_reset() -> None:
    opened = wrap_keys(TlsCrypt(KEY), server=True).open(RESET_CRYPT)
    assert opened.head == Head(Opcode.HARD_RESET_CLIENT, 0, bytes.fromhex("f419cb12d1f9e48f"))
    assert opened.stamp == Stamp(1, 0x61D3F8E1)
    assert read_body(opened.head.opcode, opened.body) == RESET


def test_captured_hello_under_tls_auth() -> None:
    opened = wrap_keys(AUTH_SERVER, server=True).open(HELLO_AUTH)
    body = read_body(opened.head.opcode, opened.body)
    assert opened.stamp == Stamp(3, 0x61D3FF53)
    assert (body.acks, body.message_id, body.payload[:3], len(body.payload)) == ((), 1, b"\x16\x03\x01", 5 + 0x10C)


def test_we_seal_the_captured_packets_byte_for_byte() -> None:
    for config, packet in ((AUTH_CLIENT, RESET_AUTH), (TlsCrypt(KEY), RESET_CRYPT)):
        server = AUTH_SERVER if config is AUTH_CLIENT else config
        opened = wrap_keys(server, server=True).open(packet)
        assert opened.stamp is not None
        assert wrap_keys(config, server=False).seal(opened.head, opened.stamp, opened.body) == packet


def test_published_tls_crypt_ciphertext() -> None:
    vector = VECTORS["tls_crypt_wrap"]
    key = bytes.fromhex(vector["key_byte"]) * 32
    plain = vector["plaintext"].encode()
    tag = hmac_digest("SHA256", key, bytes.fromhex(vector["stamp"]) + plain)
    assert tag.hex() == vector["tag"]
    assert aes256_ctr(key, tag[:16], plain) == bytes.fromhex(vector["ciphertext"])


@pytest.mark.parametrize(
    ("config", "packet"),
    [
        (TlsCrypt(KEY), RESET_AUTH),
        (TlsCrypt(KEY), bytes.fromhex(VECTORS["packets"]["client_reset_none"])),
        (AUTH_SERVER, RESET_CRYPT),
        (AUTH_SERVER, bytes.fromhex(VECTORS["packets"]["client_reset_none"])),
        (AUTH_CLIENT, RESET_AUTH),  # the wrong direction
        (TlsAuth(KEY, None, "SHA1"), RESET_AUTH),
        (TlsAuth(KEY, 0, "SHA256"), RESET_AUTH),
    ],
)
def test_protection_of_another_kind_is_refused(config: ControlWrap, packet: bytes) -> None:
    with pytest.raises(PeerError):
        wrap_keys(config, server=True).open(packet)


@pytest.mark.parametrize(
    ("config", "packet"), [(AUTH_SERVER, RESET_AUTH), (AUTH_SERVER, HELLO_AUTH), (TlsCrypt(KEY), RESET_CRYPT)]
)
def test_every_bit_flip_and_every_truncation_is_refused(config: ControlWrap, packet: bytes) -> None:
    keys = wrap_keys(config, server=True)
    damaged = [flip(packet, bit) for bit in range(8 * len(packet))]
    damaged += [packet[:size] for size in range(len(packet))] + [packet + b"\0"]
    for one in damaged:
        with pytest.raises(PeerError) as caught:
            keys.open(one)
        assert caught.value.consequence is Consequence.DROP


@pytest.mark.parametrize("name", PROTECTED)
def test_each_direction_reads_the_other_and_not_itself(name: str) -> None:
    client, server = ends(name)
    head, body = Head(Opcode.CONTROL, 3, b"12345678"), Body((), None, 7, b"tls").encode()
    for sender, receiver in ((client, server), (server, client)):
        packet = sender.seal(head, Stamp(9, 1234), body)
        assert len(packet) == 9 + len(body) + sender.overhead
        opened = receiver.open(packet)
        assert (opened.head, opened.stamp, opened.body) == (head, Stamp(9, 1234), body)
        if name != "tls-auth both ways":
            with pytest.raises(PeerError):
                sender.open(packet)


def test_no_protection_is_no_protection() -> None:
    keys = wrap_keys(NoWrap(), server=True)
    packet = bytes.fromhex(VECTORS["packets"]["client_reset_none"])
    opened = keys.open(packet)
    assert opened.stamp is None and opened.body == packet[9:] and keys.overhead == 0
    assert keys.seal(opened.head, Stamp(1, 1), opened.body) == packet


# --- the moving part


def take(state: WrapState, packet: bytes) -> Opened:
    opened = state.open(packet)
    state.admit(opened)
    return opened


HEAD = Head(Opcode.CONTROL, 0, b"12345678")
BODY = Body((), None, 1, b"tls").encode()


@pytest.mark.parametrize("name", PROTECTED)
def test_a_replay_is_refused_and_a_fresh_seal_is_not(name: str) -> None:
    client, server = ends(name)
    sender, receiver = WrapState(client, started=100), WrapState(server, started=100)
    first, second = sender.seal(HEAD, BODY), sender.seal(HEAD, BODY)
    assert first != second
    take(receiver, second)
    take(receiver, first)  # late, but not seen
    for packet in (first, second):
        with pytest.raises(PeerError, match="replay"):
            take(receiver, packet)


def test_a_forgery_does_not_move_the_window() -> None:
    client, server = ends("tls-crypt")
    receiver = WrapState(server, started=100)
    later = wrap_keys(TlsCrypt(KEY), server=False).seal(HEAD, Stamp(5000, 9999), BODY)
    with pytest.raises(PeerError):
        take(receiver, flip(later, 8 * len(later) - 1))
    take(receiver, client.seal(HEAD, Stamp(1, 100), BODY))


# packet ids and times in the order of arrival; "!" marks the refused ones
ARRIVALS = [
    "1@5 2@5 3@5",
    "3@5 1@5 2@5 2@5!",
    "0@5!",
    "1@5 1@4! 2@5",  # an older numbering
    "9@5 1@6 9@5! 2@6",  # a new numbering ends the old one
    "64@5 1@5 65@5 1@5!",
    "65@5 1@5!",  # beyond the window of 64
    "4294967295@5 4294967232@5 4294967231@5!",
    "1@4294967295 2@4294967295 1@0!",
]


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_window_over_time_and_id(arrivals: str) -> None:
    client, server = ends("tls-crypt")
    receiver = WrapState(server, started=0)
    for arrival in arrivals.split():
        packet_id, time = map(int, arrival.rstrip("!").split("@"))
        packet = client.seal(HEAD, Stamp(packet_id, time), BODY)
        if arrival.endswith("!"):
            with pytest.raises(PeerError):
                take(receiver, packet)
        else:
            take(receiver, packet)


def test_the_counter_ends_the_session_and_never_wraps() -> None:
    state = WrapState(wrap_keys(TlsCrypt(KEY), server=False), started=5, first_id=0xFFFFFFFF)
    state.seal(HEAD, BODY)
    for _ in range(2):
        with pytest.raises(PeerError) as caught:
            state.seal(HEAD, BODY)
        assert caught.value.consequence is Consequence.END_SESSION


@pytest.mark.parametrize("started", [-5, 0, 2**31, 2**32 - 1, 2**32, 2**40])
def test_any_wall_clock_fits_the_stamp(started: int) -> None:
    client, server = ends("tls-crypt")
    packet = WrapState(client, started=started).seal(HEAD, BODY)
    assert WrapState(server, started=0).open(packet).stamp == Stamp(1, started % 2**32)
