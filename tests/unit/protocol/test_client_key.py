# SPDX-License-Identifier: BSD-2-Clause
"""tls-crypt-v2 on the wire: the wrapped key at the end of packets, early negotiation, what a server's door lets in."""

from __future__ import annotations

import pytest

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Frequency, NoWrap, TlsAuth, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server
from qubes_miragevpn.crypto.wrappedkey import timestamp_metadata, user_metadata, wrap_client_key
from qubes_miragevpn.protocol.serving.admission import Admission, needs_state
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.clientkey import client_keys, server_door
from qubes_miragevpn.protocol.wrap.keys import Stamp
from tests.pair.link import flip

ISSUED = 1_700_000_000
DAY = 86400
SERVER_KEY, KEY = Secret(bytes(range(128))), Secret(bytes(range(256)))
WRAPPED = wrap_client_key(SERVER_KEY, KEY, timestamp_metadata(ISSUED))
CLIENT = TlsCryptV2Client(KEY, WRAPPED)
FIRST = Stamp(earlyneg.FIRST_PACKET_ID, 5)
RESET = Head(Opcode.HARD_RESET_CLIENT_V3, 0, b"client!!")
NOTHING = Body((), None, 0).encode()
V3 = client_keys(CLIENT).seal(RESET, FIRST, NOTHING)


def door(now: int = ISSUED, **changes: object):  # type: ignore[no-untyped-def]
    return server_door(TlsCryptV2Server(SERVER_KEY, **changes), lambda: now)  # type: ignore[arg-type]


def test_a_first_packet_bears_the_wrapped_key_at_its_end() -> None:
    assert V3.endswith(WRAPPED) and len(V3) == 54 + len(WRAPPED)
    opened = door().open(V3)
    assert (opened.head, opened.stamp, opened.body) == (RESET, FIRST, NOTHING)


@pytest.mark.parametrize("opcode", [Opcode.CONTROL, Opcode.ACK, Opcode.SOFT_RESET])
def test_other_packets_do_not(opcode: Opcode) -> None:
    packet = client_keys(CLIENT).seal(Head(opcode, 0, b"client!!"), FIRST, NOTHING)
    assert packet[-16:] not in WRAPPED and len(packet) == 54
    keys = door().open(V3).keys
    assert keys.open(packet).head.opcode is opcode
    with pytest.raises(PeerError, match="without a client key"):
        door().open(packet)
    with pytest.raises(PeerError):  # whoever appends the key to a packet that has none
        keys.open(packet + WRAPPED)


def test_every_bit_flip_and_truncation_of_a_first_packet_is_refused() -> None:
    damaged = [flip(V3, bit) for bit in range(8 * len(V3))] + [V3[:size] for size in range(len(V3))]
    damaged += [V3 + b"\0", V3 + WRAPPED, V3[:54] + WRAPPED[:-1]]
    for one in damaged:
        with pytest.raises(PeerError) as caught:
            door().open(one)
        assert caught.value.consequence is Consequence.DROP


@pytest.mark.parametrize("size", [0, 1, 289, 290, 1024, 1025, 65535])
def test_a_wrapped_key_of_made_up_length(size: int) -> None:
    for length in (54, 54 + 290, 1250):
        with pytest.raises(PeerError):
            door().open(bytes((10 << 3,)) + bytes(length - 3) + size.to_bytes(2, "big"))


def test_a_sessions_key_is_not_exchanged() -> None:
    """Another valid key, or another wrapping of the same key, on a packet of a running session."""
    keys = door().open(V3).keys
    assert keys.open(V3).head == RESET
    rewrapped = wrap_client_key(SERVER_KEY, KEY, user_metadata(b"other"))
    other = client_keys(TlsCryptV2Client(KEY, rewrapped)).seal(RESET, FIRST, NOTHING)
    assert door().open(other).head == RESET
    with pytest.raises(PeerError, match="another one"):
        keys.open(other)


@pytest.mark.parametrize("config", [NoWrap(), TlsAuth(KEY, None, "SHA256"), TlsCrypt(KEY)])
@pytest.mark.parametrize("opcode", [Opcode.HARD_RESET_CLIENT_V3, Opcode.CONTROL_WKC])
def test_without_tls_crypt_v2_its_opcodes_are_refused(config: NoWrap | TlsAuth | TlsCrypt, opcode: Opcode) -> None:
    with pytest.raises(PeerError, match="without tls-crypt-v2"):
        server_door(config, lambda: 0).open(bytes((opcode << 3,)) + V3[1:])


def test_beside_a_static_key() -> None:
    static = TlsCrypt(Secret(bytes(255) + b"\1"))
    packet = client_keys(static).seal(Head(Opcode.HARD_RESET_CLIENT, 0, b"client!!"), Stamp(1, 5), NOTHING)
    assert door(beside=static).open(packet).head.opcode is Opcode.HARD_RESET_CLIENT
    assert door(beside=static).open(V3).head == RESET
    with pytest.raises(PeerError):
        door().open(packet)


@pytest.mark.parametrize(("days", "good"), [(29, True), (30, True), (31, False)])
def test_age_of_a_client_key(days: int, good: bool) -> None:
    judge = door(ISSUED + days * DAY, max_age_days=30)
    if good:
        judge.open(V3)
        return
    with pytest.raises(PeerError, match="too old"):
        judge.open(V3)


@pytest.mark.parametrize("metadata", [b"", user_metadata(b"x"), b"\1short", b"\2" + bytes(8)])
def test_a_client_key_that_does_not_tell_its_age(metadata: bytes) -> None:
    wrapped = wrap_client_key(SERVER_KEY, KEY, metadata)
    packet = client_keys(TlsCryptV2Client(KEY, wrapped)).seal(RESET, FIRST, NOTHING)
    door().open(packet)
    with pytest.raises(PeerError, match="does not tell"):
        door(max_age_days=30).open(packet)


def test_a_key_of_the_other_role_is_a_bug() -> None:
    with pytest.raises(MisuseError):
        client_keys(TlsCryptV2Server(SERVER_KEY))
    with pytest.raises(MisuseError):
        server_door(CLIENT, lambda: 0)


# --- early negotiation

ASK = bytes.fromhex("000100020001")


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ("", False),
        ("000100020001", True),
        ("000100020003", True),  # with a flag that nobody knows yet
        ("000100020000", False),
        ("000100020002", False),
        ("00070000", False),
        ("0007000301020300010002 0001", True),
        ("000100020001000100020000", True),  # twice
        ("7fff0001aa", False),
    ],
)
def test_payload_of_a_servers_reset(payload: str, wanted: bool) -> None:
    assert earlyneg.wrapped_key_wanted(bytes.fromhex(payload)) is wanted


@pytest.mark.parametrize("payload", ["00", "0001", "000100", "00010002", "0001000200", "0001000100", "00010000",
                                     "000100030000 01", "0007ffff00", "00010002000100"])  # fmt: skip
def test_malformed_payload_of_a_servers_reset(payload: str) -> None:
    with pytest.raises(PeerError) as caught:
        earlyneg.wrapped_key_wanted(bytes.fromhex(payload))
    assert caught.value.consequence is Consequence.DROP


@pytest.mark.parametrize(
    ("packet_id", "announced"),
    [(0x0F000001, True), (0x0F00FFFF, True), (0xFF000001, True), (1, False), (0x0E000001, False), (0x07FFFFFF, False)],
)
def test_who_takes_part(packet_id: int, announced: bool) -> None:
    assert earlyneg.announced(packet_id) is announced
    packet = client_keys(CLIENT).seal(RESET, Stamp(packet_id, 5), NOTHING)
    assert needs_state(door().open(packet)) is not announced


def test_the_answer_asks_for_the_key_and_is_smaller_than_the_question() -> None:
    gate = Admission(b"k" * 32, 60.0, Frequency(100, 10.0))
    reply = gate.answer_reset(door().open(V3), (0, ("192.0.2.1", 4000)), 0.0, 7)
    assert len(reply) == 72 < len(V3)
    opened = client_keys(CLIENT).open(reply)
    body = read_body(opened.head.opcode, opened.body)
    assert opened.head.opcode is Opcode.HARD_RESET_SERVER and opened.stamp == Stamp(1, 7)
    assert (body.acks, body.remote_sid, body.message_id, body.payload) == ((0,), b"client!!", 0, ASK)
