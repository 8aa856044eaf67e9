# SPDX-License-Identifier: BSD-2-Clause
"""The epoch format of OpenVPN 2.7 (``protocol-flags aead-epoch``): AEAD keys that follow each other by themselves.

DATA_V2 only, big endian; the tag is last, as libraries make it (OpenVPN's crypto.c, crypto_epoch.c)::

    op/kid 1 | peer-id 3 | epoch 2 | counter 6 | ciphertext | tag 16      AD = the first 12 bytes
    nonce      (epoch 2 | counter 6 | 0 0 0 0) XOR implicit IV 12

Epochs and counters begin at 1; 0 is invalid. A sender goes on to the next epoch before the key's usage limit, and when
the peer's key nears its own. A receiver holds the current key, the one before (retiring, with its own replay window)
and the `FUTURE` next ones. An authentic packet of a future epoch makes that the current one, and the sender follows it:
so one end can push the other on. Anything further ahead is dropped, whatever it says of itself: jumping exactly
`FUTURE` is legal, and nothing is ever asserted about it (CVE-2025-15497).

Limits: from epoch 0xF000 on the key is to be replaced. No key is kept for the last `FUTURE` + 1 epochs, as OpenVPN
does it. There is no packet-id limit, for the counter restarts with each epoch, and reaches 2^48 after the usage limit.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.crypto.epoch import LAST_EPOCH, EpochChain
from qubes_miragevpn.crypto.replay import ReplayWindow
from qubes_miragevpn.crypto.suites import Mode, Suite
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import MAX_FAILED_TAGS, RENEW_FAILED_TAGS, V2_HEADER, KeySlot, TooShort, Unreadable

FUTURE = 4
RENEW_EPOCH = 0xF000
LAST_RECEIVED_EPOCH = LAST_EPOCH - FUTURE - 1
MAX_COUNTER = (1 << 48) - 1
_BODY_AT = V2_HEADER + 8
_TAG_SIZE = 16
_BLOCK = 16


class UnknownEpoch(Unreadable):
    """A packet of an epoch whose key is not at hand: long past, too far ahead, or 0."""

    def __init__(self) -> None:
        super().__init__("packet of an epoch that is not at hand")


class _EpochReceiver:
    """One epoch's key for receiving."""

    __slots__ = ("blocks", "epoch", "iv", "open", "window")

    def __init__(self, chain: EpochChain, replay_window: int) -> None:
        aead, self.iv = chain.key()
        self.open = aead.open
        self.epoch = chain.epoch
        self.window = ReplayWindow(replay_window)
        self.blocks = 0


class EpochKey(KeySlot):
    """One key slot in the epoch format, both directions."""

    __slots__ = (
        "_blocks",
        "_counter",
        "_encrypt",
        "_future",
        "_receive_chain",
        "_replay_window",
        "_send_chain",
        "_send_iv",
        "current",
        "retiring",
    )

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        if suite.mode is not Mode.AEAD:
            raise MisuseError(f"the epoch format needs AEAD, which {suite.name} is not")
        super().__init__(key_id, suite, keys, peer_id, limits, entropy)
        self._replay_window = limits.replay_window
        self._send_chain = EpochChain(suite, keys.send.cipher_key)
        self._begin_sending()
        self._receive_chain = EpochChain(suite, keys.receive.cipher_key)
        self.current = _EpochReceiver(self._receive_chain, self._replay_window)
        self.retiring: _EpochReceiver | None = None
        self._future: dict[int, _EpochReceiver] = {}
        self._prepare_future()

    @property
    def send_epoch(self) -> int:
        """The epoch of what is sent."""
        return self._send_chain.epoch

    def address(self, peer_id: int) -> None:
        """As for other keys; without a peer id there is no epoch format."""
        if peer_id == NO_PEER_ID:
            raise MisuseError("the epoch format needs a peer id")
        super().address(peer_id)

    # --- sending

    def seal(self, plaintext: bytes) -> bytes:
        """Return `plaintext` as a packet, under the next epoch's key if this one has done its work."""
        if self._blocks + self._counter > self.usage_limit or self._counter >= MAX_COUNTER:
            self._iterate()
        self._counter += 1
        self._blocks += (len(plaintext) + _BLOCK - 1) // _BLOCK
        self.packets_sent += 1
        self.bytes_sent += len(plaintext)
        number = self._send_chain.epoch << 48 | self._counter
        head = self.header + number.to_bytes(8, "big")
        return head + self._encrypt((number << 32 ^ self._send_iv).to_bytes(12, "big"), plaintext, head)

    def _iterate(self) -> None:
        """Send under the next epoch from now on; after the last one `look` finds the key spent."""
        self.check_sent_at = 0
        if self._send_chain.epoch < LAST_EPOCH:
            self._send_chain.advance()
            self._begin_sending()

    def _begin_sending(self) -> None:
        aead, self._send_iv = self._send_chain.key()
        self._encrypt = aead.seal
        self._counter = 0
        self._blocks = 0

    # --- receiving

    def open(self, packet: bytes, body_at: int) -> bytes:
        """Return the plaintext of `packet`, and follow the sender into a later epoch once it is authentic."""
        if body_at != V2_HEADER or len(packet) <= _BODY_AT + _TAG_SIZE:
            raise TooShort
        number = int.from_bytes(packet[V2_HEADER:_BODY_AT], "big")
        key = self.current
        if number >> 48 != key.epoch:
            key = self._other(number >> 48)
        counter = number & MAX_COUNTER
        key.window.check(counter)
        plaintext = key.open((number << 32 ^ key.iv).to_bytes(12, "big"), packet[_BODY_AT:], packet[:_BODY_AT])
        key.window.mark(counter)
        key.blocks += (len(plaintext) + _BLOCK - 1) // _BLOCK
        self.packets_received += 1
        self.bytes_received += len(plaintext)
        if key.epoch > self.current.epoch:
            self._follow(key)
        if key.blocks + counter > self.usage_limit and self._send_chain.epoch == self.current.epoch:
            self._iterate()  # the peer overuses its key: move on, and it will follow
        return plaintext

    def _windows(self) -> list[ReplayWindow]:
        return [key.window for key in (self.current, self.retiring) if key is not None]

    def _other(self, epoch: int) -> _EpochReceiver:
        """The key of an epoch that is not the current one; raises `UnknownEpoch` if it is not at hand."""
        if self.retiring is not None and self.retiring.epoch == epoch:
            return self.retiring
        key = self._future.get(epoch)
        if key is None or epoch > LAST_RECEIVED_EPOCH:
            raise UnknownEpoch
        return key

    def _follow(self, key: _EpochReceiver) -> None:
        self.retiring, self.current = self.current, key
        self.failed_tags = 0
        for epoch in [epoch for epoch in self._future if epoch <= key.epoch]:
            del self._future[epoch]
        self._prepare_future()
        if self._send_chain.epoch < key.epoch:
            while self._send_chain.epoch < key.epoch:
                self._send_chain.advance()
            self._begin_sending()
        self.check_received_at = 0

    def _prepare_future(self) -> None:
        """Have the keys of the next `FUTURE` epochs at hand, none beyond the last epoch."""
        while self._receive_chain.epoch < min(self.current.epoch + FUTURE, LAST_EPOCH):
            self._receive_chain.advance()
            self._future[self._receive_chain.epoch] = _EpochReceiver(self._receive_chain, self._replay_window)

    # --- limits

    def look(self) -> bool:
        """Compare the counts with the limits, as `KeySlot.look` does, with epochs in place of packet ids."""
        if self.failed_tags > RENEW_FAILED_TAGS and self._send_chain.epoch == self.current.epoch:
            self._iterate()
        used_up = self._send_chain.epoch == LAST_EPOCH and self._blocks + self._counter > self.usage_limit
        self.spent = used_up or self.failed_tags > MAX_FAILED_TAGS
        bytes_left = self.reneg_bytes - self.bytes_sent - self.bytes_received
        packets_left = self.reneg_packets - self.packets_sent - self.packets_received
        step = max(1, min(packets_left, bytes_left // 65536, 1 << 24) // 2)
        self.check_sent_at = self.packets_sent + step
        self.check_received_at = self.packets_received + step
        return self.spent or min(bytes_left, packets_left) <= 0 or self._send_chain.epoch >= RENEW_EPOCH
