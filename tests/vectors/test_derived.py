# SPDX-License-Identifier: BSD-2-Clause
"""Numbers that nobody has published, worked out with another program: keys by PRF, CBC packets, the static key mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.kdf import KeySource, prf_key_material
from qubes_miragevpn.crypto.statickey import split_key2
from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.formats.choose import make_key
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, DirectionKeys, PeerLimits
from qubes_miragevpn.protocol.control.keyslot import Established, derive_keys

DERIVED = json.loads((Path(__file__).parent / "derived.json").read_text(encoding="utf-8"))
EXPANSION, PACKETS, STATIC = DERIVED["key_expansion"], DERIVED["packets"], DERIVED["static"]
PLAINTEXT, IV = bytes.fromhex(PACKETS["plaintext"]), bytes.fromhex(PACKETS["iv"])


def source(side: str, pre_master: str) -> KeySource:
    randoms = (bytes.fromhex(EXPANSION[f"{side}_random{number}"]) for number in (1, 2))
    return KeySource(Secret(bytes.fromhex(pre_master)), *randoms)


CLIENT, SERVER = source("client", EXPANSION["pre_master"]), source("server", "")
SIDS = bytes.fromhex(EXPANSION["client_sid"]), bytes.fromhex(EXPANSION["server_sid"])


def keys(suite: str, *, server: bool = False) -> DataKeys:
    tls: Any = None  # asked for the exporter only
    state = Established(tls, CLIENT, SERVER)
    return derive_keys(
        state, suite, "SHA256", ekm=False, epoch=False, server=server, client_sid=SIDS[0], server_sid=SIDS[1]
    )


def test_key_expansion() -> None:
    assert prf_key_material(CLIENT, SERVER, *SIDS).reveal().hex() == EXPANSION["key_material"]


@pytest.mark.parametrize(
    ("suite", "peer_id", "name"),
    [
        ("AES-256-CBC", 23, "AES-256-CBC SHA256 V2"), ("AES-256-CBC", NO_PEER_ID, "AES-256-CBC SHA256 V1"),
        ("none", 23, "none SHA256 V2"),
    ],
)  # fmt: skip
def test_packets_of_a_client_and_at_its_server(suite: str, peer_id: int, name: str) -> None:
    packet = bytes.fromhex(PACKETS[name])
    assert make_key(1, keys(suite), peer_id, PeerLimits(), lambda size: IV[:size]).seal(PLAINTEXT) == packet
    far = make_key(1, keys(suite, server=True), peer_id, PeerLimits(), lambda size: IV[:size])
    assert far.open(packet, 1 if peer_id == NO_PEER_ID else 4) == PLAINTEXT


def test_static_key_mode() -> None:
    half = split_key2(bytes.fromhex(EXPANSION["key_material"]))[0]
    size = SUITES[STATIC["cipher"]].key_size
    way = DirectionKeys(Secret(half.cipher.reveal()[:size]), hmac_key=Secret(half.hmac.reveal()[:20]))
    both = DataKeys(STATIC["cipher"], way, way, digest=STATIC["digest"], since=STATIC["time"])
    slot = make_key(0, both, NO_PEER_ID, PeerLimits(bare=True), lambda size: IV[:size])
    packet = bytes.fromhex(STATIC["packet"])
    assert slot.seal(PLAINTEXT) == packet
    assert slot.open(packet, 0) == PLAINTEXT
