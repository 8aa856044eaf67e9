# SPDX-License-Identifier: BSD-2-Clause
"""A key slot: one TLS session on its way from reset to key material.

The state is a sum type whose members hold exactly what they need; `phase_of` names it for the legality table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.digests import digest_size
from qubes_miragevpn.crypto.epoch import SECRET_SIZE
from qubes_miragevpn.crypto.kdf import EXPORTER_LABEL, KeySource, prf_key_material
from qubes_miragevpn.crypto.statickey import KEY2_SIZE, split_key2
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import DataKeys, DirectionKeys
from qubes_miragevpn.protocol.control.legality import Phase
from qubes_miragevpn.protocol.control.reliability import Reliability
from qubes_miragevpn.protocol.control.tls import TlsEndpoint


@dataclass(frozen=True)
class AwaitReset:
    """Our reset is queued; the peer's has not come."""


@dataclass(frozen=True)
class Handshaking:
    """TLS is being shaken hands on."""

    tls: TlsEndpoint


@dataclass(frozen=True)
class Exchanging:
    """TLS is up. A client has sent `own`, its part of key method 2; a server, which answers, has none (None)."""

    tls: TlsEndpoint
    own: KeySource | None


@dataclass(frozen=True)
class Judging:
    """A server has the client's part; the role decides whether to answer."""

    tls: TlsEndpoint


@dataclass(frozen=True)
class Established:
    """Both parts are known; control messages flow, data keys can be derived."""

    tls: TlsEndpoint
    client: KeySource
    server: KeySource


SlotState = AwaitReset | Handshaking | Exchanging | Judging | Established


@dataclass
class KeySlot:
    """One key id's control state. Times are those of the machine's clock."""

    key_id: int
    reliability: Reliability
    began: float
    state: SlotState
    established_at: float = 0.0
    use_by: float = float("inf")  # activate for sending at this time at the latest
    active: bool = False  # the data plane sends under it


def phase_of(slot: KeySlot | None) -> Phase:
    """The phase of `slot` for the legality table."""
    if slot is None:
        return Phase.VACANT
    match slot.state:
        case AwaitReset():
            return Phase.AWAIT_RESET
        case Handshaking():
            return Phase.HANDSHAKING
        case Exchanging() | Judging():
            return Phase.EXCHANGING
        case Established():
            return Phase.ESTABLISHED
        case other:
            assert_never(other)


def derive_keys(
    state: Established,
    suite: str,
    digest: str,
    *,
    ekm: bool,
    epoch: bool,
    server: bool,
    client_sid: bytes,
    server_sid: bytes,
) -> DataKeys:
    """Derive the data-channel keys: by TLS exporter if `ekm`, else by the PRF of key method 2.

    The client sends with key[0], the server with key[1] of the 256 bytes; the AEAD's implicit IV is the beginning
    of the half meant for the HMAC. `digest` is for suites that are not AEAD.
    With `epoch` the beginning of the half meant for the cipher is the first secret of a chain.
    """
    if ekm:
        material = state.tls.export(EXPORTER_LABEL, KEY2_SIZE)
    else:
        material = prf_key_material(state.client, state.server, client_sid, server_sid)
    halves = split_key2(material.reveal())
    facts = SUITES[suite]
    if facts.mode is Mode.AEAD:
        digest = ""
    hmac_size = digest_size(digest) if digest else 0
    cipher_size, iv_size = (SECRET_SIZE, 0) if epoch else (facts.key_size, facts.implicit_iv_size)
    directions = [
        DirectionKeys(
            Secret(h.cipher.reveal()[:cipher_size]),
            Secret(h.hmac.reveal()[:iv_size]),
            Secret(h.hmac.reveal()[:hmac_size]),
        )
        for h in halves
    ]
    send, receive = (directions[1], directions[0]) if server else (directions[0], directions[1])
    return DataKeys(suite, send, receive, digest, epoch)
