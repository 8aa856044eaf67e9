# SPDX-License-Identifier: BSD-2-Clause
"""One key twice: as the reference makes it and as the native data plane does, asked the same and compared."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.digests import digest_size
from qubes_miragevpn.crypto.epoch import EpochChain
from qubes_miragevpn.crypto.replay import Replayed
from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.formats.choose import make_key
from qubes_miragevpn.dataplane.formats.epoch import EpochKey, _EpochReceiver
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, DirectionKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import (
    DATA_V1,
    DATA_V2,
    RENEW_FAILED_TAGS,
    V1_HEADER,
    V2_HEADER,
    KeySlot,
    Unreadable,
)

try:
    from qubes_miragevpn.dataplane import _native
except ImportError:  # those who use it bear the marker `needs_native`
    _native = None  # type: ignore[assignment]

Outcome = bytes | str
"""A payload, or the counter of a packet that was dropped."""


@dataclass(frozen=True)
class Case:
    """A format: what a key is made of, but for the bytes."""

    suite: str
    digest: str = ""
    epoch: bool = False
    since: int = 0
    peer_id: int = 0x010203

    def __str__(self) -> str:
        form = "epoch" if self.epoch else "static" if self.since else "v1" if self.peer_id == NO_PEER_ID else "v2"
        return "-".join(filter(None, (self.suite, self.digest, form)))


AEAD = ("AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305")
CBC = ("AES-128-CBC", "AES-192-CBC", "AES-256-CBC")
DIGESTS = (
    "SHA1", "SHA224", "SHA256", "SHA384", "SHA512", "SHA512-224", "SHA512-256", "SHA3-224", "SHA3-256", "SHA3-384",
    "SHA3-512", "BLAKE2b512", "BLAKE2s256", "SM3", "MD5", "RIPEMD160",
)  # fmt: skip
CASES = (
    *(Case(suite, peer_id=peer_id) for suite in AEAD for peer_id in (0x010203, NO_PEER_ID)),
    *(Case(suite, epoch=True) for suite in AEAD),
    *(Case(suite, "SHA256", peer_id=peer_id) for suite in CBC for peer_id in (0, NO_PEER_ID)),
    *(Case("AES-256-CBC", digest) for digest in DIGESTS),
    *(Case(suite, "SHA512", since=1_700_000_000) for suite in CBC),
    *(Case("none", "SHA1", peer_id=peer_id) for peer_id in (5, NO_PEER_ID)),
)


def _way(case: Case, chance: random.Random) -> DirectionKeys:
    suite = SUITES[case.suite]
    return DirectionKeys(
        Secret(chance.randbytes(32 if case.epoch else suite.key_size)),
        Secret(chance.randbytes(suite.implicit_iv_size)),
        Secret(chance.randbytes(digest_size(case.digest) if case.digest else 0)),
    )


class Reference:
    """A key slot of the reference, looked after as `DataChannel` does."""

    def __init__(self, keys: DataKeys, case: Case, limits: PeerLimits, seed: int) -> None:
        self.bare = bool(case.since)
        self.key: KeySlot = make_key(3, keys, case.peer_id, limits, random.Random(seed).randbytes)
        self._exhausted = False

    def seal(self, payload: bytes) -> Outcome:
        if self.key.spent or not payload:
            return "other"
        packet = self.key.seal(payload)
        if self.key.packets_sent >= self.key.check_sent_at:
            self._look()
        return packet

    def open(self, packet: bytes, now: float) -> Outcome:
        body_at = 0 if self.bare else {DATA_V1: V1_HEADER, DATA_V2: V2_HEADER}.get(packet[0] >> 3 if packet else 0)
        if body_at is None or self.key.spent:
            return "other"
        if now >= self.key.age_at:
            self.key.age(now)
        try:
            payload = self.key.open(packet, body_at)
        except Replayed:
            return "replay"
        except Unreadable:
            return "other"
        except PeerError:
            self.key.failed_tags += 1
            if self.key.failed_tags > RENEW_FAILED_TAGS:
                self._look()
            return "auth"
        if self.key.packets_received >= self.key.check_received_at:
            self._look()
        return payload

    def take_exhausted(self) -> bool:
        found, self._exhausted = self._exhausted, False
        return found

    def counts(self) -> tuple[tuple[int, int], tuple[int, int], bool]:
        key = self.key
        return (key.packets_sent, key.bytes_sent), (key.packets_received, key.bytes_received), key.spent

    def _look(self) -> None:
        if self.key.look() and not self.key.exhaustion_reported:
            self.key.exhaustion_reported = self._exhausted = True

    def start(self, packets_sent: int = 0, failed_tags: int = 0, usage_limit: int | None = None) -> None:
        """Begin the life of the key later, as `Key` of the native module does with such arguments."""
        self.key.packets_sent, self.key.failed_tags = packets_sent, failed_tags
        if usage_limit is not None:
            self.key.usage_limit = usage_limit


class Native:
    """The same of the native data plane."""

    def __init__(self, keys: DataKeys, case: Case, limits: PeerLimits, seed: int, **start: Any) -> None:
        ways = [
            (way.cipher_key.reveal(), way.implicit_iv.reveal(), way.hmac_key.reveal())
            for way in (keys.send, keys.receive)
        ]
        self.key = _native.Key(
            3, keys.suite, ways[0], ways[1], random.Random(seed).randbytes,
            digest=keys.digest, epoch=keys.epoch, since=keys.since, peer_id=case.peer_id,
            replay_window=limits.replay_window, replay_time=limits.replay_time,
            reneg_bytes=limits.reneg_bytes, reneg_packets=limits.reneg_pkts,
            **start,
        )  # fmt: skip

    def seal(self, payload: bytes) -> Outcome:
        try:
            return self.key.seal(payload)
        except _native.Refused as refused:
            return str(refused.args[0])

    def open(self, packet: bytes, now: float) -> Outcome:
        try:
            return self.key.open(packet, now)
        except _native.Refused as refused:
            return str(refused.args[0])

    def take_exhausted(self) -> bool:
        return self.key.take_exhausted()

    def counts(self) -> tuple[tuple[int, int], tuple[int, int], bool]:
        return self.key.sent, self.key.received, self.key.spent


class Twins:
    """Both of them; every answer is compared, and what a look at the limits found, too."""

    def __init__(
        self, keys: DataKeys, case: Case, limits: PeerLimits, seed: int, *, epoch: int = 0, **start: Any
    ) -> None:
        self.reference = Reference(keys, case, limits, seed)
        self.reference.start(**start)
        if epoch:
            self._forward(keys, epoch)
        self.native = Native(keys, case, limits, seed, start_epoch=epoch, **start)
        self.exhausted = False  # whether the last packet made the key report that

    def _forward(self, keys: DataKeys, epoch: int) -> None:
        """Bring the fresh key of the reference to `epoch`, both directions."""
        key = self.reference.key
        assert isinstance(key, EpochKey)
        sending, receiving = key._send_chain, EpochChain(key._suite, keys.receive.cipher_key)
        while sending.epoch < epoch:
            sending.advance()
            receiving.advance()
        key._begin_sending()
        key._receive_chain = receiving
        key.current = _EpochReceiver(receiving, key._replay_window)
        key._future.clear()
        key._prepare_future()

    def seal(self, payload: bytes) -> Outcome:
        sealed = self.reference.seal(payload)
        assert self.native.seal(payload) == sealed
        self._compare()
        return sealed

    def open(self, packet: bytes, now: float = 0.0) -> Outcome:
        opened = self.reference.open(packet, now)
        assert self.native.open(packet, now) == opened, packet.hex()
        self._compare()
        return opened

    def _compare(self) -> None:
        assert self.native.counts() == self.reference.counts()
        exhausted = self.reference.take_exhausted()
        assert self.native.take_exhausted() == exhausted
        self.exhausted = exhausted


def make_twins(case: Case, seed: int, limits: PeerLimits | None = None, **start: Any) -> tuple[Twins, Twins]:
    """Both ends of a tunnel, each of them twice."""
    limits = limits or PeerLimits()
    chance = random.Random(f"{case} {seed}")
    keys = DataKeys(case.suite, _way(case, chance), _way(case, chance), case.digest, case.epoch, case.since)
    other = replace(keys, send=keys.receive, receive=keys.send)
    return Twins(keys, case, limits, seed, **start), Twins(other, case, limits, seed + 1, **start)
